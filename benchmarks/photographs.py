"""Photographs that come inside scikit-image and scikit-learn, and random pieces of them."""

import pathlib

import numpy as np

# Those of scikit-image's wheel that show a scene; textures, micrographs, drawings are left out.
NAMES = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "motorcycle_right.png",
)


def load() -> list[np.ndarray]:
    """The photographs, uint8 `(height, width, 3)`; gray ones in three equal channels."""
    import PIL.Image
    import skimage
    from sklearn.datasets import load_sample_images

    folder = pathlib.Path(skimage.__file__).parent / "data"
    opened = [PIL.Image.open(folder / name).convert("RGB") for name in NAMES]
    return [np.asarray(image) for image in opened] + list(load_sample_images().images)


def crops(
    photographs: list[np.ndarray],
    count: int,
    generator: np.random.Generator,
    size: int = 224,
    resized: int | None = None,
) -> np.ndarray:
    """Square pieces, each of another photograph as long as there are any.

    Args:
        photographs: as `load` returns them.
        count: int, pieces.
        generator: chooses photographs and places.
        size: int, side of a piece before it is resized.
        resized: int, side afterwards; None leaves it.

    Returns:
        uint8 `(count, side, side, 3)`.
    """
    import PIL.Image

    order: list[int] = []
    while len(order) < count:
        order.extend(generator.permutation(len(photographs)).tolist())
    pieces = []
    for i in order[:count]:
        height, width = photographs[i].shape[:2]
        y, x = generator.integers(0, height - size + 1), generator.integers(0, width - size + 1)
        piece = photographs[i][y : y + size, x : x + size]
        if resized is not None:
            shrunk = PIL.Image.fromarray(piece).resize((resized, resized), PIL.Image.Resampling.BOX)
            piece = np.asarray(shrunk)
        pieces.append(piece)
    return np.stack(pieces)
