"""Per-example gradients of position tables and position gates."""

from typing import Any

import tensorflow as tf

from keras_dpvit.gradients.rules import InstantiatedRule, LayerCall, full_precision, register_rule
from keras_dpvit.layers.embedding import PositionTable
from keras_dpvit.layers.position_gate import PositionGate


@register_rule(PositionTable)
class PositionTableRule(InstantiatedRule):
    """`y = x + table`: the gradient is the output's own."""

    variable_names = ("table",)

    def per_example(self, layer: Any, call: LayerCall) -> list[Any]:
        return [full_precision(call.gradient)]


@register_rule(PositionGate)
class PositionGateRule(InstantiatedRule):
    """`y = (1 - s) * content + s * place`, `s` the share of place, `place = softmax(R w)`.

    With `G` the output's gradient, in the share `sum_ij G_ij (place - content)_ij`, times the
    share's slope in each gate; in the weights `s * sum_ij G_ij place_ij (R_ij - sum_k place_ik
    R_ik)`: one product of `G` with an array that is the same for all records.
    """

    variable_names = ("position_weights", "gate", "content_gate")

    def per_example(self, layer: Any, call: LayerCall) -> list[Any]:
        gradient, content = full_precision(call.gradient), full_precision(call.inputs)
        encodings = tf.cast(layer.encodings, gradient.dtype)
        place = tf.cast(layer.place_attention(), gradient.dtype)
        share = tf.cast(layer.place_share(), gradient.dtype)
        centred = encodings - tf.einsum("hik,ikc->hic", place, encodings)[:, :, None, :]
        jacobian = place[..., None] * centred
        heads, tokens = place.shape[0], place.shape[1]
        basis = tf.concat([jacobian, place[..., None]], axis=-1)
        basis = tf.reshape(basis, (heads, tokens * tokens, basis.shape[-1]))
        flat = tf.reshape(gradient, (-1, heads, tokens * tokens))
        projected = tf.einsum("bhp,hpc->bhc", flat, basis)
        in_weights = share[:, None] * projected[..., :-1]
        in_share = projected[..., -1] - tf.reduce_sum(gradient * content, axis=(2, 3))
        return [in_weights, *(in_share * slope for slope in _slopes(layer, share))]


def _slopes(layer: Any, share: Any) -> list[Any]:
    """Slope of the share of place in each of the layer's gates."""
    both = share * (1.0 - share)
    if layer.content_gate is None:
        return [both]
    place, content = (
        tf.sigmoid(tf.cast(gate, share.dtype)) for gate in (layer.gate, layer.content_gate)
    )
    return [both * (1.0 - place), -both * (1.0 - content)]
