"""Per-example gradients of convolutions."""

import math
from typing import Any

import keras
import tensorflow as tf

from keras_dpvit import native
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
    """A convolution is a Dense layer on patches: each place is a token, each window its input.

    A compiled kernel makes the windows of one record after the other; without it, or where the
    gradients are not written out, they are made for all records at once.
    """

    def supports(self, layer: Any) -> bool:
        return bool(layer.groups == 1 and layer.data_format == "channels_last")

    def factors(self, layer: Any, calls: list[LayerCall]) -> list[Any]:
        """As in `LinearRule`, or the image itself in place of its windows."""
        if len(calls) > 1 or not self.trains(layer, self.variable_names[0]):
            return super().factors(layer, calls)
        images, gradients = self.images(layer, calls[0])
        width = math.prod(layer.kernel_size) * images.shape[-1]
        written_out = reductions.writes_out(gradients.shape[1], width, gradients.shape[2])
        if not (written_out and native.takes(images, gradients)):
            return super().factors(layer, calls)
        return [images, gradients, *self._biases_apart(layer, calls)]

    def images(self, layer: Any, call: LayerCall) -> list[Any]:
        """Images `(records, height, width, channels)` and gradients `(records, places, out)`."""
        images = _as_images(layer, full_precision(call.inputs))[0]
        return [images, joined_tokens([call.gradient])]

    def _biases_apart(self, layer: Any, calls: list[LayerCall]) -> list[Any]:
        """The gradients of a bias that the compiled kernel does not find."""
        del layer, calls
        return []

    def measured(self, layer: Any, factors: list[Any]) -> Measured:
        if not factors or factors[0].shape.rank != 4:
            return super().measured(layer, factors)
        images, gradients, *biases = factors
        found = native.record_convolutions(images, gradients, _places_over(layer, images.shape))
        norms, kept = [found.product_norms], [found.products]
        if biases:
            norms, kept = [*norms, reductions.squared_norms(biases[0])], [*kept, *biases]
        elif self.trains(layer, "bias"):
            norms, kept = [*norms, found.sum_norms], [*kept, found.sums]
        return Measured(tf.add_n(norms), kept)

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
        gradients = [_depthwise(layer, layer.kernel.shape, call.inputs, call.gradient)]
        if layer.bias is not None:
            gradients.append(bias_gradients([call.gradient]))
        return gradients


@register_rule(keras.layers.Conv1DTranspose)
@register_rule(keras.layers.Conv2DTranspose)
class ConvTransposeRule(ConvRule):
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

    def images(self, layer: Any, call: LayerCall) -> list[Any]:
        images = _as_images(layer, full_precision(call.gradient))[0]
        return [images, joined_tokens([call.inputs])]

    def bias_gradients(self, layer: Any, calls: list[LayerCall]) -> Any:
        return bias_gradients([call.gradient for call in calls])

    def _biases_apart(self, layer: Any, calls: list[LayerCall]) -> list[Any]:
        return [self.bias_gradients(layer, calls)] if self.trains(layer, "bias") else []


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
            found.append(tf.add_n([self._before_product(layer, call) for call in calls]))
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

    def _before_product(self, layer: Any, call: LayerCall) -> Any:
        """The gradient in the depthwise kernel, through the product of channels."""
        gradient = full_precision(call.gradient)
        shape = layer.depthwise_kernel.shape
        pointwise = tf.reshape(layer.pointwise_kernel, (shape[-2] * shape[-1], -1))
        through = tf.matmul(gradient, tf.cast(pointwise, gradient.dtype), transpose_b=True)
        return _depthwise(layer, shape, call.inputs, through)

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


def _depthwise(layer: Any, kernel_shape: Any, inputs: Any, gradient: Any) -> Any:
    """Each record's gradient in a depthwise kernel, `(records, *kernel_shape)`.

    TensorFlow's own gradient of a batch of one whose channels are the records' channels, one after
    another: it keeps channels apart. It knows no dilation and no two strides; then the inputs are
    moved under each element of the kernel.

    Args:
        layer: the layer, for kernel size, strides, dilation and padding.
        kernel_shape: `(*sizes, channels, multiplier)`.
        inputs: `(records, *places, channels)`.
        gradient: of the depthwise output, `(records, *places, channels * multiplier)`.
    """
    images, sizes, strides, rates, padding = _as_images(layer, full_precision(inputs))
    gradient = full_precision(gradient)
    gradient = gradient[:, None] if layer.rank == 1 else gradient
    channels, multiplier = kernel_shape[-2:]
    if set(rates) == {1} and len(set(strides)) == 1:
        records = tf.shape(images)[0]
        found = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
            input=_one_image(images),
            filter_sizes=tf.stack([*sizes, records * channels, multiplier]),
            out_backprop=_one_image(gradient),
            strides=[1, *strides, 1],
            padding=padding.upper(),
        )
        found = tf.reshape(found, (*sizes, -1, channels, multiplier))
        return tf.reshape(tf.transpose(found, (2, 0, 1, 3, 4)), (-1, *kernel_shape))
    windows = tf.image.extract_patches(
        images, [1, *sizes, 1], [1, *strides, 1], [1, *rates, 1], padding=padding.upper()
    )
    taps = tf.split(windows, math.prod(sizes), axis=-1)
    gradient = tf.reshape(gradient, (-1, *gradient.shape[1:3], channels, multiplier))
    found = [tf.reduce_sum(tap[..., None] * gradient, axis=(1, 2)) for tap in taps]
    return tf.reshape(tf.stack(found, axis=1), (-1, *kernel_shape))


def _one_image(images: Any) -> Any:
    """All records' channels as those of one image, `(1, height, width, records * channels)`."""
    height, width = images.shape[1:3]
    return tf.reshape(tf.transpose(images, (1, 2, 0, 3)), (1, height, width, -1))


def _windows(layer: Any, inputs: Any) -> Any:
    """The inputs that the kernel sees at each place, `(records, places, taps * channels)`."""
    images, *lists, padding = _as_images(layer, inputs)
    sizes, strides, rates = ([1, *each, 1] for each in lists)
    return _places(tf.image.extract_patches(images, sizes, strides, rates, padding=padding.upper()))


def _places_over(layer: Any, image_shape: Any) -> native.Places:
    """The places of a layer's kernel over images from `_as_images`."""
    strides, rates = list(layer.strides), list(layer.dilation_rate)
    sizes, padding = list(layer.kernel_size), layer.padding
    if layer.rank == 1:
        sizes, strides, rates = [1, *sizes], [1, *strides], [1, *rates]
    before, number = [], []
    for side, size, stride, rate in zip(image_shape[1:3], sizes, strides, rates, strict=True):
        reach = (size - 1) * rate + 1
        if padding == "same":
            number.append(-(-side // stride))
            before.append(max((number[-1] - 1) * stride + reach - side, 0) // 2)
        else:
            number.append((side - reach) // stride + 1)
            before.append(0)
    return native.Places(*map(tuple, (sizes, strides, rates, before, number)))


def _as_images(layer: Any, inputs: Any) -> tuple[Any, list[int], list[int], list[int], str]:
    """Inputs `(records, height, width, channels)`; sizes, strides, dilation and padding."""
    lists = [list(each) for each in (layer.kernel_size, layer.strides, layer.dilation_rate)]
    padding = layer.padding
    if layer.rank == 1:  # a row of an image of height 1
        if padding == "causal":
            past = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
            inputs, padding = tf.pad(inputs, [[0, 0], [past, 0], [0, 0]]), "valid"
        inputs = inputs[:, None]
        lists = [[1, *each] for each in lists]
    return inputs, *lists, padding


def _places(tensor: Any) -> Any:
    """`(records, places, channels)`, whatever the number of spatial axes."""
    return joined_tokens([tensor])
