"""Per-example gradients of a Dense layer."""

from typing import Any

import keras

from keras_dpvit.gradients.rules import LayerCall, register_rule
from keras_dpvit.gradients.tokens import TokenRule, joined_tokens


@register_rule(keras.layers.Dense)
class DenseRule(TokenRule):
    """A Dense layer's tokens are all places along the axes between the first and the last."""

    def tokens(self, layer: Any, calls: list[LayerCall]) -> list[Any]:
        return [
            joined_tokens([call.inputs for call in calls]),
            joined_tokens([call.gradient for call in calls]),
        ]
