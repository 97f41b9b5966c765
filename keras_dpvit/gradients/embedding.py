"""Per-example gradients of a table that integers look up."""

from typing import Any

import keras
import tensorflow as tf

from keras_dpvit.gradients import kernels
from keras_dpvit.gradients.rules import GradientRule, LayerCall, full_precision, register_rule


@register_rule(keras.layers.Embedding)
class EmbeddingRule(GradientRule):
    """Row r of a record's gradient is the sum of `g_t` over the places t that look r up.

    No record's gradient is written out: its squared norm is the sum of `g_s . g_t` over the pairs
    of places that look up the same row, and the weighted sum is scattered once for all records.
    """

    variable_names = ("_embeddings",)

    def factors(self, layer: Any, calls: list[LayerCall]) -> list[Any]:
        """Rows `(records, places)` and gradients `(records, places, width)`."""
        rows, gradients = [], []
        for call in calls:
            places = 1
            for side in call.inputs.shape[1:]:
                places *= side
            index = tf.reshape(tf.cast(call.inputs, tf.int32), (-1, places))
            # Keras counts negative ones from the end.
            rows.append(tf.where(index < 0, index + layer.input_dim, index))
            gradient = full_precision(call.gradient)
            gradients.append(tf.reshape(gradient, (-1, places, layer.output_dim)))
        return [tf.concat(rows, axis=1), tf.concat(gradients, axis=1)]

    def squared_norms(self, layer: Any, factors: list[Any]) -> Any:
        rows, gradients = factors
        same = tf.equal(rows[:, :, None], rows[:, None, :])
        products = tf.matmul(gradients, gradients, transpose_b=True)
        products = tf.where(same, products, tf.zeros([], products.dtype))
        # Rounding can leave a vanishing norm just below zero.
        return tf.maximum(tf.reduce_sum(products, axis=(1, 2)), 0.0)

    def weighted_sums(self, layer: Any, factors: list[Any], weights: Any) -> list[Any]:
        rows, gradients = factors
        gradients = tf.reshape(kernels.weighted(gradients, weights), (-1, layer.output_dim))
        return [tf.math.unsorted_segment_sum(gradients, tf.reshape(rows, (-1,)), layer.input_dim)]
