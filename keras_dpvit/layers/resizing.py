"""Images of another size by fixed matrices, as an image library resizes them."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dpvit import _validate
from keras_dpvit.errors import InputError


@keras.saving.register_keras_serializable(package="keras_dpvit")
class AntialiasedResizing(keras.layers.Layer):
    """Resizes images by a triangle filter that widens as they shrink: Pillow's `BILINEAR`.

    A new pixel is the weighted mean of the old ones around its place, farthest those one step of
    the new grid (or of the old one, if that is wider) away. Shrinking so averages, and draws no
    pattern of its own as picking every n-th pixel does. The same filter brings picture files to
    their size (`datasets.load`), so a model that has this layer sees large pictures as it would
    see files read at the smaller size.

    One fixed matrix along each axis: no variables, nothing that costs privacy, and products that
    every export can run. Computed in float32, whatever the policy.

    Args:
        height, width: ints, of the new images.

    Input shape:
        `(batch, old height, old width, channels)`, all but the batch fixed.

    Output shape:
        `(batch, height, width, channels)`.

    Raises:
        InputError: if a size is out of range or an image's is not fixed.
    """

    def __init__(self, height: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.height = _validate.positive_int(height=height)
        self.width = _validate.positive_int(width=width)

    def build(self, input_shape: Any) -> None:
        self.compute_output_shape(input_shape)  # which refuses what does not fit
        self.rows = resizing_matrix(input_shape[1], self.height)
        self.columns = resizing_matrix(input_shape[2], self.width)

    def call(self, images: Any) -> Any:
        _, height, width, channels = images.shape
        # One small matrix times a wide one along each axis, as in `ScatteringTransform`.
        x = ops.transpose(ops.cast(images, "float32"), (1, 2, 0, 3))
        x = ops.matmul(self.rows, ops.reshape(x, (height, -1)))
        x = ops.matmul(self.columns, ops.reshape(x, (self.height, width, -1)))
        x = ops.reshape(x, (self.height, self.width, -1, channels))
        return ops.cast(ops.transpose(x, (2, 0, 1, 3)), self.compute_dtype)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one channel of an image."""
        return self.rows.size * self.columns.shape[1] + self.height * self.columns.size

    def compute_output_shape(self, input_shape: Any) -> Any:
        shape = tuple(input_shape)
        if len(shape) != 4 or not all(shape[1:]):
            raise InputError(
                f"images must be (batch, height, width, channels) of a fixed size, got {shape}."
            )
        return (shape[0], self.height, self.width, shape[3])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "height": self.height, "width": self.width}


def resizing_matrix(old: int, new: int) -> np.ndarray:
    """The float32 matrix `(new, old)` that resizes a line of pixels; its rows sum to 1."""
    step = old / new
    places = (np.arange(new) + 0.5) * step
    distances = np.abs(np.arange(old) + 0.5 - places[:, None]) / max(step, 1.0)
    weights = np.maximum(0.0, 1.0 - distances)
    return (weights / weights.sum(axis=1, keepdims=True)).astype("float32")
