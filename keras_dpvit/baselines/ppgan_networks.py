"""The parts of a private GAN: fixed features, a generator, and a linear discriminator."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dpvit._types import Array
from keras_dpvit.models.classifier import DPViTClassifier

_LATENT = 32
_FILTERS = (96, 64, 32)
# Widths of the Gaussian kernels that the random cosines stand for, over vectors of about length 1.
# Images of one class of Fashion-MNIST are 0.5 to 1 apart.
_WIDTHS = (0.35, 0.7)
_POOL = 2  # pixels that are averaged in either direction
_LARGEST_SMALL_SIDE = 48


def feature_preset(image_shape: tuple[int, int, int]) -> str:
    """The preset with weights from made-up images whose features fit images of a shape."""
    if image_shape[2] == 1:
        return "dpvit_scatter_28"
    small = max(image_shape[:2]) <= _LARGEST_SMALL_SIDE
    return "dpvit_scatter_32" if small else "dpvit_scatter_64"


class WitnessFeatures:
    """Fixed features of an image, differentiable to the pixels: no record is behind them.

    Whitened wavelet features of `feature_preset`, with pixels averaged in squares of 2 beside them
    (wavelet features do not know how bright an image is), as a vector `v` of length at most 1.003;
    then `v` and random cosines of it, `sqrt(2/n) cos(r_k . v / width + b_k)`, whose products are
    Gaussian kernels (Rahimi & Recht 2007): the mean of such features tells a whole distribution.
    All constants are fixed numbers of this package.

    Args:
        image_shape: (height, width, channels).
        num_cosines: int, even.

    Attributes:
        width: int, features of an image.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_cosines: int) -> None:
        classifier = DPViTClassifier.from_preset(
            feature_preset(image_shape),
            num_classes=2,
            weights="synthetic",
            image_shape=image_shape,
            mirrored=False,
            head_blocks=["features"],
        )
        self._wavelets = classifier.features_model()
        height, width, channels = image_shape
        self._num_pixels = (height // _POOL) * (width // _POOL) * channels
        total = self._wavelets.output.shape[-1] + self._num_pixels
        rng = np.random.default_rng(0)
        each = num_cosines // len(_WIDTHS)
        directions = [rng.standard_normal((total, each)) / width for width in _WIDTHS]
        self._directions = tf.constant(np.concatenate(directions, axis=1), tf.float32)
        self._shifts = tf.constant(rng.uniform(0, 2 * math.pi, each * len(_WIDTHS)), tf.float32)
        self.width = total + each * len(_WIDTHS)

    def __call__(self, images: Any) -> Any:
        """Features of images, float32 `(n, width)`, of length at most 1.3.

        Args:
            images: float `(n, height, width, channels)`, pixels 0..255.
        """
        half = math.sqrt(0.5)
        pixels = tf.nn.avg_pool2d(images, _POOL, _POOL, "VALID") / 255.0
        pixels = tf.reshape(pixels, (-1, self._num_pixels)) / math.sqrt(self._num_pixels)
        vectors = tf.concat([self._wavelets(images, training=False), pixels], axis=1) * half
        angles = tf.matmul(vectors, self._directions) + self._shifts
        cosines = tf.cos(angles) * math.sqrt(2 / self._shifts.shape[0])
        return tf.concat([vectors, cosines], axis=1) * half

    def of(self, images: Any, batch_size: int = 500) -> Array:
        """Features of many images in half precision, float16 `(n, width)`."""
        compute = tf.function(self, reduce_retracing=True, autograph=False)
        found = np.empty((len(images), self.width), "float16")
        for start in range(0, len(images), batch_size):
            batch = tf.constant(images[start : start + batch_size], tf.float32)
            found[start : start + batch_size] = compute(batch).numpy()
        return found


def generator_network(image_shape: tuple[int, int, int], num_classes: int) -> Any:
    """A convolutional generator: random numbers and a one-hot class to pixels 0..255.

    Args:
        image_shape: (height, width, channels).
        num_classes: int.
    """
    layers = keras.layers
    height, width, channels = image_shape
    rows, columns = math.ceil(height / 4), math.ceil(width / 4)
    first, *others = _FILTERS
    parts = [
        keras.Input((_LATENT + num_classes,)),
        layers.Dense(rows * columns * first, name="dense"),
        layers.Reshape((rows, columns, first), name="maps"),
    ]
    for number, filters in enumerate((None, *others)):
        if filters is not None:
            name = f"convolution_{number}"
            parts.append(layers.Conv2DTranspose(filters, 4, 2, padding="same", name=name))
        parts.append(layers.BatchNormalization(name=f"normalization_{number}"))
        parts.append(layers.LeakyReLU(0.2, name=f"activation_{number}"))
    parts.append(layers.Conv2D(channels, 5, padding="same", name="pixels"))
    parts.append(
        layers.Cropping2D(((0, 4 * rows - height), (0, 4 * columns - width)), name="cropping")
    )
    parts.append(layers.Activation("sigmoid", name="sigmoid"))
    parts.append(layers.Rescaling(255.0, name="rescaling"))
    return keras.Sequential(parts, name="generator")


def discriminator_network(width: int, num_classes: int) -> Any:
    """One weight vector for each class over features: class projection of a linear witness."""
    scores = keras.layers.Dense(num_classes, kernel_initializer="zeros", name="scores")
    return keras.Sequential([keras.Input((width,)), scores], name="discriminator")


def latents(labels: Any, num_classes: int, seed: Any) -> Any:
    """The generator's input for class numbers, float32 `(n, 32 + num_classes)`.

    Args:
        labels: int `(n,)`.
        num_classes: int.
        seed: int `(2,)`; the same seed gives the same numbers.
    """
    normals = tf.random.stateless_normal((tf.shape(labels)[0], _LATENT), seed)
    return tf.concat([normals, tf.one_hot(labels, num_classes)], axis=1)


def scores_of(scores: Any, labels: Any) -> Any:
    """The score of each row under its own class, float32 `(n,)`."""
    return tf.reduce_sum(scores * tf.one_hot(labels, scores.shape[-1]), axis=1)
