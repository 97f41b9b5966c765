"""Per-example gradients of a matrix that every token of a record is multiplied with."""

import abc
import math
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dpvit import native
from keras_dpvit.gradients import reductions
from keras_dpvit.gradients.rules import GradientRule, LayerCall, Measured, full_precision


class LinearRule(GradientRule):
    """`y_t = x_t W + b`: a record's gradient is `sum_t x_t g_t^T` over tokens t, and `sum_t g_t`.

    Each record's gradient in `W` is written out where tokens are many for its sides: then norm and
    weighted sum are both read from it. Else its squared norm is the sum over token pairs of
    `(x_s . x_t)(g_s . g_t)`, from two Gram matrices, plus a bound on what rounding takes away
    where tokens cancel each other, and the weighted sum is one product for all records. Several
    calls of a layer are more tokens of the same record.
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
        """The `tokens` of a kernel that trains, and the gradients of a bias that does.

        The bias' are left out where a compiled kernel finds them beside the kernel's.
        """
        kernel = self.tokens(layer, calls) if self.trains(layer, self.variable_names[0]) else []
        if not self.trains(layer, "bias") or self._is_found_at_once(kernel):
            return kernel
        return [*kernel, self.bias_gradients(layer, calls)]

    def measured(self, layer: Any, factors: list[Any]) -> Measured:
        norms, kept = [], []
        if self._is_found_at_once(factors[:2]):
            found = native.record_products(*factors)
            norms, kept = [found.product_norms], [found.products]
            if self.trains(layer, "bias"):
                norms, kept = [*norms, found.sum_norms], [*kept, found.sums]
            return Measured(tf.add_n(norms), kept)
        if self.trains(layer, self.variable_names[0]):
            kernel = measured_tokens(factors[0], factors[1])
            norms, kept = [kernel.squared_norms], kernel.kept
        if self.trains(layer, "bias"):
            norms, kept = [*norms, reductions.squared_norms(factors[-1])], [*kept, factors[-1]]
        return Measured(tf.add_n(norms), kept)

    def weighted_sums(self, layer: Any, kept: list[Any], weights: Any) -> list[Any]:
        sums = []
        if self.trains(layer, self.variable_names[0]):
            kernel = kept[:-1] if self.trains(layer, "bias") else kept
            sums.append(self.in_kernel_order(layer, token_sums(kernel, weights)))
        if self.trains(layer, "bias"):
            sums.append(reductions.weighted_sum(kept[-1], weights))
        return sums

    def _is_found_at_once(self, kernel: list[Any]) -> bool:
        # A rule that defines its own bias gradients keeps them: they need not be `sum_t g_t`.
        plain_bias = type(self).bias_gradients is LinearRule.bias_gradients
        return plain_bias and len(kernel) == 2 and is_compiled(*kernel)


def is_compiled(inputs: Any, gradients: Any) -> bool:
    """True if a compiled kernel writes the layer's gradients out."""
    tokens, width_in, width_out = inputs.shape[1], inputs.shape[2], gradients.shape[2]
    return reductions.writes_out(tokens, width_in, width_out) and native.takes(inputs, gradients)


def measured_tokens(inputs: Any, gradients: Any) -> Measured:
    """Squared norms of `sum_t x_t g_t^T`, and what `token_sums` adds up.

    Args:
        inputs: `(records, tokens, in)`.
        gradients: `(records, tokens, out)`, of the output.
    """
    tokens, width_in, width_out = inputs.shape[1], inputs.shape[2], gradients.shape[2]
    if tokens == 1:  # one product, in which nothing cancels
        norms = reductions.squared_norms(inputs) * reductions.squared_norms(gradients)
        return Measured(norms, [inputs, gradients])
    if reductions.writes_out(tokens, width_in, width_out):
        products = tf.matmul(inputs, gradients, transpose_a=True)
        return Measured(reductions.squared_norms(products), [products])
    if native.takes(inputs, gradients):
        return Measured(native.gram_norms(inputs, gradients), [inputs, gradients])
    return Measured(gram_norms(inputs, gradients), [inputs, gradients])


def gram_norms(inputs: Any, gradients: Any) -> Any:
    """Upper bounds of the squared norms of `sum_t x_t g_t^T`, float64 `(records,)`.

    The Gram matrices are float64: in float32, tokens that cancel each other (v and -v) would leave
    nothing but rounding, even 0. The weighted sum stays as it is, so the bound counts what its
    own additions may add to a gradient that cancels, `(tokens + 3) u sum_t |x_t| |g_t|` with
    `u = 2^-24` in float32 (`native/sums.h` has the derivation).

    Args:
        inputs: `(records, tokens, in)`.
        gradients: `(records, tokens, out)`.
    """
    x, g = (tf.cast(tensor, tf.float64) for tensor in (inputs, gradients))
    x_pairs, g_pairs = (tf.matmul(each, each, transpose_b=True) for each in (x, g))
    norms = tf.reduce_sum(x_pairs * g_pairs, axis=(1, 2))
    lengths = tf.sqrt(tf.linalg.diag_part(x_pairs) * tf.linalg.diag_part(g_pairs))
    rounding = 0.5 * float(np.finfo(inputs.dtype.as_numpy_dtype).eps)
    added = (2 * inputs.shape[1] + 32) * rounding * tf.reduce_sum(lengths, axis=1) ** 2
    return tf.maximum(norms, 0.0) + added


def token_sums(kept: list[Any], weights: Any) -> Any:
    """Sum over records of `weights` times what `measured_tokens` kept, `(in, out)`."""
    if len(kept) == 1:
        return reductions.weighted_sum(kept[0], weights)
    inputs, gradients = kept
    if inputs.shape[2] > gradients.shape[2]:  # the narrower one is scaled
        gradients = reductions.weighted(gradients, weights)
    else:
        inputs = reductions.weighted(inputs, weights)
    return tf.matmul(_flat(inputs), _flat(gradients), transpose_a=True)


def marked(part: Measured) -> list[Any]:
    """The tensors that `measured_tokens` kept; a pair gets an axis that a product lacks."""
    return part.kept if len(part.kept) == 1 else [tensor[:, None] for tensor in part.kept]


def next_token_sum(rest: list[Any], weights: Any) -> Any:
    """`token_sums` of what `marked` put first in a list; it is taken off."""
    part = [rest.pop(0)]
    if part[0].shape.rank == 4:
        part = [part[0][:, 0], rest.pop(0)[:, 0]]
    return token_sums(part, weights)


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


def _flat(tokens: Any) -> Any:
    return tf.reshape(tokens, (-1, tokens.shape[-1]))
