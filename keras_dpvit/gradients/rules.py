"""The interface of gradient rules, and their registry."""

import abc
import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_dpvit.gradients import reductions
from keras_dpvit.layers.inside import trained_variables


@dataclasses.dataclass
class LayerCall:
    """One call of a layer in the forward pass.

    Attributes:
        args, kwargs: what the layer's `call` was given.
        output: the tensor, or several, whose gradient the rule wants, `(records, ...)`.
        gradient: gradient of the summed loss in `output`, once it is known. Its row i belongs to
            record i alone, for nothing in the model crosses examples.
        extra: tensors `(records, ...)` that a `CallingRule` keeps from it.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any = None
    gradient: Any = None
    extra: Any = ()

    @property
    def inputs(self) -> Any:
        """The call's first argument."""
        return self.args[0] if self.args else next(iter(self.kwargs.values()))


@dataclasses.dataclass(frozen=True)
class Measured:
    """The norms of every record's gradient in a layer, and what its weighted sum is made of.

    Attributes:
        squared_norms: float64 `(records,)`, never below the squared norm of what is summed.
        kept: tensors `(records, ...)`.
    """

    squared_norms: Any
    kept: list[Any]


class GradientRule(abc.ABC):
    """The per-example gradients of one layer type's variables, computed from its calls.

    A layer called several times in a forward pass has several calls; their gradients add up
    before the norm is taken. Variables that are not trainable take no part in norms or sums.
    """

    # Name of an attribute holding a function that `call` applies last, if `output` is wanted
    # before it.
    tap: str | None = None

    # Attributes that hold the layer's variables, in the order of `layer.trainable_variables`; one
    # may be None or missing.
    variable_names: tuple[str, ...] = ()

    def variables(self, layer: Any) -> list[Any]:
        """The layer's variables that the rule knows, trainable or not, in order."""
        found = (getattr(layer, name, None) for name in self.variable_names)
        return [variable for variable in found if variable is not None]

    # The one variable that the rule is for, None for all of the layer's.
    only_variable: Any = None

    def only(self, variable: Any) -> "GradientRule":
        """The same rule for one of the layer's variables alone."""
        rule = copy.copy(self)
        rule.only_variable = variable
        return rule

    def takes(self, variable: Any) -> bool:
        """True if a variable takes part in norms and sums."""
        return variable.trainable and (self.only_variable is None or variable is self.only_variable)

    def trains(self, layer: Any, name: str) -> bool:
        """True if the layer has this variable and it takes part."""
        variable = getattr(layer, name, None)
        return variable is not None and self.takes(variable)

    def supports(self, layer: Any) -> bool:
        """True if the rule knows this layer's options; if not, the fallback serves it."""
        del layer
        return True

    @abc.abstractmethod
    def factors(self, layer: Any, calls: list[LayerCall]) -> list[Any]:
        """The tensors that norms and sums are made of: `(records, ...)`, float32 or float64.

        Taken once for both, within what XLA compiles if the step is compiled; norms and sums are
        left to TensorFlow's kernels. A tensor that several layers give is handed on once.
        """

    @abc.abstractmethod
    def measured(self, layer: Any, factors: list[Any]) -> Measured:
        """Squared norms of each record's gradient in the layer's trainable variables.

        Guarantee: no norm is below the norm of what `weighted_sums` adds for the record, rounding
        included (up to a few units of float32's last place, see `privacy.sensitivity`). Either
        both are read from the same numbers, or the norm has a bound on its rounding added.
        """

    @abc.abstractmethod
    def weighted_sums(self, layer: Any, kept: list[Any], weights: Any) -> list[Any]:
        """Sum over records of `weights[i] * gradient_i`, for each trainable variable.

        Args:
            layer: the layer.
            kept: what `measured` kept, finite in every row: a weight of 0 would turn a NaN into
                another, so that a record is left out by zeros in its rows (`per_example`).
            weights: float32 tensor `(records,)`.

        Returns:
            tensors, float32 or float64, in the order and shapes of the trainable `variables`.
        """


class CallingRule(GradientRule):
    """A rule that calls the layer itself, to see inside it."""

    @abc.abstractmethod
    def call(self, layer: Any, record: LayerCall) -> Any:
        """The layer's output for `record.args`; sets `record.output` and `record.extra`."""


class InstantiatedRule(GradientRule):
    """A rule that writes every record's gradient out: for layers with few parameters."""

    @abc.abstractmethod
    def per_example(self, layer: Any, call: LayerCall) -> list[Any]:
        """Tensors `(records, *shape)`, one for each of `variables`, trainable or not."""

    def factors(self, layer: Any, calls: list[LayerCall]) -> list[Any]:
        each = [self.per_example(layer, call) for call in calls]
        together = zip(self.variables(layer), *each, strict=True)
        return [tf.add_n(list(gradients)) for v, *gradients in together if self.takes(v)]

    def measured(self, layer: Any, factors: list[Any]) -> Measured:
        return Measured(tf.add_n([reductions.squared_norms(g) for g in factors]), factors)

    def weighted_sums(self, layer: Any, kept: list[Any], weights: Any) -> list[Any]:
        return [reductions.weighted_sum(g, weights) for g in kept]


def full_precision(tensor: Any) -> Any:
    """The tensor in float32 at least: norms and sums are never taken in half precision."""
    return tensor if tensor.dtype == tf.float64 else tf.cast(tensor, tf.float32)


_RULES: list[tuple[Any, GradientRule]] = []


def register_rule(layer_type: type) -> Callable[[type[GradientRule]], type[GradientRule]]:
    """Class decorator: the rule for layers of `layer_type`.

    A rule gives each record's gradient from what the layer was called on and the gradient in its
    output. Where all records' gradients fit into memory, `InstantiatedRule` asks for them alone;
    check a new rule against `tf.GradientTape` on one record at a time.

    Args:
        layer_type: the layer's class; a subclass is served while it inherits `call`.

    Example:
        >>> class Gain(keras.layers.Layer):
        ...     def build(self, shape):
        ...         self.gain = self.add_weight(shape=shape[-1:], name="gain")
        ...     def call(self, x):
        ...         return x * self.gain
        >>> @kd.gradients.register_rule(Gain)
        ... class GainRule(kd.gradients.InstantiatedRule):
        ...     variable_names = ("gain",)
        ...     def per_example(self, layer, call):
        ...         return [call.inputs * call.gradient]  # (records, width), one for each variable
        >>> type(kd.gradients.rules.rule_for(Gain())).__name__
        'GainRule'
    """

    def decorate(rule: type[GradientRule]) -> type[GradientRule]:
        _RULES.append((layer_type, rule()))
        return rule

    return decorate


def rule_for(layer: Any) -> GradientRule | None:
    """The rule of a layer, None if there is none.

    A subclass is served by its base's rule only while it inherits `call`: what computes
    otherwise has other gradients. So does a layer with quantised weights, and a variable that the
    rule does not know, such as LoRA's, is left out of it.
    """
    if layer.quantization_mode is not None:
        return None
    for layer_type, rule in _RULES:
        kind: Any = type(layer)
        inherits_call = issubclass(kind, layer_type) and kind.call is layer_type.call
        if inherits_call and rule.supports(layer) and _knows_all_variables(rule, layer):
            return rule
    return None


def _knows_all_variables(rule: GradientRule, layer: Any) -> bool:
    known = {id(v) for v in rule.variables(layer)}
    return all(id(v) in known for v in trained_variables(layer))
