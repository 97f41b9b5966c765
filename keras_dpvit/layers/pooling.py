"""Max-pooling over tokens, along the sequence or over a grid, and the coordinates that follow."""

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


def pooled_grid(
    grid: tuple[int, int], pool_size: int, stride: int, padding: int
) -> tuple[int, int]:
    """Rows and columns of a token grid after two-dimensional pooling."""
    rows, columns = (pooled_length(side, pool_size, stride, padding) for side in grid)
    return rows, columns


def pool_coordinates(
    coordinates: np.ndarray,
    pool_size: int,
    stride: int,
    padding: int,
    grid: tuple[int, int] | None = None,
) -> np.ndarray:
    """Mean coordinates of each pooling window, windows cut to the tokens that exist.

    Args:
        coordinates: float `(tokens, 2)`; any other values of the tokens pass in the same way.
        pool_size: int, tokens in a window.
        stride: int, tokens between windows.
        padding: int, windows' overhang.
        grid: rows and columns of the tokens for two-dimensional pooling.
    """
    if grid is None:
        return _window_means(coordinates, pool_size, stride, padding)
    table = coordinates.reshape(*grid, coordinates.shape[1])
    table = _window_means(table, pool_size, stride, padding)
    table = _window_means(table.transpose(1, 0, 2), pool_size, stride, padding)
    return table.transpose(1, 0, 2).reshape(-1, coordinates.shape[1])


def _window_means(table: np.ndarray, pool_size: int, stride: int, padding: int) -> np.ndarray:
    length = pooled_length(len(table), pool_size, stride, padding)
    starts = np.arange(length) * stride - padding
    windows = [table[max(start, 0) : start + pool_size] for start in starts]
    return np.stack([window.mean(axis=0) for window in windows])


@keras.saving.register_keras_serializable(package="keras_dpvit")
class TokenMaxPooling(keras.layers.Layer):
    """Channel-wise maximum over windows of neighbouring tokens, in raster order (HVT).

    Args:
        pool_size: int, tokens in a window (along each side, for a grid).
        stride: int, tokens between windows.
        padding: int, windows' overhang at either end; smaller than `pool_size`.
        grid: None pools along the sequence; (rows, columns) of the tokens pools over the grid.

    Input shape:
        `(batch, tokens, width)`.

    Output shape:
        `(batch, floor((tokens + 2 * padding - pool_size) / stride) + 1, width)`; for a grid, this
        many rows times this many columns.

    Raises:
        InputError: if not even one window fits, or the grid has not the tokens' number.
    """

    def __init__(
        self,
        pool_size: int = 2,
        stride: int = 2,
        padding: int = 0,
        grid: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pool_size = _validate.positive_int(pool_size=pool_size)
        self.stride = _validate.positive_int(stride=stride)
        if padding not in range(pool_size):
            raise InputError(
                f"padding must be 0..{pool_size - 1} (below pool_size), got {padding}."
            )
        self.padding = padding
        self.grid = None
        if grid is not None:
            rows, columns = (_validate.positive_int(grid=side) for side in grid)
            self.grid = (rows, columns)

    def build(self, input_shape: Any) -> None:
        self.compute_output_shape(input_shape)  # refuses fewer tokens than a window has

    def call(self, tokens: Any) -> Any:
        if self.grid is None:
            return self._pool(tokens, axis=1)
        width = tokens.shape[-1]
        x = ops.reshape(tokens, (-1, *self.grid, width))
        x = self._pool(self._pool(x, axis=1), axis=2)
        return ops.reshape(x, (-1, x.shape[1] * x.shape[2], width))

    def _pool(self, x: Any, axis: int) -> Any:
        before = (slice(None),) * axis
        length = pooled_length(x.shape[axis], self.pool_size, self.stride, self.padding)
        if self.padding:
            # Repeating an end token inside its own window leaves the maximum alone, and unlike
            # minus infinity it survives low precision; a window has at most `padding` of these.
            first, last = x[(*before, slice(1))], x[(*before, slice(-1, None))]
            x = ops.concatenate([first] * self.padding + [x] + [last] * self.padding, axis=axis)
        # Strided slices: their gradient is cheap under XLA, that of a pooling op is not.
        reach = (length - 1) * self.stride + 1
        shifted = (x[(*before, slice(i, i + reach, self.stride))] for i in range(self.pool_size))
        return functools.reduce(ops.maximum, shifted)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        batch, tokens, width = input_shape
        window = (self.pool_size, self.stride, self.padding)
        if self.grid is None:
            return (batch, pooled_length(tokens, *window), width)
        rows, columns = self.grid
        if rows * columns != tokens:
            raise InputError(f"grid must hold {tokens} tokens, got {rows} x {columns}.")
        rows, columns = pooled_grid(self.grid, *window)
        return (batch, rows * columns, width)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "stride": self.stride,
            "padding": self.padding,
            "grid": self.grid,
        }
