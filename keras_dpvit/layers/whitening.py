"""Fixed maps of feature vectors that even out their directions before a linear head."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dpvit import _validate
from keras_dpvit._types import Array
from keras_dpvit.errors import InputError

_LARGEST_INT8 = 127


@keras.saving.register_keras_serializable(package="keras_dpvit")
class WhitenedFeatures(keras.layers.Layer):
    """Centres a feature vector, shrinks the directions that vary most, and scales it to length 1.

    With `u(x) = x / |x|`, unit directions `d_k` and shrinkages `s_k` in 0..1:
    `z = u(u(x) - mean)`, then `u(z - sum_k s_k (z . d_k) d_k)`. Nothing here is trained by
    gradients: `mean` is a constant, or released with noise (`kd.center_features`), and the
    directions come from images that need no protection (`take`). A new layer has mean 0 and shrinks
    nothing. Computed in float32, whatever the policy.

    A linear model on vectors of length 1 has gradients of bounded length, and under noise it learns
    first what varies most: shrinking the directions in which instances of one kind differ leaves
    more of the budget to those that tell kinds apart.

    Args:
        rank: int, directions that are shrunk; at most the width of the features counts.

    Input and output shape:
        `(batch, width)`.
    """

    def __init__(self, rank: int = 200, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rank = _validate.positive_int(rank=rank)

    def build(self, input_shape: Any) -> None:
        width = input_shape[-1]
        rank = min(self.rank, width)
        self.mean = self.add_weight(
            name="mean", shape=(width,), initializer="zeros", trainable=False
        )
        # int8, for the sake of a model's size: these are most of its bytes.
        self.directions = self.add_weight(
            name="directions",
            shape=(width, rank),
            initializer="zeros",
            trainable=False,
            dtype="int8",
        )
        self.strengths = self.add_weight(
            name="strengths", shape=(rank,), initializer="zeros", trainable=False
        )

    def call(self, inputs: Any) -> Any:
        z = _unit(_unit(ops.cast(inputs, "float32")) - ops.cast(self.mean, "float32"))
        return ops.cast(_unit(z - self.taken_away(z)), self.compute_dtype)

    def taken_away(self, z: Any) -> Any:
        """`sum_k s_k (z . d_k) d_k`, float32 `(batch, width)`."""
        directions = ops.cast(self.directions, "float32")
        along = ops.matmul(z, directions) * ops.cast(self.strengths, "float32")
        return ops.matmul(along, ops.transpose(directions))

    def take(self, mean: Array, directions: Array, scales: Array, variances: Array) -> None:
        """Sets the constants; the layer's `rank` first directions count.

        Args:
            mean: float `(width,)`, of vectors of length 1.
            directions: int8 `(width, n)`, `n` at least the rank, largest variance first.
            scales: float `(n,)`; a direction of length 1 is its column times its scale.
            variances: float `(n,)`, not increasing: a direction is shrunk to the root of the
                last variance over its own, so that beyond it nothing is.

        Raises:
            InputError: if the shapes do not fit the layer.
        """
        rank = self.directions.shape[1]
        if mean.shape != self.mean.shape or directions.shape[1] < rank:
            raise InputError(
                f"directions must be at least {rank} of width {self.mean.shape[0]}, got "
                f"{directions.shape[1]} of {len(mean)}."
            )
        variances = np.asarray(variances[:rank], "float64")
        shrinkages = 1 - np.sqrt(variances[-1] / variances)
        self.mean.assign(np.asarray(mean, "float32"))
        self.directions.assign(directions[:, :rank])
        self.strengths.assign((shrinkages * np.square(scales[:rank])).astype("float32"))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rank": self.rank}


@keras.saving.register_keras_serializable(package="keras_dpvit")
class JoinedFeatures(keras.layers.Layer):
    """Vectors of length 1 side by side as one of length 1, and a small constant behind them.

    The constant is the input of the head's bias. As small as it is here, it leaves the
    length of a record's gradient to the features.

    Args:
        constant: float above 0.

    Input shape: several `(batch, width)`; output shape: `(batch, sum of the widths + 1)`.
    """

    def __init__(self, constant: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.constant = _validate.positive(constant=constant)

    def call(self, inputs: Any) -> Any:
        share = 1 / math.sqrt(len(inputs))
        constant = ops.full_like(inputs[0][:, :1], self.constant)
        return ops.concatenate([*(block * share for block in inputs), constant], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0][0], sum(shape[-1] for shape in input_shape) + 1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "constant": self.constant}


def quantized_directions(directions: Array) -> tuple[Array, Array]:
    """Columns as int8 and their scales, as `WhitenedFeatures.take` wants them.

    Args:
        directions: float `(width, n)`.
    """
    scales = np.abs(directions).max(axis=0) / _LARGEST_INT8
    return np.round(directions / scales).astype("int8"), scales.astype("float32")


def _unit(vectors: Any) -> Any:
    square = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    return vectors * ops.rsqrt(ops.maximum(square, 1e-12))
