"""Per-example gradients of gains and biases."""

from typing import Any

import keras
import tensorflow as tf

from keras_dpvit.gradients.rules import InstantiatedRule, LayerCall, full_precision, register_rule
from keras_dpvit.layers.fixed_normalization import FixedNormalization
from keras_dpvit.layers.normalization import GainAndBias


def _gain_and_bias(normalized: Any, gradient: Any, use_gain: bool, use_bias: bool) -> list[Any]:
    between = list(range(1, gradient.shape.rank - 1))
    gradients = []
    if use_gain:
        gradients.append(tf.reduce_sum(gradient * normalized, axis=between))
    if use_bias:
        gradients.append(tf.reduce_sum(gradient, axis=between))
    return gradients


@register_rule(GainAndBias)
class GainAndBiasRule(InstantiatedRule):
    """`y = x * gain + bias`, so the gradients are `sum_t g_t x_t` and `sum_t g_t`."""

    variable_names = ("gain", "bias")

    def per_example(self, layer: Any, call: LayerCall) -> list[Any]:
        return _gain_and_bias(
            full_precision(call.inputs), full_precision(call.gradient), True, layer.bias is not None
        )


@register_rule(keras.layers.LayerNormalization)
class LayerNormalizationRule(InstantiatedRule):
    """Keras' own layer, over its last axis: the normalised input is computed once more."""

    variable_names = ("gamma", "beta")

    def supports(self, layer: Any) -> bool:
        only_last = layer.axis in (-1, [-1], (-1,))
        return only_last and not getattr(layer, "rms_scaling", False)

    def per_example(self, layer: Any, call: LayerCall) -> list[Any]:
        inputs = full_precision(call.inputs)
        mean, variance = tf.nn.moments(inputs, axes=[-1], keepdims=True)
        normalized = (inputs - mean) * tf.math.rsqrt(variance + layer.epsilon)
        return _gain_and_bias(normalized, full_precision(call.gradient), layer.scale, layer.center)


@register_rule(keras.layers.GroupNormalization)
class GroupNormalizationRule(InstantiatedRule):
    """Keras' own layer over groups of the last axis: again the normalised input is recomputed."""

    variable_names = ("gamma", "beta")

    def supports(self, layer: Any) -> bool:
        return layer.axis in (-1, layer.input_spec.ndim - 1)

    def per_example(self, layer: Any, call: LayerCall) -> list[Any]:
        inputs = full_precision(call.inputs)
        *places, channels = inputs.shape[1:]
        grouped = tf.reshape(inputs, (-1, *places, layer.groups, channels // layer.groups))
        axes = [axis for axis in range(1, grouped.shape.rank) if axis != grouped.shape.rank - 2]
        mean, variance = tf.nn.moments(grouped, axes=axes, keepdims=True)
        normalized = (grouped - mean) * tf.math.rsqrt(variance + layer.epsilon)
        normalized = tf.reshape(normalized, (-1, *places, channels))
        return _gain_and_bias(normalized, full_precision(call.gradient), layer.scale, layer.center)


@register_rule(FixedNormalization)
class FixedNormalizationRule(InstantiatedRule):
    """A scale and an offset of what fixed statistics normalise."""

    variable_names = ("gamma", "beta")

    def supports(self, layer: Any) -> bool:
        return layer.axis in (-1, layer.input_spec.ndim - 1)

    def per_example(self, layer: Any, call: LayerCall) -> list[Any]:
        inputs = full_precision(call.inputs)
        mean, variance = (tf.cast(v, inputs.dtype) for v in (layer.mean, layer.variance))
        normalized = tf.math.rsqrt(variance + layer.epsilon) * (inputs - mean)
        return _gain_and_bias(normalized, full_precision(call.gradient), layer.scale, layer.center)
