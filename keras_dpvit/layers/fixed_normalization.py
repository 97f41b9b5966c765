"""Normalisation of channels by statistics that no longer change."""

from collections.abc import Callable
from typing import Any

import keras


@keras.saving.register_keras_serializable(package="keras_dpvit")
class FixedNormalization(keras.layers.Layer):
    """BatchNormalization by statistics that never change: `gamma (x - mean) / stddev + beta`.

    Args:
        axis: int, of the channels.
        epsilon: float, added to the variance.
        center: bool, whether there is an offset.
        scale: bool, whether there is a scale.

    Input shape: any; output shape: the same.
    """

    def __init__(
        self,
        axis: int = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.axis, self.epsilon, self.center, self.scale = axis, epsilon, center, scale
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        shape = (input_shape[self.axis],)
        self.input_spec = keras.InputSpec(ndim=len(input_shape))
        make: Callable[..., Any] = self.add_weight
        self.gamma = make(name="gamma", shape=shape, initializer="ones") if self.scale else None
        self.beta = make(name="beta", shape=shape, initializer="zeros") if self.center else None
        self.mean = make(name="mean", shape=shape, initializer="zeros", trainable=False)
        self.variance = make(name="variance", shape=shape, initializer="ones", trainable=False)

    def take(self, layer: Any) -> None:
        """Takes scale, offset and statistics over from a BatchNormalization."""
        for mine, other in ((self.gamma, layer.gamma), (self.beta, layer.beta)):
            if mine is not None:
                mine.assign(other)
        self.mean.assign(layer.moving_mean)
        self.variance.assign(layer.moving_variance)

    def call(self, inputs: Any) -> Any:
        sides = [1] * len(inputs.shape)
        sides[self.axis] = -1

        def along(values: Any) -> Any:
            return keras.ops.cast(keras.ops.reshape(values, sides), inputs.dtype)

        scaled = inputs - along(self.mean)
        scaled *= along(keras.ops.rsqrt(keras.ops.add(self.variance, self.epsilon)))
        scaled = scaled if self.gamma is None else scaled * along(self.gamma)
        return scaled if self.beta is None else scaled + along(self.beta)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("axis", "epsilon", "center", "scale")}
        return {**super().get_config(), **own}
