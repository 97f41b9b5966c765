"""A small convolutional network, to train from random weights beside the transformers."""

from typing import Any

import keras

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.models.backbone import check_image_shape

_LEAST_SIDE = 16


def small_cnn(image_shape: tuple[int, int, int], num_classes: int) -> Any:
    """Two convolutions and two linear layers, with bounded activations, for `make_private`.

    The network with which Papernot et al. (2021, arXiv:2007.14191) train MNIST and Fashion-MNIST
    privately: tanh keeps gradients short, so that clipping takes less of them. No normalisation:
    nothing in it mixes examples.

    Args:
        image_shape: (height, width, channels), sides of at least 16; pixels 0..255.
        num_classes: int.

    Returns:
        A plain Keras model from images to logits `(batch, num_classes)`.

    Raises:
        InputError: on sizes out of range.

    Example:
        >>> model = kd.make_private(kd.small_cnn((32, 32, 3), num_classes=10))
        >>> model.predict(np.zeros((2, 32, 32, 3)), verbose=0).shape
        (2, 10)
    """
    height, width, channels = check_image_shape(image_shape)
    if min(height, width) < _LEAST_SIDE:
        raise InputError(
            f"image_shape must have sides of at least {_LEAST_SIDE}, got {tuple(image_shape)}."
        )
    num_classes = _validate.positive_int(num_classes=num_classes)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((height, width, channels), name="images"),
            layers.Rescaling(1 / 127.5, offset=-1.0),
            layers.Conv2D(16, 8, strides=2, padding="same", activation="tanh"),
            layers.MaxPooling2D(2, strides=1),
            layers.Conv2D(32, 4, strides=2, activation="tanh"),
            layers.MaxPooling2D(2, strides=1),
            layers.Flatten(),
            layers.Dense(32, activation="tanh"),
            layers.Dense(num_classes, name="logits", dtype="float32"),
        ],
        name="small_cnn",
    )
