"""Per-example gradients of convolutions."""

from typing import Any

import keras
import tensorflow as tf

from keras_dpvit.gradients.dense import token_norms, token_sums
from keras_dpvit.gradients.rules import (
    GradientRule,
    InstantiatedRule,
    LayerCall,
    full_precision,
    register_rule,
)
from keras_dpvit.layers.convolution import TokenDepthwiseConv


@register_rule(keras.layers.Conv2D)
class Conv2DRule(GradientRule):
    """A convolution is a Dense layer on patches: each place is a token, each window its input."""

    tap = "activation"

    def supports(self, layer: Any) -> bool:
        return (
            layer.groups == 1
            and layer.data_format == "channels_last"
            and layer.padding in ("same", "valid")
        )

    def squared_norms(self, layer: Any, calls: list[LayerCall]) -> Any:
        return token_norms(*self._tokens(layer, calls), layer.use_bias)

    def weighted_sums(self, layer: Any, calls: list[LayerCall], weights: Any) -> list[Any]:
        kernel, *bias = token_sums(*self._tokens(layer, calls), weights, layer.use_bias)
        return [tf.reshape(kernel, layer.kernel.shape), *bias]

    def _tokens(self, layer: Any, calls: list[LayerCall]) -> tuple[Any, Any]:
        inputs, gradients = [], []
        for call in calls:
            windows = tf.image.extract_patches(
                full_precision(call.inputs),
                sizes=[1, *layer.kernel_size, 1],
                strides=[1, *layer.strides, 1],
                rates=[1, *layer.dilation_rate, 1],
                padding=layer.padding.upper(),
            )
            places = windows.shape[1] * windows.shape[2]
            inputs.append(tf.reshape(windows, (-1, places, windows.shape[-1])))
            gradient = full_precision(call.gradient)
            gradients.append(tf.reshape(gradient, (-1, places, gradient.shape[-1])))
        return tf.concat(inputs, axis=1), tf.concat(gradients, axis=1)


@register_rule(TokenDepthwiseConv)
class TokenDepthwiseConvRule(InstantiatedRule):
    """`y_t = sum_k w_k x_(t+k)` by channel: the gradient in `w_k` is `sum_t g_t x_(t+k)`."""

    def per_example(self, layer: Any, call: LayerCall) -> list[Any]:
        gradient = full_precision(call.gradient)
        windows = [full_precision(x) for x in layer.shifted(call.inputs)]
        return [tf.stack([tf.reduce_sum(gradient * x, axis=1) for x in windows], axis=1)]
