"""From an image to tokens: patches, and the position table that tells them apart (eq 4)."""

from typing import Any

import keras
from keras import ops

from keras_dpvit import _validate
from keras_dpvit.errors import InputError


@keras.saving.register_keras_serializable(package="keras_dpvit")
class PatchEmbedding(keras.layers.Layer):
    """Cuts an image into square patches without overlap and projects each (eq 4, no class token).

    Args:
        patch_size: int, side of a patch in pixels.
        hidden_dim: int, width of a token.

    Input shape:
        `(batch, height, width, channels)`, height and width multiples of `patch_size`.

    Output shape:
        `(batch, height * width / patch_size**2, hidden_dim)`, tokens in raster order.

    Raises:
        InputError: if the image is not divisible into patches.
    """

    def __init__(self, patch_size: int, hidden_dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.patch_size = _validate.positive_int(patch_size=patch_size)
        self.hidden_dim = _validate.positive_int(hidden_dim=hidden_dim)
        self.projection = keras.layers.Dense(hidden_dim, name="projection", dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        self.grid = patch_grid(input_shape[1:], self.patch_size)
        self.projection.build((None, None, self.patch_size**2 * input_shape[-1]))

    def call(self, images: Any) -> Any:
        rows, columns = self.grid
        p, channels = self.patch_size, images.shape[-1]
        x = ops.reshape(images, (-1, rows, p, columns, p, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return self.projection(ops.reshape(x, (-1, rows * columns, p * p * channels)))

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        rows, columns = patch_grid(input_shape[1:], self.patch_size)
        return (input_shape[0], rows * columns, self.hidden_dim)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {**config, "patch_size": self.patch_size, "hidden_dim": self.hidden_dim}


def patch_grid(image_shape: Any, patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches in an image `(height, width, channels)`.

    Raises:
        InputError: if a side is unknown or not a multiple of `patch_size`.
    """
    height, width = image_shape[0], image_shape[1]
    if not height or not width or height % patch_size or width % patch_size:
        raise InputError(
            f"image_shape must have sides divisible by patch_size={patch_size}, "
            f"got {tuple(image_shape)}."
        )
    return height // patch_size, width // patch_size


@keras.saving.register_keras_serializable(package="keras_dpvit")
class PositionTable(keras.layers.Layer):
    """Adds one learned vector to each token (eq 4); again after each pooling, as in HVT.

    Args:
        stddev: float, of the table's initial values; 0.02 is the field's. At about the tokens' own
            size the first layers see places apart from the first step on, which saves learning it
            under noise.

    Input and output shape:
        `(batch, tokens, width)`, both fixed.
    """

    def __init__(self, stddev: float = 0.02, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stddev = _validate.positive(stddev=stddev)

    def build(self, input_shape: Any) -> None:
        self.table = self.add_weight(
            name="table",
            shape=tuple(input_shape[1:]),
            initializer=keras.initializers.TruncatedNormal(stddev=self.stddev),
        )

    def call(self, tokens: Any) -> Any:
        return tokens + self.table

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "stddev": self.stddev}
