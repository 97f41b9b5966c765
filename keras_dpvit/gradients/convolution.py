"""Per-example gradients of convolutions."""

import math
from typing import Any

import keras
import tensorflow as tf

from keras_dpvit.gradients import reductions
from keras_dpvit.gradients.ghost_norm import (
    LinearRule,
    bias_gradients,
    joined_tokens,
    marked,
    measured_tokens,
    next_token_sum,
)
from keras_dpvit.gradients.rules import (
    GradientRule,
    InstantiatedRule,
    LayerCall,
    Measured,
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


@register_rule(keras.layers.Conv1DTranspose)
@register_rule(keras.layers.Conv2DTranspose)
class ConvTransposeRule(LinearRule):
    """A transposed convolution is the transpose of a convolution from its output to its input.

    So the gradient in its kernel is that convolution's, with the output's gradient as input and
    the input as the output's gradient: a token is a place of the input.
    """

    variable_names = ("kernel", "bias")

    def supports(self, layer: Any) -> bool:
        return bool(
            layer.data_format == "channels_last"
            and layer.output_padding is None
            and set(layer.dilation_rate) == {1}
        )

    def tokens(self, layer: Any, calls: list[LayerCall]) -> list[Any]:
        return [
            joined_tokens([_windows(layer, full_precision(call.gradient)) for call in calls]),
            joined_tokens([call.inputs for call in calls]),
        ]

    def bias_gradients(self, layer: Any, calls: list[LayerCall]) -> Any:
        return bias_gradients([call.gradient for call in calls])


@register_rule(keras.layers.SeparableConv1D)
@register_rule(keras.layers.SeparableConv2D)
class SeparableConvRule(GradientRule):
    """A depthwise convolution and a product of channels behind it, in one layer.

    What stands between them is computed once more; the channels' kernel is a Dense layer's with
    each place as a token.
    """

    tap = "activation"
    variable_names = ("depthwise_kernel", "pointwise_kernel", "bias")

    def supports(self, layer: Any) -> bool:
        return bool(layer.data_format == "channels_last")

    def factors(self, layer: Any, calls: list[LayerCall]) -> list[Any]:
        between = [_places(self._between(layer, call)) for call in calls]
        gradients = [_places(full_precision(call.gradient)) for call in calls]
        found = []
        if self.trains(layer, "pointwise_kernel"):
            found += [tf.concat(between, axis=1), tf.concat(gradients, axis=1)]
        if self.trains(layer, "depthwise_kernel"):
            each = zip(calls, gradients, strict=True)
            found.append(tf.add_n([self._depthwise(layer, call, g) for call, g in each]))
        if self.trains(layer, "bias"):
            found.append(bias_gradients([call.gradient for call in calls]))
        return found

    def _between(self, layer: Any, call: LayerCall) -> Any:
        inputs = full_precision(call.inputs)
        return keras.ops.depthwise_conv(
            inputs,
            tf.cast(layer.depthwise_kernel, inputs.dtype),
            layer.strides if len(set(layer.strides)) > 1 else layer.strides[0],
            layer.padding,
            layer.data_format,
            layer.dilation_rate,
        )

    def _depthwise(self, layer: Any, call: LayerCall, gradient: Any) -> Any:
        *taps, channels, multiplier = layer.depthwise_kernel.shape
        pointwise = tf.reshape(layer.pointwise_kernel, (channels * multiplier, -1))
        through = tf.matmul(gradient, tf.cast(pointwise, gradient.dtype), transpose_b=True)
        windows = _windows(layer, full_precision(call.inputs))
        kernel = tf.einsum(
            "btkc,btcm->bkcm",
            tf.reshape(windows, (-1, windows.shape[1], math.prod(taps), channels)),
            tf.reshape(through, (-1, windows.shape[1], channels, multiplier)),
        )
        return tf.reshape(kernel, (-1, *taps, channels, multiplier))

    def measured(self, layer: Any, factors: list[Any]) -> Measured:
        norms, kept, rest = [], [], list(factors)
        if self.trains(layer, "pointwise_kernel"):
            part = measured_tokens(rest.pop(0), rest.pop(0))
            norms, kept = [part.squared_norms], marked(part)
        norms += [reductions.squared_norms(tensor) for tensor in rest]
        return Measured(tf.add_n(norms), [*kept, *rest])

    def weighted_sums(self, layer: Any, kept: list[Any], weights: Any) -> list[Any]:
        rest, pointwise = list(kept), []
        if self.trains(layer, "pointwise_kernel"):
            found = next_token_sum(rest, weights)
            pointwise = [tf.reshape(found, layer.pointwise_kernel.shape)]
        sums = [reductions.weighted_sum(tensor, weights) for tensor in rest]
        first = int(self.trains(layer, "depthwise_kernel"))
        return [*sums[:first], *pointwise, *sums[first:]]


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
