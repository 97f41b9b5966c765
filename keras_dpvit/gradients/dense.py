"""Per-example gradients of a Dense layer."""

from typing import Any

import keras
import tensorflow as tf

from keras_dpvit.gradients.rules import (
    GradientRule,
    LayerCall,
    full_precision,
    register_rule,
    weighted,
)


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

    def squared_norms(self, layer: Any, calls: list[LayerCall]) -> Any:
        return token_norms(
            *_tokens(calls), self.trains(layer, "_kernel"), self.trains(layer, "bias")
        )

    def weighted_sums(self, layer: Any, calls: list[LayerCall], weights: Any) -> list[Any]:
        return token_sums(
            *_tokens(calls), weights, self.trains(layer, "_kernel"), self.trains(layer, "bias")
        )


def token_norms(inputs: Any, gradients: Any, kernel: bool, bias: bool) -> Any:
    """Squared norms `(records,)` of `sum_t x_t g_t^T` and `sum_t g_t` together.

    Args:
        inputs: `(records, tokens, in)`.
        gradients: `(records, tokens, out)`, of the output.
        kernel: bool, whether the first takes part.
        bias: bool, whether the second does.
    """
    parts = []
    if kernel:
        parts.append(_product_norms(inputs, gradients))
    if bias:
        parts.append(_row_norms(tf.reduce_sum(gradients, axis=1)))
    return tf.add_n(parts)


def token_sums(inputs: Any, gradients: Any, weights: Any, kernel: bool, bias: bool) -> list[Any]:
    """Sums over records of `weights` times the gradients that `token_norms` measures."""
    sums = []
    if kernel and _written_out(inputs, gradients):
        products = tf.matmul(inputs, gradients, transpose_a=True)
        sums.append(tf.tensordot(tf.cast(weights, products.dtype), products, axes=1))
    elif kernel:
        flat_inputs = tf.reshape(inputs, (-1, inputs.shape[-1]))
        flat_gradients = tf.reshape(weighted(gradients, weights), (-1, gradients.shape[-1]))
        sums.append(tf.matmul(flat_inputs, flat_gradients, transpose_a=True))
    if bias:
        row_sums = tf.reduce_sum(gradients, axis=1)
        sums.append(tf.tensordot(tf.cast(weights, row_sums.dtype), row_sums, axes=1))
    return sums


def _written_out(inputs: Any, gradients: Any) -> bool:
    """Whether `x^T g` of every record is held: measured on CPU, six products an element pay it."""
    tokens, width_in, width_out = inputs.shape[1], inputs.shape[2], gradients.shape[2]
    return bool(tokens > 1 and 6 * width_in * width_out <= tokens**2 * (width_in + width_out))


def _product_norms(inputs: Any, gradients: Any) -> Any:
    if inputs.shape[1] == 1:
        return _row_norms(inputs[:, 0]) * _row_norms(gradients[:, 0])
    if _written_out(inputs, gradients):
        products = tf.matmul(inputs, gradients, transpose_a=True)
        return tf.reduce_sum(products**2, axis=(1, 2))
    gram = tf.matmul(inputs, inputs, transpose_b=True) * tf.matmul(
        gradients, gradients, transpose_b=True
    )
    # Rounding can leave a vanishing norm just below zero.
    return tf.maximum(tf.reduce_sum(gram, axis=(1, 2)), 0.0)


def _tokens(calls: list[LayerCall]) -> tuple[Any, Any]:
    """Inputs `(records, tokens, in)` and output gradients `(records, tokens, out)`, float32."""
    inputs, gradients = [], []
    for call in calls:
        tokens = 1
        for side in call.inputs.shape[1:-1]:
            tokens *= side
        inputs.append(tf.reshape(full_precision(call.inputs), (-1, tokens, call.inputs.shape[-1])))
        gradients.append(
            tf.reshape(full_precision(call.gradient), (-1, tokens, call.gradient.shape[-1]))
        )
    return tf.concat(inputs, axis=1), tf.concat(gradients, axis=1)


def _row_norms(rows: Any) -> Any:
    return tf.reduce_sum(rows**2, axis=-1)
