"""Per-example, per-layer norms and weighted sums of a whole model."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_dpvit.gradients.layer_calls import record_calls
from keras_dpvit.gradients.layer_rules import LayerRule
from keras_dpvit.gradients.rules import LayerCall
from keras_dpvit.gradients.shared_input import joined


class PerExampleGradients:
    """The gradients of one batch, kept as each layer's input and output gradient.

    Several rows in a row can count as one record: copies of it, or a microbatch. Its gradient is
    then the sum of theirs, as a layer called several times adds its gradients.

    Guarantee: row i of the sums is a function of row i of the batch alone. A row that is absent,
    or whose loss, activations or output gradients are not finite, is replaced by zeros before any
    product, so that it leaves no trace in the others'; a record whose norm is not finite, too.

    Args:
        rules: the model's rules.
        forward: calls the model and returns `(losses, aux)`: one loss for each row,
            `(records * rows_per_record,)`, and anything else of the forward pass.
        present: bool `(records * rows_per_record,)`, False where a row is not a record; None
            for all.
        rows_per_record: int.
        scale: float, a factor on all gradients.
        jit_compile: bool, XLA for the forward and backward pass. Norms and sums stay with
            TensorFlow's kernels, which are faster at many small products.

    Attributes:
        losses, aux: what `forward` returned.
        usable: bool `(records,)`, False for a record that counts as zero.
    """

    def __init__(
        self,
        rules: list[LayerRule],
        forward: Callable[[], tuple[Any, Any]],
        rows_per_record: int = 1,
        scale: float = 1.0,
        *,
        present: Any = None,
        jit_compile: bool = False,
    ) -> None:
        self._rules = rules

        def backward() -> _Found:
            return _backward(rules, forward, rows_per_record, scale, present)

        found = _compiled(backward) if jit_compile else backward()
        self._parts, factors, self.losses, self.aux = found
        self._kept = []
        squares = [tf.zeros_like(self.losses[::rows_per_record], tf.float64)] * len(rules)
        for (part, members), own in zip(self._parts, factors, strict=True):
            norms, kept = part.measured(own)
            self._kept.append(kept)
            for index, norm in zip(members, norms, strict=True):
                squares[index] = norm
        self._norms = tf.sqrt(tf.stack(squares, axis=1))
        # A norm is finite only if all that it was taken from is: no activation need be looked at.
        self._finite = tf.reduce_all(tf.math.is_finite(self._norms), axis=1)
        self.usable = self._finite
        if rows_per_record == 1:
            self.usable &= tf.math.is_finite(self.losses)
            if present is not None:
                self.usable &= present

    def layer_norms(self) -> Any:
        """L2 norms, float64 `(records, rules)`; 0 for a layer that was not called.

        Guarantee: none is below the norm of what `weighted_sums` adds under a weight of 1, but for
        the rounding that `privacy.sensitivity.ROUNDING_MARGIN` covers. They mean nothing for a
        record that is not `usable`.
        """
        return self._norms

    def weighted_sums(self, weights: Any) -> list[Any]:
        """Sum over usable records of `weights[i, l]` times the gradient of layer l.

        Args:
            weights: float32 `(records, rules)`, finite and not negative.

        Returns:
            tensors in the order of `rule.variables`, rule by rule.
        """
        w = tf.unstack(tf.where(self.usable[:, None], weights, 0.0), len(self._rules), axis=1)
        tensors = list({id(t): t for kept in self._kept for t in kept}.values())
        # A pass over all factors, seldom needed: for finite ones a weight of 0 is enough.
        sound = tf.cond(
            tf.reduce_all(self._finite),
            lambda: tensors,
            lambda: [_rows_or_zeros(t, self._finite) for t in tensors],
        )
        by_id = {id(t): own for t, own in zip(tensors, sound, strict=True)}
        return self._sums([[by_id[id(t)] for t in kept] for kept in self._kept], w)

    def _sums(self, kept: list[list[Any]], columns: list[Any]) -> list[Any]:
        sums = [[tf.zeros(v.shape, self.losses.dtype) for v in u.variables] for u in self._rules]
        for (part, members), own_kept in zip(self._parts, kept, strict=True):
            found = part.weighted_sums(own_kept, [columns[index] for index in members])
            for index, own in zip(members, found, strict=True):
                sums[index] = own
        return [tensor for own in sums for tensor in own]


# The parts of a model, their factors, losses and aux.
_Found = tuple[list[tuple[Any, list[int]]], list[list[Any]], Any, Any]


def _backward(
    rules: list[LayerRule],
    forward: Callable[[], tuple[Any, Any]],
    rows: int,
    scale: float,
    present: Any,
) -> _Found:
    """One forward and one backward pass."""
    with tf.GradientTape() as tape:
        with record_calls([(rule.layer, rule.rule) for rule in rules]) as calls:
            losses, aux = forward()
        counted = losses if present is None else tf.where(present, losses, 0.0)
        total = scale * tf.reduce_sum(counted)
    for rule, own in zip(rules, calls, strict=True):
        rule.set_shapes(own)
    flat = [call for of_one in calls for call in of_one]
    gradients = tape.gradient(total, [call.output for call in flat], unconnected_gradients="zero")
    for call, gradient in zip(flat, gradients, strict=True):
        call.gradient = tf.nest.map_structure(_as_tensor, call.output, gradient)
    if rows > 1:
        usable = _usable_rows(flat, losses, present)
        calls = [
            [part for call in of_one for part in _row_by_row(_cleaned(call, usable), rows)]
            for of_one in calls
        ]
    parts = joined(rules, calls)
    factors = [part.factors([calls[index] for index in members]) for part, members in parts]
    return parts, factors, losses, aux


def _as_tensor(output: Any, gradient: Any) -> Any:
    """A gradient as a tensor of its output's shape: a vectorised loss gives unknown slices."""
    tensor = tf.convert_to_tensor(gradient)
    tensor.set_shape(output.shape)
    return tensor


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


def _usable_rows(calls: list[LayerCall], losses: Any, present: Any) -> Any:
    """Rows that are present and have nothing infinite or NaN in any call's input or gradient.

    A record of one row is judged by its norms, at no cost; in one of several rows, a bad one must
    not spoil the others, so that every number is looked at.
    """
    usable = tf.math.is_finite(losses)
    if present is not None:
        usable &= present
    for call in calls:
        for leaf in tf.nest.flatten((call.args, call.kwargs, call.gradient, call.extra)):
            if tf.is_tensor(leaf) and leaf.shape.rank and leaf.dtype.is_floating:
                flat = tf.reshape(leaf, (tf.shape(losses)[0], -1))
                usable &= tf.reduce_all(tf.math.is_finite(flat), axis=1)
    return usable


def _cleaned(call: LayerCall, usable: Any) -> LayerCall:
    """The call with zeros in place of the rows that are not usable."""

    def clean(leaf: Any) -> Any:
        if not tf.is_tensor(leaf) or not leaf.shape.rank:
            return leaf
        return _rows_or_zeros(leaf, usable)

    parts = call.args, call.kwargs, call.gradient, call.extra
    args, kwargs, gradient, extra = tf.nest.map_structure(clean, parts)
    return LayerCall(args, kwargs, None, gradient, extra)


def _rows_or_zeros(tensor: Any, usable: Any) -> Any:
    mask = tf.reshape(usable, (-1,) + (1,) * (tensor.shape.rank - 1))
    return tf.where(mask, tensor, tf.zeros([], tensor.dtype))


def _row_by_row(call: LayerCall, rows: int) -> list[LayerCall]:
    """The call as `rows` calls, the k-th on the k-th row of every record."""

    def row(index: int) -> Callable[[Any], Any]:
        def pick(leaf: Any) -> Any:
            if not tf.is_tensor(leaf) or not leaf.shape.rank:
                return leaf
            return tf.reshape(leaf, (-1, rows, *leaf.shape[1:]))[:, index]

        return pick

    parts = []
    for index in range(rows):
        own = call.args, call.kwargs, call.gradient, call.extra
        args, kwargs, gradient, extra = tf.nest.map_structure(row(index), own)
        parts.append(LayerCall(args, kwargs, None, gradient, extra))
    return parts
