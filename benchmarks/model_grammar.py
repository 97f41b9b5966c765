"""Models drawn at random: thirty layers, twelve losses, and layers that must be refused."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_dpvit as kd

IMAGE_SHAPE = (8, 8, 1)
NUM_CLASSES = 4
_PACKAGE = "keras_dpvit_benchmarks"


def _layer(function: Callable[[Any], Any], name: str) -> type[keras.layers.Layer]:
    """A layer class without variables that computes a function."""

    def call(self: Any, inputs: Any) -> Any:
        del self
        return function(inputs)

    made = type(name, (keras.layers.Layer,), {"call": call})
    return keras.saving.register_keras_serializable(package=_PACKAGE)(made)


def _per_row(reduce: Callable[..., Any], x: Any) -> Any:
    return reduce(x, axis=list(range(1, x.shape.rank)), keepdims=True)


Standardise = _layer(
    lambda x: (x - _per_row(tf.reduce_mean, x)) / _per_row(tf.math.reduce_std, x), "Standardise"
)
UnitNorm = _layer(
    lambda x: x / tf.sqrt(_per_row(tf.reduce_sum, tf.square(x))), "UnitNorm"
)  # without an epsilon, as people write it
Logarithm = _layer(tf.math.log, "Logarithm")
SquareRoot = _layer(tf.sqrt, "SquareRoot")
Cumulative = _layer(lambda x: tf.cumsum(x, axis=1), "Cumulative")
CentreOfBatch = _layer(lambda x: x - tf.reduce_mean(x, axis=0, keepdims=True), "CentreOfBatch")
TurnOver = _layer(lambda x: tf.reverse(x, [0]), "TurnOver")
AddPlace = _layer(
    lambda x: (
        x + tf.cast(tf.reshape(tf.range(tf.shape(x)[0]), [-1] + [1] * (x.shape.rank - 1)), x.dtype)
    ),
    "AddPlace",
)

L = keras.layers
# Each takes images `(8, 8, channels)` to images; tokens `(n, width)`; vectors `(width,)`.
IMAGE_LAYERS: dict[str, Callable[[], Any]] = {
    "convolution": lambda: L.Conv2D(4, 3, activation="relu"),
    "strided convolution": lambda: L.Conv2D(3, 2, strides=2, use_bias=False),
    "depthwise convolution": lambda: L.DepthwiseConv2D(3, padding="same"),
    "separable convolution": lambda: L.SeparableConv2D(4, 3, padding="same"),
    "transposed convolution": lambda: L.Conv2DTranspose(2, 2),
    "maximum pooling": lambda: L.MaxPooling2D(2, padding="same"),
    "average pooling": lambda: L.AveragePooling2D(2, padding="same"),
    "group normalisation": lambda: L.GroupNormalization(1),
    "padding": lambda: L.ZeroPadding2D(1),
    "upsampling": lambda: L.UpSampling2D(2),
    "rescaling": lambda: L.Rescaling(1 / 255),
}
TOKEN_LAYERS: dict[str, Callable[[], Any]] = {
    "dense of tokens": lambda: L.Dense(6),
    "wide dense of tokens": lambda: L.Dense(64, use_bias=False),
    "einsum": lambda: L.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d"),
    "convolution of tokens": lambda: L.Conv1D(4, 2, padding="causal"),
    "depthwise convolution of tokens": lambda: L.DepthwiseConv1D(2, padding="same"),
    "cumulative sum": Cumulative,
}
ANY_LAYERS: dict[str, Callable[[], Any]] = {
    "layer normalisation": lambda: L.LayerNormalization(),
    "layer normalisation without epsilon": lambda: L.LayerNormalization(epsilon=0.0),
    "unit normalisation": lambda: L.UnitNormalization(),
    "standardisation": Standardise,
    "unit norm without epsilon": UnitNorm,
    "logarithm": Logarithm,
    "square root": SquareRoot,
    "relu": lambda: L.ReLU(),
    "prelu": lambda: L.PReLU(),
    "gelu": lambda: L.Activation("gelu"),
    "exponential": lambda: L.Activation("exponential"),
    "dropout": lambda: L.Dropout(0.3),
    "gaussian noise": lambda: L.GaussianNoise(0.1),
}
MIXING_LAYERS: dict[str, Callable[[], Any]] = {
    "batch normalisation": lambda: L.BatchNormalization(),
    "centring over the batch": CentreOfBatch,
    "reversal of the batch": TurnOver,
    "place in the batch": AddPlace,
}

# Name: loss, kind of labels, activation of the outputs.
LOSSES: dict[str, tuple[Any, str, str | None]] = {
    "mse": ("mse", "number", None),
    "mae": ("mae", "number", None),
    "huber": (keras.losses.Huber(), "number", None),
    "logcosh": ("log_cosh", "number", None),
    "poisson": ("poisson", "number", "softplus"),
    "hinge": ("hinge", "number", "tanh"),
    "binary crossentropy": ("binary_crossentropy", "one hot", "sigmoid"),
    "categorical crossentropy": ("categorical_crossentropy", "one hot", "softmax"),
    "sparse crossentropy": (
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "class",
        None,
    ),
    "focal crossentropy": (keras.losses.CategoricalFocalCrossentropy(), "one hot", "softmax"),
    "cosine similarity": (keras.losses.CosineSimilarity(), "one hot", None),
    "per class": (kd.PerClassBinaryCrossentropy(), "class", None),
}


def _choice(rng: np.random.Generator, layers: dict[str, Any]) -> str:
    return str(rng.choice(list(layers)))


def draw_model(
    rng: np.random.Generator, activation: str | None, outputs: int
) -> tuple[Any, list[str]]:
    """A model on images, not private yet, and the names of its layers.

    Args:
        rng: generator.
        activation: of the last layer.
        outputs: int, numbers that it returns.
    """
    names: list[str] = []
    images = keras.Input(IMAGE_SHAPE)
    x: Any = images

    def add(choices: dict[str, Callable[[], Any]], x: Any) -> Any:
        name = _choice(rng, choices)
        names.append(name)
        y = choices[name]()(x)
        # An EinsumDense for any number of tokens does not know that it returns as many.
        return L.Reshape((x.shape[1], y.shape[-1]))(y) if None in y.shape[1:] else y

    for _ in range(rng.integers(0, 3)):
        x = add({**IMAGE_LAYERS, **ANY_LAYERS}, x)
    if rng.random() < 0.6:
        x = L.Reshape((-1, x.shape[-1]))(x) if rng.random() < 0.5 else _in_four(x)
        for _ in range(rng.integers(1, 3)):
            x = add({**TOKEN_LAYERS, **ANY_LAYERS}, x)
        if rng.random() < 0.3:
            names.append("attention")
            x = x + L.MultiHeadAttention(2, 4)(x, x)
        pooling = rng.choice(["average", "maximum", "none"])
        names.append(f"pooling: {pooling}")
        pools = {"average": L.GlobalAveragePooling1D, "maximum": L.GlobalMaxPooling1D}
        x = pools.get(str(pooling), L.Flatten)()(x)
    else:
        x = L.Flatten()(x)
    if rng.random() < 0.4:
        x = add({"dense": lambda: L.Dense(8, activation="relu"), **ANY_LAYERS}, x)
    if rng.random() < 0.15:
        x = add(MIXING_LAYERS, x)
    return keras.Model(images, L.Dense(outputs, activation=activation)(x)), names


def _in_four(x: Any) -> Any:
    """Tokens from the rows of numbers, four of them where that goes evenly."""
    flat = L.Flatten()(x)
    tokens = 4 if flat.shape[-1] % 4 == 0 else 1
    return L.Reshape((tokens, flat.shape[-1] // tokens))(flat)


def draw_labels(rng: np.random.Generator, kind: str, records: int) -> np.ndarray:
    """Labels of a kind that `LOSSES` names."""
    classes = rng.integers(0, NUM_CLASSES, records)
    if kind == "class":
        return classes
    if kind == "one hot":
        return np.eye(NUM_CLASSES, dtype="float32")[classes]
    return rng.uniform(0, 2, records).astype("float32")
