"""Per-example gradients of convolutions."""

import math
from typing import Any

import keras
import tensorflow as tf

from keras_dpvit.gradients.ghost_norm import LinearRule, bias_gradients, joined_tokens
from keras_dpvit.gradients.rules import (
    InstantiatedRule,
    LayerCall,
    full_precision,
    register_rule,
)
from keras_dpvit.layers.convolution import TokenDepthwiseConv


@register_rule(keras.layers.Conv1D)
@register_rule(keras.layers.Conv2D)
class ConvRule(LinearRule):
    """A convolution is a Dense layer on patches: each place is a token, each window its input."""

    def supports(self, layer: Any) -> bool:
        return bool(layer.groups == 1 and layer.data_format == "channels_last")

    def tokens(self, layer: Any, calls: list[LayerCall]) -> list[Any]:
        """Windows `(records, places, taps * channels)` and gradients `(records, places, out)`."""
        return [
            joined_tokens([_windows(layer, full_precision(call.inputs)) for call in calls]),
            joined_tokens([call.gradient for call in calls]),
        ]


@register_rule(keras.layers.Conv1D)
@register_rule(keras.layers.Conv2D)
class GroupedConvRule(InstantiatedRule):
    """Channels in groups, a convolution each: by group n, `sum_t x_(t+k)nc g_tno` for `w_kcno`."""

    tap = "activation"
    variable_names = ("_kernel", "bias")

    def supports(self, layer: Any) -> bool:
        return bool(layer.groups > 1 and layer.data_format == "channels_last")

    def per_example(self, layer: Any, call: LayerCall) -> list[Any]:
        *taps, channels, filters = layer.kernel.shape
        gradient = _places(full_precision(call.gradient))
        windows = _windows(layer, full_precision(call.inputs))
        places, groups = windows.shape[1], layer.groups
        kernel = tf.einsum(
            "btknc,btno->bkcno",
            tf.reshape(windows, (-1, places, math.prod(taps), groups, channels)),
            tf.reshape(gradient, (-1, places, groups, filters // groups)),
        )
        gradients = [tf.reshape(kernel, (-1, *taps, channels, filters))]
        if layer.bias is not None:
            gradients.append(bias_gradients([call.gradient]))
        return gradients


@register_rule(keras.layers.DepthwiseConv1D)
@register_rule(keras.layers.DepthwiseConv2D)
class DepthwiseConvRule(InstantiatedRule):
    """Depthwise convolutions: channel c and its output m.

    The gradient in `w_kcm` is `sum_t g_tcm x_(t+k)c`.
    """

    tap = "activation"
    variable_names = ("kernel", "bias")

    def supports(self, layer: Any) -> bool:
        return bool(layer.data_format == "channels_last")

    def per_example(self, layer: Any, call: LayerCall) -> list[Any]:
        *taps, channels, multiplier = layer.kernel.shape
        gradient = _places(full_precision(call.gradient))
        windows = _windows(layer, full_precision(call.inputs))
        places = windows.shape[1]
        kernel = tf.einsum(
            "btkc,btcm->bkcm",
            tf.reshape(windows, (-1, places, windows.shape[2] // channels, channels)),
            tf.reshape(gradient, (-1, places, channels, multiplier)),
        )
        gradients = [tf.reshape(kernel, (-1, *taps, channels, multiplier))]
        if layer.bias is not None:
            gradients.append(tf.reduce_sum(gradient, axis=1))
        return gradients


@register_rule(TokenDepthwiseConv)
class TokenDepthwiseConvRule(InstantiatedRule):
    """`y_t = sum_k w_k x_(t+k)` by channel: the gradient in `w_k` is `sum_t g_t x_(t+k)`."""

    variable_names = ("kernel",)

    def per_example(self, layer: Any, call: LayerCall) -> list[Any]:
        gradient = full_precision(call.gradient)
        windows = [full_precision(x) for x in layer.shifted(call.inputs)]
        return [tf.stack([tf.reduce_sum(gradient * x, axis=1) for x in windows], axis=1)]


def _windows(layer: Any, inputs: Any) -> Any:
    """The inputs that the kernel sees at each place, `(records, places, taps * channels)`."""
    lists = [list(each) for each in (layer.kernel_size, layer.strides, layer.dilation_rate)]
    padding = layer.padding
    if layer.rank == 1:  # a row of an image of height 1
        if padding == "causal":
            past = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
            inputs, padding = tf.pad(inputs, [[0, 0], [past, 0], [0, 0]]), "valid"
        inputs = inputs[:, None]
        lists = [[1, *each] for each in lists]
    sizes, strides, rates = ([1, *each, 1] for each in lists)
    return _places(tf.image.extract_patches(inputs, sizes, strides, rates, padding=padding.upper()))


def _places(tensor: Any) -> Any:
    """`(records, places, channels)`, whatever the number of spatial axes."""
    return joined_tokens([tensor])
