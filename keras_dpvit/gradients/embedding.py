"""Per-example gradients of a table that integers look up."""

from typing import Any

import keras
import tensorflow as tf

from keras_dpvit.gradients import reductions
from keras_dpvit.gradients.rules import (
    GradientRule,
    LayerCall,
    Measured,
    full_precision,
    register_rule,
)


@register_rule(keras.layers.Embedding)
class EmbeddingRule(GradientRule):
    """Row r of a record's gradient is the sum of `g_t` over the places t that look r up.

    Places of a record that look up the same row are added up, at the first of them, before
    anything is measured: norm and weighted sum are read from the same numbers, whatever cancels.
    The weighted sum is scattered once for all records.
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

    def measured(self, layer: Any, factors: list[Any]) -> Measured:
        rows, gradients = factors
        places = rows.shape[1]
        if places > 1:
            same = tf.cast(tf.equal(rows[:, :, None], rows[:, None, :]), tf.int8)
            first = tf.one_hot(tf.argmax(same, axis=2), places, dtype=gradients.dtype)
            gradients = tf.matmul(first, gradients, transpose_a=True)
        return Measured(reductions.squared_norms(gradients), [rows, gradients])

    def weighted_sums(self, layer: Any, kept: list[Any], weights: Any) -> list[Any]:
        rows, gradients = kept
        gradients = tf.reshape(reductions.weighted(gradients, weights), (-1, layer.output_dim))
        return [tf.math.unsorted_segment_sum(gradients, tf.reshape(rows, (-1,)), layer.input_dim)]
