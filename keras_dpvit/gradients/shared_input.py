"""Dense layers that are called on one tensor, as an attention's queries, keys and values are."""

from typing import Any

import tensorflow as tf

from keras_dpvit import native
from keras_dpvit.gradients import reductions
from keras_dpvit.gradients.dense import DenseRule
from keras_dpvit.gradients.ghost_norm import bias_gradients, joined_tokens
from keras_dpvit.gradients.layer_rules import LayerRule
from keras_dpvit.gradients.rules import LayerCall


class SingleLayer:
    """A single rule, not joined: what it says, in the form that `JointDense` has.

    Args:
        rule: the rule.
    """

    def __init__(self, rule: LayerRule) -> None:
        self._rule = rule

    def factors(self, calls: list[list[LayerCall]]) -> list[Any]:
        """See `GradientRule.factors`; the calls rule by rule."""
        return self._rule.rule.factors(self._rule.layer, calls[0])

    def measured(self, factors: list[Any]) -> tuple[list[Any], list[Any]]:
        """Squared norms `(records,)` for each rule, and what is kept for the sums."""
        found = self._rule.rule.measured(self._rule.layer, factors)
        return [found.squared_norms], found.kept

    def weighted_sums(self, kept: list[Any], weights: list[Any]) -> list[list[Any]]:
        """For each rule the sums under its own weights `(records,)`, variable by variable."""
        return [self._rule.rule.weighted_sums(self._rule.layer, kept, weights[0])]


class JointDense:
    """Dense layers of one width that are called once, on the same tokens.

    Their gradients are written out by one product for all: with `G` the layers' output gradients
    side by side, `G^T x`. Compiled kernels gain nothing by that, and do without.

    Args:
        rules: rules of `DenseRule` whose kernels train.
    """

    def __init__(self, rules: list[LayerRule]) -> None:
        self._rules = rules
        self._biased = [i for i, u in enumerate(rules) if u.rule.trains(u.layer, "bias")]

    def factors(self, calls: list[list[LayerCall]]) -> list[Any]:
        """Inputs `(records, tokens, in)`, gradients `(records, tokens, layers * out)`, biases'."""
        gradients = [joined_tokens([call.gradient]) for (call,) in calls]
        biases = [bias_gradients([calls[index][0].gradient]) for index in self._biased]
        return [joined_tokens([calls[0][0].inputs]), tf.concat(gradients, axis=2), *biases]

    def measured(self, factors: list[Any]) -> tuple[list[Any], list[Any]]:
        """Squared norms `(records,)` for each rule, and what is kept for the sums."""
        inputs, gradients, *biases = factors
        products = tf.matmul(gradients, inputs, transpose_a=True)
        rows = tf.reshape(products, (-1, products.shape[1] // len(self._rules), inputs.shape[2]))
        norms = reductions.squared_norms(rows)
        norms = tf.unstack(tf.reshape(norms, (-1, len(self._rules))), axis=1)
        for index, bias in zip(self._biased, biases, strict=True):
            norms[index] += reductions.squared_norms(bias)
        return norms, [products, *biases]

    def weighted_sums(self, kept: list[Any], weights: list[Any]) -> list[list[Any]]:
        """For each rule the sums under its own weights `(records,)`, variable by variable."""
        products, *biases = kept
        count, width = len(self._rules), products.shape[2]
        rows = tf.reshape(products, (-1, products.shape[1] // count * width))
        # Row l has the weights of layer l at its own rows and nothing at the others'.
        own = tf.linalg.diag(tf.cast(tf.stack(weights, axis=1), rows.dtype))
        sums = tf.matmul(tf.reshape(own, (-1, count)), rows, transpose_a=True)
        sums = tf.transpose(tf.reshape(sums, (count, -1, width)), (0, 2, 1))
        found = [[kernel] for kernel in tf.unstack(sums)]
        for index, bias in zip(self._biased, biases, strict=True):
            found[index].append(reductions.weighted_sum(bias, weights[index]))
        return found


def joined(rules: list[LayerRule], calls: list[list[LayerCall]]) -> list[tuple[Any, list[int]]]:
    """Divides the rules that were called into single ones and joint ones.

    Returns:
        Pairs of a `SingleLayer` or `JointDense` and the numbers of its rules.
    """
    together: dict[Any, list[int]] = {}
    for index, (rule, rule_calls) in enumerate(zip(rules, calls, strict=True)):
        if rule_calls:
            together.setdefault(_shared(rule, rule_calls) or index, []).append(index)
    return [
        (JointDense([rules[i] for i in members]), members)
        if len(members) > 1
        else (SingleLayer(rules[members[0]]), members)
        for members in together.values()
    ]


def _shared(rule: LayerRule, calls: list[LayerCall]) -> tuple[int, ...] | None:
    """The key that layers to be joined have in common; None for one that cannot be joined."""
    if type(rule.rule) is not DenseRule or len(calls) != 1:
        return None
    inputs, gradient = calls[0].inputs, calls[0].gradient
    tokens = 1
    for side in inputs.shape[1:-1]:
        tokens *= side
    widths = inputs.shape[-1], gradient.shape[-1]
    if inputs.dtype != tf.float64 and native.library() is not None:
        return None
    if not rule.rule.trains(rule.layer, "_kernel") or not reductions.writes_out(tokens, *widths):
        return None
    return id(inputs), widths[1]
