"""Layers for images whose every block has a separate key, and whose blocks are permuted."""

from typing import Any

import keras
from keras import ops

from keras_dpvit import _validate
from keras_dpvit.layers.embedding import patch_grid


@keras.saving.register_keras_serializable(package="keras_dpvit")
class BlockwiseConv(keras.layers.Layer):
    """A projection of each block of an image with weights of that block's own.

    Each block's matrix is divided by an estimate of its largest singular value (one step of power
    iteration in each training call, Miyato et al., ICLR 2018).

    Args:
        block_size: int, side of a block.
        filters: int, width of a projected block.

    Input shape:
        `(batch, height, width, channels)`, height and width multiples of `block_size`.

    Output shape:
        `(batch, blocks, filters)`, blocks in raster order.

    Raises:
        InputError: if the image is not divisible into blocks.
    """

    def __init__(self, block_size: int, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.block_size = _validate.positive_int(block_size=block_size)
        self.filters = _validate.positive_int(filters=filters)

    def build(self, input_shape: Any) -> None:
        self.grid = patch_grid(input_shape[1:], self.block_size)
        blocks = self.grid[0] * self.grid[1]
        values = self.block_size**2 * input_shape[-1]
        self.kernel = self.add_weight(
            name="kernel",
            shape=(blocks, values, self.filters),
            initializer=keras.initializers.RandomNormal(stddev=(2 / values) ** 0.5),
        )
        self.bias = self.add_weight(name="bias", shape=(blocks, self.filters), initializer="zeros")
        self.left = self.add_weight(
            name="left",
            shape=(blocks, self.filters),
            initializer="random_normal",
            trainable=False,
            autocast=False,
        )

    def call(self, images: Any, training: bool | None = None) -> Any:
        rows, columns = self.grid
        p, channels = self.block_size, images.shape[-1]
        x = ops.reshape(images, (-1, rows, p, columns, p, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        x = ops.reshape(x, (-1, rows * columns, p * p * channels))
        norm = ops.cast(self._largest_singular_values(bool(training)), x.dtype)
        x = ops.einsum("bnv,nvf->bnf", x, self.kernel / norm[:, None, None])
        return x + self.bias

    def _largest_singular_values(self, update: bool) -> Any:
        """Largest singular value of each block's matrix, `(blocks,)`; iterates are constants."""
        kernel = ops.cast(self.kernel, "float32")
        fixed = ops.stop_gradient(kernel)
        right = _unit_vectors(ops.einsum("nvf,nf->nv", fixed, self.left.value))
        left = _unit_vectors(ops.einsum("nvf,nv->nf", fixed, right))
        if update:
            self.left.assign(left)
        return ops.einsum("nv,nvf,nf->n", right, kernel, left)

    def compute_output_shape(self, input_shape: Any) -> Any:
        rows, columns = patch_grid(input_shape[1:], self.block_size)
        return (input_shape[0], rows * columns, self.filters)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {**config, "block_size": self.block_size, "filters": self.filters}


def _unit_vectors(x: Any) -> Any:
    return x / (ops.sqrt(ops.sum(x * x, axis=-1, keepdims=True)) + 1e-12)


@keras.saving.register_keras_serializable(package="keras_dpvit")
class PermutationPenalty(keras.regularizers.Regularizer):
    """Draws a square matrix towards one entry in each row and column.

    `factor * sum(|u|_1 - |u|_2) / n^2` over all rows and columns u of the n x n matrix.

    Args:
        factor: float.
    """

    def __init__(self, factor: float) -> None:
        self.factor = _validate.non_negative(factor=factor)

    def __call__(self, matrix: Any) -> Any:
        total = 0.0
        for axis in (0, 1):
            lengths = ops.sqrt(ops.sum(matrix**2, axis=axis) + 1e-12)
            total = total + ops.sum(ops.sum(ops.abs(matrix), axis=axis) - lengths)
        return self.factor * total / matrix.shape[0] ** 2

    def get_config(self) -> dict[str, Any]:
        return {"factor": self.factor}


@keras.saving.register_keras_serializable(package="keras_dpvit")
class BlockMixing(keras.layers.Layer):
    """`y_m = sum_n U_mn x_n`: blocks mixed by a learned matrix, which can undo a permutation.

    Args:
        penalty: float, factor of `PermutationPenalty` on U.

    Input and output shape:
        `(batch, blocks, width)`.
    """

    def __init__(self, penalty: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.penalty = _validate.non_negative(penalty=penalty)

    def build(self, input_shape: Any) -> None:
        self.matrix = self.add_weight(
            name="matrix",
            shape=(input_shape[1], input_shape[1]),
            initializer="he_uniform",
            regularizer=PermutationPenalty(self.penalty) if self.penalty else None,
        )

    def call(self, blocks: Any) -> Any:
        return ops.einsum("mn,bnf->bmf", self.matrix, blocks)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "penalty": self.penalty}
