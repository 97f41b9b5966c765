"""Colour images as luma and chroma."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dpvit.errors import InputError

# Rows: luma by ITU-R BT.601, red and blue less luma. Columns: red, green, blue.
_LUMA = np.array([0.299, 0.587, 0.114])
_MATRIX = np.stack([_LUMA, [1, 0, 0] - _LUMA, [0, 0, 1] - _LUMA]).astype("float32")


@keras.saving.register_keras_serializable(package="keras_dpvit")
class LumaChroma(keras.layers.Layer):
    """Luma (ITU-R BT.601), red less luma and blue less luma in place of red, green and blue.

    Input and output shape:
        `(batch, height, width, 3)`.

    Raises:
        InputError: on another number of channels.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Any) -> None:
        if input_shape[-1] != 3:
            raise InputError(f"images must have 3 channels, got {input_shape[-1]}.")

    def call(self, images: Any) -> Any:
        return ops.matmul(images, ops.cast(_MATRIX.T, images.dtype))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return super().get_config()
