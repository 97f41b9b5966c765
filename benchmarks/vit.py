"""What every side trains: the sizes of the ViT, and made-up images of its shape.

Needs NumPy alone; the peers' environment imports it too.
"""

from typing import Any

IMAGE_SIZE = 28
PATCH_SIZE = 4
TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
WIDTH = 96
HEADS = 4
BLOCKS = 6
MLP_RATIO = 4
CLASSES = 10
BATCH_SIZE = 64

# About Fashion-MNIST's 60,000, which sampling pays for; a multiple of 256, so that no epoch ends
# with a smaller batch, which XLA would compile once more.
RECORDS = 60_160

# Enough that no run comes to its end.
EPOCHS = 100_000

LEARNING_RATE = 1e-3
NOISE_MULTIPLIER = 1.0
L2_NORM_CLIP = 1.0


def made_up_data(records: int, image_shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Uniform pixels, uint8 `(records, *image_shape)`, and int64 labels `(records,)`."""
    import numpy as np

    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (records, *image_shape), dtype=np.uint8)
    return images, generator.integers(0, CLASSES, records)
