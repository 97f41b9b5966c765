"""Per-example gradients of a matrix that every token of a record is multiplied with."""

import abc
import math
from typing import Any

import tensorflow as tf

from keras_dpvit import native
from keras_dpvit.gradients import kernels
from keras_dpvit.gradients.rules import GradientRule, LayerCall, full_precision


class TokenRule(GradientRule):
    """`y_t = x_t W + b`: a record's gradient is `sum_t x_t g_t^T` over tokens t, and `sum_t g_t`.

    Each record's gradient in `W` is written out where tokens are many for its sides: then norm and
    weighted sum are both read from it, and no product is taken twice (TensorFlow merges the equal
    operations of the two). Else its squared norm is the sum over token pairs of
    `(x_s . x_t)(g_s . g_t)`, from two Gram matrices, and the weighted sum one product for all
    records. Several calls of a layer are more tokens of the same record.
    """

    tap = "activation"
    variable_names = ("_kernel", "bias")

    @abc.abstractmethod
    def tokens(self, layer: Any, calls: list[LayerCall]) -> list[Any]:
        """Inputs `(records, tokens, in)` and output gradients `(records, tokens, out)`."""

    def bias_gradients(self, layer: Any, calls: list[LayerCall]) -> Any:
        """The bias' gradient of each record, `(records, *bias.shape)`."""
        return bias_gradients([call.gradient for call in calls])

    def in_kernel_order(self, layer: Any, kernel: Any) -> Any:
        """`(in, out)` as the layer's kernel is laid out."""
        return tf.reshape(kernel, layer.kernel.shape)

    def factors(self, layer: Any, calls: list[LayerCall]) -> list[Any]:
        """Of a kernel that trains, its `tokens`; of a bias that does, its gradients.

        The bias' are left out where a compiled kernel finds them beside the kernel's.
        """
        kernel = self.tokens(layer, calls) if self.trains(layer, "_kernel") else []
        if not self.trains(layer, "bias") or self._is_found_at_once(kernel):
            return kernel
        return [*kernel, self.bias_gradients(layer, calls)]

    def squared_norms(self, layer: Any, factors: list[Any]) -> Any:
        if self._is_found_at_once(factors[:2]):
            found = native.record_products(*factors)
            both = self.trains(layer, "bias")
            return found.product_norms + found.sum_norms if both else found.product_norms
        parts = []
        if self.trains(layer, "_kernel"):
            parts.append(token_norms(factors[0], factors[1]))
        if self.trains(layer, "bias"):
            parts.append(kernels.squared_norms(factors[-1]))
        return tf.add_n(parts)

    def weighted_sums(self, layer: Any, factors: list[Any], weights: Any) -> list[Any]:
        sums = []
        if self.trains(layer, "_kernel"):
            kernel = token_sums(factors[0], factors[1], weights)
            sums.append(self.in_kernel_order(layer, kernel))
        if self.trains(layer, "bias"):
            found_at_once = self._is_found_at_once(factors[:2])
            rows = native.record_products(*factors).sums if found_at_once else factors[-1]
            sums.append(kernels.weighted_sum(rows, weights))
        return sums

    def _is_found_at_once(self, kernel: list[Any]) -> bool:
        # A rule with bias gradients of its own keeps them: they need not be `sum_t g_t`.
        plain_bias = type(self).bias_gradients is TokenRule.bias_gradients
        return plain_bias and len(kernel) == 2 and is_compiled(*kernel)


def is_compiled(inputs: Any, gradients: Any) -> bool:
    """Whether a compiled kernel writes the layer's gradients out."""
    tokens, width_in, width_out = inputs.shape[1], inputs.shape[2], gradients.shape[2]
    return kernels.writes_out(tokens, width_in, width_out) and native.takes(inputs, gradients)


def token_norms(inputs: Any, gradients: Any) -> Any:
    """Squared norms `(records,)` of `sum_t x_t g_t^T`.

    Args:
        inputs: `(records, tokens, in)`.
        gradients: `(records, tokens, out)`, of the output.
    """
    if inputs.shape[1] == 1:
        return kernels.squared_norms(inputs[:, 0]) * kernels.squared_norms(gradients[:, 0])
    if is_compiled(inputs, gradients):
        return native.record_products(inputs, gradients).product_norms
    if kernels.writes_out(inputs.shape[1], inputs.shape[2], gradients.shape[2]):
        return kernels.squared_norms(_products(inputs, gradients))
    if native.takes(inputs, gradients):
        return native.gram_norms(inputs, gradients)
    pairs = tf.matmul(inputs, inputs, transpose_b=True)
    pairs *= tf.matmul(gradients, gradients, transpose_b=True)
    # Rounding can leave a vanishing norm just below zero.
    return tf.maximum(tf.reduce_sum(pairs, axis=(1, 2)), 0.0)


def token_sums(inputs: Any, gradients: Any, weights: Any) -> Any:
    """Sum over records of `weights` times what `token_norms` measures, `(in, out)`."""
    tokens, width_in, width_out = inputs.shape[1], inputs.shape[2], gradients.shape[2]
    if kernels.writes_out(tokens, width_in, width_out):
        return kernels.weighted_sum(_products(inputs, gradients), weights)
    if width_in > width_out:  # the narrower one is scaled
        gradients = kernels.weighted(gradients, weights)
    else:
        inputs = kernels.weighted(inputs, weights)
    return tf.matmul(_flat(inputs), _flat(gradients), transpose_a=True)


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


def bias_gradients(tensors: list[Any]) -> Any:
    """Sums over tokens `(records, width)` of output gradients `(records, ..., width)`."""
    return tf.add_n([tf.reduce_sum(joined_tokens([tensor]), axis=1) for tensor in tensors])


def _products(inputs: Any, gradients: Any) -> Any:
    """Every record's gradient in the kernel, `(records, in, out)`."""
    if is_compiled(inputs, gradients):
        return native.record_products(inputs, gradients).products
    return tf.matmul(inputs, gradients, transpose_a=True)


def _flat(tokens: Any) -> Any:
    return tf.reshape(tokens, (-1, tokens.shape[-1]))
