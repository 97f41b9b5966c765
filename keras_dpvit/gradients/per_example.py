"""Per-example, per-layer norms and weighted sums of a whole model."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_dpvit.gradients.joint import joined
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
        jit_compile: bool, XLA for the forward and backward pass. Norms and sums stay with
            TensorFlow's kernels, which are faster at many small products.

    Attributes:
        losses, aux: what `forward` returned.
    """

    def __init__(
        self,
        units: list[Unit],
        forward: Callable[[], tuple[Any, Any]],
        rows_per_record: int = 1,
        scale: float = 1.0,
        *,
        jit_compile: bool = False,
    ) -> None:
        self._units = units
        self._rows = rows_per_record

        def backward() -> _Found:
            return _backward(units, forward, rows_per_record, scale)

        found = _compiled(backward) if jit_compile else backward()
        self._parts, self._factors, self.losses, self.aux = found

    def layer_norms(self) -> Any:
        """L2 norms `(records, units)` in the losses' dtype; 0 for a layer that was not called."""
        squares = [tf.zeros_like(self.losses[:: self._rows])] * len(self._units)
        for (part, members), factors in zip(self._parts, self._factors, strict=True):
            for index, norms in zip(members, part.squared_norms(factors), strict=True):
                squares[index] = tf.cast(norms, self.losses.dtype)
        return tf.sqrt(tf.stack(squares, axis=1))

    def weighted_sums(self, weights: Any) -> list[Any]:
        """Sum over records of `weights[i, l]` times the gradient of layer l.

        Args:
            weights: float32 `(records, units)`, not negative; a row of zeros leaves a record
                out, unless its activations are not finite (`0 * inf`): see
                `training.step`.

        Returns:
            tensors in the order of `unit.variables`, unit by unit.
        """
        columns = tf.unstack(weights, len(self._units), axis=1)
        sums = [[tf.zeros(v.shape, self.losses.dtype) for v in u.variables] for u in self._units]
        for (part, members), factors in zip(self._parts, self._factors, strict=True):
            found = part.weighted_sums(factors, [columns[index] for index in members])
            for index, own in zip(members, found, strict=True):
                sums[index] = own
        return [tensor for own in sums for tensor in own]


# The parts of a model, their factors, losses and aux.
_Found = tuple[list[tuple[Any, list[int]]], list[list[Any]], Any, Any]


def _backward(
    units: list[Unit], forward: Callable[[], tuple[Any, Any]], rows: int, scale: float
) -> _Found:
    """One forward and one backward pass."""
    with tf.GradientTape() as tape:
        with record_calls([(unit.layer, unit.rule) for unit in units]) as calls:
            losses, aux = forward()
        total = scale * tf.reduce_sum(losses)
    flat = [call for unit_calls in calls for call in unit_calls]
    gradients = tape.gradient(total, [call.output for call in flat], unconnected_gradients="zero")
    for call, gradient in zip(flat, gradients, strict=True):
        call.gradient = gradient
    if rows > 1:
        calls = [
            [part for call in unit_calls for part in _row_by_row(call, rows)]
            for unit_calls in calls
        ]
    parts = joined(units, calls)
    factors = [part.factors([calls[index] for index in members]) for part, members in parts]
    return parts, factors, losses, aux


def _compiled(backward: Callable[[], _Found]) -> _Found:
    """The same in a function that XLA compiles, once for each number of records."""
    parts: list[Any] = []
    places: list[list[int]] = []  # of each factor among the tensors that come out

    def function() -> Any:
        found, factors, losses, aux = backward()
        parts.extend(found)
        tensors: dict[int, Any] = {}  # one for all layers that are called on it
        for own in factors:
            for factor in own:
                tensors.setdefault(id(factor), factor)
            places.append([list(tensors).index(id(factor)) for factor in own])
        return list(tensors.values()), losses, aux

    tensors, losses, aux = tf.function(function, jit_compile=True, autograph=False)()
    return parts, [[tensors[place] for place in own] for own in places], losses, aux


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
