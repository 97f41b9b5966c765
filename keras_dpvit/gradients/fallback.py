"""Per-example gradients of any other layer: its own backward pass, vectorised over records."""

from typing import Any

import keras
import tensorflow as tf

from keras_dpvit.gradients.kept_noise import noise_kept, noise_used
from keras_dpvit.gradients.layer_calls import call_name
from keras_dpvit.gradients.rules import CallingRule, InstantiatedRule, LayerCall, full_precision
from keras_dpvit.layers.inside import layers_inside


class VectorizedRule(InstantiatedRule):
    """Calls the layer again on each record and takes the gradient, by `tf.vectorized_map`.

    Right for every layer whose call is a function of its inputs and variables; a layer that
    draws random numbers would draw others the second time and is refused by `layer_rules`.

    Args:
        variables: those of the layer's trainable variables, or of layers inside it, that no other
            rule serves.
    """

    def __init__(self, variables: list[Any]) -> None:
        self._variables = variables
        self._noisy: list[Any] = []

    def variables(self, layer: Any) -> list[Any]:
        return self._variables

    def per_example(self, layer: Any, call: LayerCall) -> list[Any]:
        # A layer may return several tensors, as a recurrent one does with its state.
        records = tf.shape(tf.nest.flatten(call.gradient)[0])[0]
        leaves = tf.nest.flatten((call.args, call.kwargs))
        batched = [i for i, leaf in enumerate(leaves) if tf.is_tensor(leaf) and leaf.shape.rank]
        function = getattr(layer, call_name(layer))

        def one(rows: tuple[list[Any], Any, list[Any]]) -> list[Any]:
            inputs, gradient, noise = rows
            mine = list(leaves)
            for index, row in zip(batched, inputs, strict=True):
                mine[index] = row[None]
            args, kwargs = tf.nest.pack_sequence_as((call.args, call.kwargs), mine)
            with tf.GradientTape() as tape, noise_used(self._noisy, [row[None] for row in noise]):
                output = function(*args, **kwargs)
            found: list[Any] = tape.gradient(
                output,
                [v.value for v in self._variables],
                output_gradients=tf.nest.map_structure(lambda g: g[None], gradient),
                unconnected_gradients="zero",
            )
            return found

        rows = ([leaves[i] for i in batched], call.gradient, list(call.extra))
        if any(isinstance(part, keras.layers.RNN) for part in layers_inside(layer)):
            # Loops over steps cannot all be vectorised: then one record after the other.
            kinds = [tf.TensorSpec(v.shape, v.dtype) for v in self._variables]
            gradients = tf.map_fn(one, rows, fn_output_signature=kinds)
        else:
            gradients = tf.vectorized_map(one, rows)
        return [
            full_precision(tf.reshape(tf.convert_to_tensor(g), (records, *v.shape)))
            for g, v in zip(gradients, self._variables, strict=True)
        ]


class VectorizedNoiseRule(VectorizedRule, CallingRule):
    """The same for a layer whose random numbers are all drawn by dropout layers inside it.

    Their noise is kept, and used again.

    Args:
        variables: as there.
        noisy: the `layers_with_noise`.
    """

    def __init__(self, variables: list[Any], noisy: list[Any]) -> None:
        super().__init__(variables)
        self._noisy = noisy

    def call(self, layer: Any, record: LayerCall) -> Any:
        """Calls the layer and keeps its noise."""
        own_call = getattr(type(layer), call_name(layer))
        with noise_kept(self._noisy) as noise:
            record.output = own_call(layer, *record.args, **record.kwargs)
        record.extra = noise
        return record.output
