"""Per-example, per-layer norms and weighted sums of a whole model."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_dpvit.gradients.recording import record_calls
from keras_dpvit.gradients.rules import LayerCall
from keras_dpvit.gradients.units import Unit


class PerExampleGradients:
    """The gradients of one batch, kept as each layer's input and output gradient.

    Args:
        units: the model's units.
        forward: calls the model and returns `(losses, aux)`: one loss for each record,
            `(records,)`, and anything else of the forward pass.

    Attributes:
        losses, aux: what `forward` returned.
    """

    def __init__(self, units: list[Unit], forward: Callable[[], tuple[Any, Any]]) -> None:
        self._units = units
        with tf.GradientTape() as tape:
            with record_calls([(unit.layer, unit.rule) for unit in units]) as calls:
                self.losses, self.aux = forward()
            total = tf.reduce_sum(self.losses)
        self._calls: list[list[LayerCall]] = calls
        flat = [call for unit_calls in calls for call in unit_calls]
        gradients = tape.gradient(
            total, [call.output for call in flat], unconnected_gradients="zero"
        )
        for call, gradient in zip(flat, gradients, strict=True):
            call.gradient = gradient

    def layer_norms(self) -> Any:
        """L2 norms `(records, units)` in the losses' dtype; 0 for a layer that was not called."""
        squares = [
            unit.rule.squared_norms(unit.layer, calls) if calls else tf.zeros_like(self.losses)
            for unit, calls in zip(self._units, self._calls, strict=True)
        ]
        return tf.sqrt(tf.stack([tf.cast(s, self.losses.dtype) for s in squares], axis=1))

    def weighted_sums(self, weights: Any) -> list[Any]:
        """Sum over records of `weights[i, l]` times the gradient of layer l.

        Args:
            weights: float32 `(records, units)`, not negative; a row of zeros leaves a record
                out, unless its activations are not finite (`0 * inf`): see
                `training.trainer`.

        Returns:
            tensors in the order of `unit.variables`, unit by unit.
        """
        sums: list[Any] = []
        for index, (unit, calls) in enumerate(zip(self._units, self._calls, strict=True)):
            if calls:
                sums += unit.rule.weighted_sums(unit.layer, calls, weights[:, index])
            else:
                sums += [tf.zeros(v.shape, self.losses.dtype) for v in unit.variables]
        return sums
