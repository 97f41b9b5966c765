"""Per-example gradients of a Dense layer."""

import math
from typing import Any

import keras
import tensorflow as tf

from keras_dpvit.gradients import kernels
from keras_dpvit.gradients.rules import GradientRule, LayerCall, full_precision, register_rule


@register_rule(keras.layers.Dense)
class DenseRule(GradientRule):
    """`y = x W + b`: a record's gradient is `sum_t x_t g_t^T` over its tokens t, and `sum_t g_t`.

    Each record's gradient is written out where tokens are many for the layer's width: then norm and
    weighted sum are both read from it, and no product is taken twice (TensorFlow merges the equal
    operations of the two). Else its squared norm is the sum over token pairs of
    `(x_s . x_t)(g_s . g_t)`, from two Gram matrices, and the weighted sum one product for all
    records. Several calls of a layer are more tokens of the same record.
    """

    tap = "activation"
    variable_names = ("_kernel", "bias")

    def factors(self, layer: Any, calls: list[LayerCall]) -> list[Any]:
        """Inputs `(records, tokens, in)` and output gradients `(records, tokens, out)`."""
        return [
            joined_tokens([call.inputs for call in calls]),
            joined_tokens([call.gradient for call in calls]),
        ]

    def squared_norms(self, layer: Any, factors: list[Any]) -> Any:
        inputs, gradients = factors
        kernel, bias = self.trains(layer, "_kernel"), self.trains(layer, "bias")
        return token_norms(inputs, gradients, kernel, bias)

    def weighted_sums(self, layer: Any, factors: list[Any], weights: Any) -> list[Any]:
        inputs, gradients = factors
        kernel, bias = self.trains(layer, "_kernel"), self.trains(layer, "bias")
        return token_sums(inputs, gradients, weights, kernel, bias)


def token_norms(inputs: Any, gradients: Any, kernel: bool, bias: bool) -> Any:
    """Squared norms `(records,)` of `sum_t x_t g_t^T` and `sum_t g_t` together.

    Args:
        inputs: `(records, tokens, in)`.
        gradients: `(records, tokens, out)`, of the output.
        kernel: bool, whether the first takes part.
        bias: bool, whether the second does.
    """
    width_in, width_out = inputs.shape[2], gradients.shape[2]
    if not kernel:
        return kernels.squared_norms(tf.reduce_sum(gradients, axis=1))
    if inputs.shape[1] == 1:
        norms = kernels.squared_norms(inputs[:, 0])
        return (norms + 1.0 if bias else norms) * kernels.squared_norms(gradients[:, 0])
    if kernels.writes_out(inputs.shape[1], width_in, width_out):
        norms = kernels.squared_norms(_products(inputs, gradients))
        if bias:
            norms += kernels.squared_norms(tf.reduce_sum(gradients, axis=1))
        return norms
    pairs = tf.matmul(inputs, inputs, transpose_b=True)
    if bias:
        pairs += 1.0  # a bias is the weight of an input that is always 1
    pairs *= tf.matmul(gradients, gradients, transpose_b=True)
    # Rounding can leave a vanishing norm just below zero.
    return tf.maximum(tf.reduce_sum(pairs, axis=(1, 2)), 0.0)


def token_sums(inputs: Any, gradients: Any, weights: Any, kernel: bool, bias: bool) -> list[Any]:
    """Sums over records of `weights` times the gradients that `token_norms` measures."""
    tokens, width_in, width_out = inputs.shape[1], inputs.shape[2], gradients.shape[2]
    if not kernel or kernels.writes_out(tokens, width_in, width_out):
        sums = [kernels.weighted_sum(_products(inputs, gradients), weights)] if kernel else []
        if bias:
            sums.append(kernels.weighted_sum(tf.reduce_sum(gradients, axis=1), weights))
        return sums
    if width_in > width_out:  # the narrower one is scaled
        gradients = _flat(kernels.weighted(gradients, weights))
        sums = [tf.matmul(_flat(inputs), gradients, transpose_a=True)]
        return [*sums, tf.reduce_sum(gradients, axis=0)] if bias else sums
    scaled = kernels.weighted(inputs, weights)
    if not bias:
        return [tf.matmul(_flat(scaled), _flat(gradients), transpose_a=True)]
    ones = kernels.weighted(tf.ones_like(inputs[:, :, :1]), weights)
    both = tf.matmul(_flat(tf.concat([scaled, ones], axis=2)), _flat(gradients), transpose_a=True)
    return [both[:-1], both[-1]]


def _products(inputs: Any, gradients: Any) -> Any:
    """Every record's gradient in the kernel, `(records, in, out)`."""
    return tf.matmul(inputs, gradients, transpose_a=True)


def _flat(tokens: Any) -> Any:
    return tf.reshape(tokens, (-1, tokens.shape[-1]))


def joined_tokens(tensors: list[Any]) -> Any:
    """Tensors `(records, ..., width)` as one `(records, tokens, width)` in full precision.

    A single one that has this form already comes back itself, not a copy.
    """
    parts = []
    for tensor in tensors:
        part = full_precision(tensor)
        if part.shape.rank != 3:
            part = tf.reshape(part, (-1, math.prod(part.shape[1:-1]), part.shape[-1]))
        parts.append(part)
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=1)
