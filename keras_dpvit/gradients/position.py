"""Per-example gradients of position tables and position gates."""

from typing import Any

import tensorflow as tf

from keras_dpvit.gradients.rules import InstantiatedRule, LayerCall, full_precision, register_rule
from keras_dpvit.layers.embedding import PositionTable
from keras_dpvit.layers.position_gate import PositionGate


@register_rule(PositionTable)
class PositionTableRule(InstantiatedRule):
    """`y = x + table`: the gradient is the output's own."""

    def per_example(self, layer: Any, call: LayerCall) -> list[Any]:
        return [full_precision(call.gradient)]


@register_rule(PositionGate)
class PositionGateRule(InstantiatedRule):
    """`y = (1 - s) * content + s * place`, `s = sigmoid(gate)`, `place = softmax(R w)`.

    With `G` the output's gradient, in the gate `s' * sum_ij G_ij (place - content)_ij`, and in the
    weights `s * sum_ij G_ij place_ij (R_ij - sum_k place_ik R_ik)`: one product of `G` with an
    array that is the same for all records.
    """

    def per_example(self, layer: Any, call: LayerCall) -> list[Any]:
        gradient, content = full_precision(call.gradient), full_precision(call.inputs)
        encodings = tf.cast(layer.encodings, gradient.dtype)
        place = tf.cast(layer.place_attention(), gradient.dtype)
        gate = tf.sigmoid(tf.cast(layer.gate, gradient.dtype))
        centred = encodings - tf.einsum("hik,ikc->hic", place, encodings)[:, :, None, :]
        jacobian = place[..., None] * centred
        heads, tokens = place.shape[0], place.shape[1]
        basis = tf.concat([jacobian, place[..., None]], axis=-1)
        basis = tf.reshape(basis, (heads, tokens * tokens, 4))
        flat = tf.reshape(gradient, (-1, heads, tokens * tokens))
        projected = tf.einsum("bhp,hpc->bhc", flat, basis)
        in_weights = gate[:, None] * projected[..., :3]
        by_content = tf.reduce_sum(gradient * content, axis=(2, 3))
        in_gate = gate * (1.0 - gate) * (projected[..., 3] - by_content)
        return [in_weights, in_gate]
