"""Dense layers that are called on one tensor, as an attention's queries, keys and values are."""

from typing import Any

import tensorflow as tf

from keras_dpvit import native
from keras_dpvit.gradients import kernels
from keras_dpvit.gradients.dense import DenseRule
from keras_dpvit.gradients.rules import LayerCall
from keras_dpvit.gradients.tokens import bias_gradients, joined_tokens
from keras_dpvit.gradients.units import Unit


class SingleUnit:
    """A unit by itself: what its rule says, in the form that `JointDense` has.

    Args:
        unit: the unit.
    """

    def __init__(self, unit: Unit) -> None:
        self._unit = unit

    def factors(self, calls: list[list[LayerCall]]) -> list[Any]:
        """See `GradientRule.factors`; the calls unit by unit."""
        return self._unit.rule.factors(self._unit.layer, calls[0])

    def measured(self, factors: list[Any]) -> tuple[list[Any], list[Any]]:
        """Squared norms `(records,)` for each unit, and what is kept for the sums."""
        found = self._unit.rule.measured(self._unit.layer, factors)
        return [found.squared_norms], found.kept

    def weighted_sums(self, kept: list[Any], weights: list[Any]) -> list[list[Any]]:
        """For each unit the sums under its own weights `(records,)`, variable by variable."""
        return [self._unit.rule.weighted_sums(self._unit.layer, kept, weights[0])]


class JointDense:
    """Dense layers of one width that are called once, on the same tokens.

    Their gradients are written out by one product for all: with `G` the layers' output gradients
    side by side, `G^T x`. Compiled kernels gain nothing by that, and do without.

    Args:
        units: units of `DenseRule` whose kernels train.
    """

    def __init__(self, units: list[Unit]) -> None:
        self._units = units
        self._biased = [i for i, u in enumerate(units) if u.rule.trains(u.layer, "bias")]

    def factors(self, calls: list[list[LayerCall]]) -> list[Any]:
        """Inputs `(records, tokens, in)`, gradients `(records, tokens, layers * out)`, biases'."""
        gradients = [joined_tokens([call.gradient]) for (call,) in calls]
        biases = [bias_gradients([calls[index][0].gradient]) for index in self._biased]
        return [joined_tokens([calls[0][0].inputs]), tf.concat(gradients, axis=2), *biases]

    def measured(self, factors: list[Any]) -> tuple[list[Any], list[Any]]:
        """Squared norms `(records,)` for each unit, and what is kept for the sums."""
        inputs, gradients, *biases = factors
        products = tf.matmul(gradients, inputs, transpose_a=True)
        rows = tf.reshape(products, (-1, products.shape[1] // len(self._units), inputs.shape[2]))
        norms = kernels.squared_norms(rows)
        norms = tf.unstack(tf.reshape(norms, (-1, len(self._units))), axis=1)
        for index, bias in zip(self._biased, biases, strict=True):
            norms[index] += kernels.squared_norms(bias)
        return norms, [products, *biases]

    def weighted_sums(self, kept: list[Any], weights: list[Any]) -> list[list[Any]]:
        """For each unit the sums under its own weights `(records,)`, variable by variable."""
        products, *biases = kept
        count, width = len(self._units), products.shape[2]
        rows = tf.reshape(products, (-1, products.shape[1] // count * width))
        # Row l has the weights of layer l at its own rows and nothing at the others'.
        own = tf.linalg.diag(tf.cast(tf.stack(weights, axis=1), rows.dtype))
        sums = tf.matmul(tf.reshape(own, (-1, count)), rows, transpose_a=True)
        sums = tf.transpose(tf.reshape(sums, (count, -1, width)), (0, 2, 1))
        found = [[kernel] for kernel in tf.unstack(sums)]
        for index, bias in zip(self._biased, biases, strict=True):
            found[index].append(kernels.weighted_sum(bias, weights[index]))
        return found


def joined(units: list[Unit], calls: list[list[LayerCall]]) -> list[tuple[Any, list[int]]]:
    """Divides the units that were called into single ones and joint ones.

    Returns:
        Pairs of a `SingleUnit` or `JointDense` and the numbers of its units.
    """
    together: dict[Any, list[int]] = {}
    for index, (unit, unit_calls) in enumerate(zip(units, calls, strict=True)):
        if unit_calls:
            together.setdefault(_shared(unit, unit_calls) or index, []).append(index)
    return [
        (JointDense([units[i] for i in members]), members)
        if len(members) > 1
        else (SingleUnit(units[members[0]]), members)
        for members in together.values()
    ]


def _shared(unit: Unit, calls: list[LayerCall]) -> tuple[int, ...] | None:
    """What layers that can be joined have in common; None for one that cannot be."""
    if type(unit.rule) is not DenseRule or len(calls) != 1:
        return None
    inputs, gradient = calls[0].inputs, calls[0].gradient
    tokens = 1
    for side in inputs.shape[1:-1]:
        tokens *= side
    widths = inputs.shape[-1], gradient.shape[-1]
    if inputs.dtype != tf.float64 and native.library() is not None:
        return None
    if not unit.rule.trains(unit.layer, "_kernel") or not kernels.writes_out(tokens, *widths):
        return None
    return id(inputs), widths[1]
