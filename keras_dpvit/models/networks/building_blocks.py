"""Building blocks of the comparison networks: convolutions and normalisation as in their code."""

from typing import Any

import keras


def conv(x: Any, filters: int, size: int, stride: int = 1, use_bias: bool = False) -> Any:
    """A convolution with He's initial weights; same padding unless the stride is the size."""
    return keras.layers.Conv2D(
        filters,
        size,
        strides=stride,
        padding="valid" if stride == size else "same",
        use_bias=use_bias,
        kernel_initializer="he_normal",
    )(x)


def batch_norm(x: Any) -> Any:
    """Batch normalisation with the constants of PyTorch, which the published figures used."""
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)


def image_input(image_shape: tuple[int, int, int]) -> tuple[Any, Any]:
    """The input, pixels 0..255, and the same between 0 and 1."""
    images = keras.Input(image_shape, name="images")
    return images, keras.layers.Rescaling(1 / 255, name="rescaling")(images)


def classifier(images: Any, x: Any, num_classes: int, name: str) -> Any:
    """A model that ends in the mean over places and logits."""
    x = keras.layers.GlobalAveragePooling2D(name="pooler")(x)
    logits = keras.layers.Dense(num_classes, name="logits", dtype="float32")(x)
    return keras.Model(images, logits, name=name)
