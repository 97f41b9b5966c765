"""Per-example gradients of position tables and position gates."""

from typing import Any

import tensorflow as tf

from keras_dpvit.gradients.rules import InstantiatedRule, LayerCall, float32, register_rule
from keras_dpvit.layers.embedding import PositionTable
from keras_dpvit.layers.position_gate import PositionGate


@register_rule(PositionTable)
class PositionTableRule(InstantiatedRule):
    """`y = x + table`: the gradient is the output's own."""

    def per_example(self, layer: Any, call: LayerCall) -> list[Any]:
        return [float32(call.gradient)]


@register_rule(PositionGate)
class PositionGateRule(InstantiatedRule):
    """`y = (1 - s) * content + s * place`, `s = sigmoid(gate)`, `place = softmax(R w)`.

    With `G` the output's gradient, in the gate `s' * sum_ij G_ij (place - content)_ij`, and in the
    weights `s * sum_ij G_ij place_ij (R_ij - sum_k place_ik R_ik)`: one product of `G` with an
    array that is the same for all records.
    """

    def per_example(self, layer: Any, call: LayerCall) -> list[Any]:
        gradient, content = float32(call.gradient), float32(call.inputs)
        encodings = tf.constant(layer.encodings)
        place = float32(layer.place_attention())
        gate = tf.sigmoid(float32(layer.gate))
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
