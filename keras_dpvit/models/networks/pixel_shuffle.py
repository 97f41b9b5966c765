"""PixelShuffle: channels become places."""

from typing import Any

import keras
from keras import ops

from keras_dpvit import _validate
from keras_dpvit.errors import InputError


@keras.saving.register_keras_serializable(package="keras_dpvit")
class PixelShuffle(keras.layers.Layer):
    """Spreads every `scale^2` channels over a square of places (Shi et al., CVPR 2016).

    `y[s h + i, s w + j, c] = x[h, w, c s^2 + i s + j]`.

    Args:
        scale: int, side of the square.
        total_variation: float; this many times the mean absolute difference between neighbours of
            the output is added to the loss.

    Input shape:
        `(batch, height, width, channels * scale^2)`.

    Output shape:
        `(batch, height * scale, width * scale, channels)`.

    Raises:
        InputError: if the channels are not a multiple of `scale^2`.
    """

    def __init__(self, scale: int, total_variation: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = _validate.positive_int(scale=scale)
        self.total_variation = _validate.non_negative(total_variation=total_variation)

    def build(self, input_shape: Any) -> None:
        if input_shape[-1] % self.scale**2:
            raise InputError(
                f"scale must have a square that divides the {input_shape[-1]} channels, "
                f"got {self.scale}."
            )

    def call(self, x: Any) -> Any:
        _, height, width, channels = x.shape
        s = self.scale
        x = ops.reshape(x, (-1, height, width, channels // s**2, s, s))
        x = ops.transpose(x, (0, 1, 4, 2, 5, 3))
        x = ops.reshape(x, (-1, height * s, width * s, channels // s**2))
        if self.total_variation:
            down = ops.mean(ops.abs(x[:, 1:] - x[:, :-1]))
            across = ops.mean(ops.abs(x[:, :, 1:] - x[:, :, :-1]))
            self.add_loss(self.total_variation * (down + across))
        return x

    def compute_output_shape(self, input_shape: Any) -> Any:
        batch, height, width, channels = input_shape
        return (batch, height * self.scale, width * self.scale, channels // self.scale**2)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "scale": self.scale,
            "total_variation": self.total_variation,
        }
