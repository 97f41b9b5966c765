"""One-dimensional max-pooling over tokens, and the coordinates that follow it."""

import functools
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dpvit import _validate
from keras_dpvit.errors import InputError


def pooled_length(num_tokens: int, pool_size: int, stride: int, padding: int) -> int:
    """Tokens left after pooling (floor formula).

    Raises:
        InputError: if not even one window fits.
    """
    if num_tokens + 2 * padding < pool_size:
        raise InputError(f"pool_size={pool_size} must not exceed the {num_tokens} tokens pooled.")
    return (num_tokens + 2 * padding - pool_size) // stride + 1


def grid_coordinates(rows: int, columns: int) -> np.ndarray:
    """Coordinates (column, row) of tokens in raster order, float `(rows * columns, 2)`."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    return np.stack([column, row], axis=1).astype(np.float64)


def pool_coordinates(
    coordinates: np.ndarray, pool_size: int, stride: int, padding: int
) -> np.ndarray:
    """Mean coordinates of each pooling window, windows cut to the tokens that exist."""
    length = pooled_length(len(coordinates), pool_size, stride, padding)
    starts = np.arange(length) * stride - padding
    windows = [coordinates[max(start, 0) : start + pool_size] for start in starts]
    return np.stack([window.mean(axis=0) for window in windows])


@keras.saving.register_keras_serializable(package="keras_dpvit")
class TokenMaxPooling(keras.layers.Layer):
    """Channel-wise maximum over windows of neighbouring tokens, in raster order (HVT).

    Args:
        pool_size: int, tokens in a window.
        stride: int, tokens between windows.
        padding: int, windows' overhang at either end; smaller than `pool_size`.

    Input shape:
        `(batch, tokens, width)`.

    Output shape:
        `(batch, floor((tokens + 2 * padding - pool_size) / stride) + 1, width)`.
    """

    def __init__(
        self, pool_size: int = 2, stride: int = 2, padding: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.pool_size = _validate.positive_int(pool_size=pool_size)
        self.stride = _validate.positive_int(stride=stride)
        if padding not in range(pool_size):
            raise InputError(
                f"padding must be 0..{pool_size - 1} (below pool_size), got {padding}."
            )
        self.padding = padding

    def build(self, input_shape: Any) -> None:
        self.compute_output_shape(input_shape)  # refuses fewer tokens than a window has

    def call(self, tokens: Any) -> Any:
        length = pooled_length(tokens.shape[1], self.pool_size, self.stride, self.padding)
        if self.padding:
            # Repeating an end token inside its own window leaves the maximum alone, and unlike
            # minus infinity it survives low precision; a window has at most `padding` of these.
            ends = [tokens[:, :1]] * self.padding, [tokens[:, -1:]] * self.padding
            tokens = ops.concatenate([*ends[0], tokens, *ends[1]], axis=1)
        # Strided slices: their gradient is cheap under XLA, that of a pooling op is not.
        last = (length - 1) * self.stride + 1
        shifted = (tokens[:, i : i + last : self.stride] for i in range(self.pool_size))
        return functools.reduce(ops.maximum, shifted)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        batch, tokens, width = input_shape
        return (batch, pooled_length(tokens, self.pool_size, self.stride, self.padding), width)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "stride": self.stride,
            "padding": self.padding,
        }
