"""Per-example, per-layer norms and weighted sums of a whole model."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_dpvit.gradients.recording import record_calls
from keras_dpvit.gradients.rules import LayerCall
from keras_dpvit.gradients.units import Unit


class PerExampleGradients:
    """The gradients of one batch, kept as each layer's input and output gradient.

    Several rows in a row can count as one record: copies of it, or a microbatch. Its gradient is
    then the sum of theirs, as a layer called several times adds its gradients.

    Args:
        units: the model's units.
        forward: calls the model and returns `(losses, aux)`: one loss for each row,
            `(records * rows_per_record,)`, and anything else of the forward pass.
        rows_per_record: int.
        scale: float, a factor on all gradients.

    Attributes:
        losses, aux: what `forward` returned.
    """

    def __init__(
        self,
        units: list[Unit],
        forward: Callable[[], tuple[Any, Any]],
        rows_per_record: int = 1,
        scale: float = 1.0,
    ) -> None:
        self._units = units
        self._rows = rows_per_record
        with tf.GradientTape() as tape:
            with record_calls([(unit.layer, unit.rule) for unit in units]) as calls:
                self.losses, self.aux = forward()
            total = scale * tf.reduce_sum(self.losses)
        self._calls: list[list[LayerCall]] = calls
        flat = [call for unit_calls in calls for call in unit_calls]
        gradients = tape.gradient(
            total, [call.output for call in flat], unconnected_gradients="zero"
        )
        for call, gradient in zip(flat, gradients, strict=True):
            call.gradient = gradient
        if rows_per_record > 1:
            self._calls = [
                [part for call in unit_calls for part in _row_by_row(call, rows_per_record)]
                for unit_calls in self._calls
            ]

    def layer_norms(self) -> Any:
        """L2 norms `(records, units)` in the losses' dtype; 0 for a layer that was not called."""
        squares = [
            unit.rule.squared_norms(unit.layer, calls)
            if calls
            else tf.zeros_like(self.losses[:: self._rows])
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


def _row_by_row(call: LayerCall, rows: int) -> list[LayerCall]:
    """The call as so many calls, the k-th on the k-th row of every record."""

    def row(index: int) -> Callable[[Any], Any]:
        def pick(leaf: Any) -> Any:
            if not tf.is_tensor(leaf) or not leaf.shape.rank:
                return leaf
            return tf.reshape(leaf, (-1, rows, *leaf.shape[1:]))[:, index]

        return pick

    parts = []
    for index in range(rows):
        args, kwargs = tf.nest.map_structure(row(index), (call.args, call.kwargs))
        parts.append(LayerCall(args, kwargs, None, row(index)(call.gradient)))
    return parts
