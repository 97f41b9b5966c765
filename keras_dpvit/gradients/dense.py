"""Per-example gradients of a Dense layer."""

from typing import Any

import keras

from keras_dpvit.gradients.ghost_norm import LinearRule, joined_tokens
from keras_dpvit.gradients.rules import LayerCall, register_rule


@register_rule(keras.layers.Dense)
class DenseRule(LinearRule):
    """A Dense layer's tokens are all places along the axes between the first and the last."""

    def tokens(self, layer: Any, calls: list[LayerCall]) -> list[Any]:
        return [
            joined_tokens([call.inputs for call in calls]),
            joined_tokens([call.gradient for call in calls]),
        ]
