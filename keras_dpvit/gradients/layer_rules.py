"""The layers that own the trainable variables, and the rule for each."""

import dataclasses
import itertools
import logging
import re
from typing import Any

import keras

from keras_dpvit.errors import InputError
from keras_dpvit.gradients import (  # noqa: F401  (they register their rules)
    convolution,
    dense,
    einsum,
    embedding,
    lora,
    normalization,
    position,
    recurrent,
)
from keras_dpvit.gradients.fallback import VectorizedNoiseRule, VectorizedRule
from keras_dpvit.gradients.kept_noise import draws_known_noise_alone, layers_with_noise
from keras_dpvit.gradients.layer_calls import Calls, tensors_of, traced_calls
from keras_dpvit.gradients.rules import CallingRule, GradientRule, LayerCall, rule_for
from keras_dpvit.gradients.spectral import spectra_left
from keras_dpvit.layers.inside import children_of, layers_inside, trained_variables


@dataclasses.dataclass(frozen=True)
class LayerRule:
    """A layer and the trainable variables that are one group of a record's gradient."""

    layer: Any
    rule: GradientRule
    shapes: Any = ()

    def set_shapes(self, calls: list[LayerCall]) -> None:
        """Gives the tensors of calls the sides that they had in a trace of known sizes.

        A reshape by the batch's size leaves the others open where that is not known.
        """
        if self.rule.tap is not None or isinstance(self.rule, CallingRule):
            wanted = [shapes[:-1] for shapes in self.shapes]  # its output is another tensor
        else:
            wanted = self.shapes
        # A loop of one's own may call a layer more often than the trace did.
        for call, shapes in zip(calls, itertools.cycle(wanted), strict=False):
            for tensor, shape in zip(tensors_of(call), shapes, strict=False):
                if tensor.shape.rank == len(shape):
                    tensor.set_shape(shape)

    @property
    def variables(self) -> list[Any]:
        """The group's variables, in the order that the rule's sums have."""
        return [v for v in self.rule.variables(self.layer) if self.rule.takes(v)]


def layer_rules(model: Any, by_variable: bool = False) -> list[LayerRule]:
    """The layers of a built model that own its trainable variables, each with its rule.

    Deepest layers come first, and every trainable variable is in exactly one of the rules. A
    layer without a rule of its type goes through the vectorised fallback, which is announced;
    nothing is left out. Variables that a layer owns beside other layers get a rule apart. A layer
    that is called on something other than the records (positions of a table, say) has no
    gradient for each of them: its variables go to the layer around it.

    Args:
        model: a built Keras model.
        by_variable: bool, rules of one variable each instead of one layer.

    Raises:
        InputError: if a layer mixes examples, or draws random numbers and has no rule, if two
            layers share a variable, or if a layer sees no records and none around it does.
    """
    with spectra_left(model):
        calls = traced_calls(model)
    rules: list[LayerRule] = []
    left = _collect(model, calls, rules, frozenset())
    elsewhere = _read_elsewhere(calls, rules)
    if elsewhere:
        rules = []
        left = _collect(model, calls, rules, elsewhere)
    if left:
        raise InputError(
            f"Variable {left[0].path} is used on tensors whose first axis is not the examples', so "
            "no example has a gradient in it."
        )
    _check_cover(model, rules)
    without_rule = [u.layer.name for u in rules if isinstance(u.rule, VectorizedRule)]
    if without_rule:
        logging.getLogger("keras_dpvit").warning(
            "No per-example rule for %s: using the vectorised fallback, which is slower.",
            ", ".join(without_rule),
        )
    if by_variable:
        return [LayerRule(u.layer, u.rule.only(v), u.shapes) for u in rules for v in u.variables]
    return rules


def clipping_groups(model: Any, rules: list[LayerRule], groups: str) -> list[int]:
    """The number of the group that each rule is clipped with.

    Args:
        model: the built model.
        rules: its rules.
        groups: see `privacy.clipping.Clipping`.
    """
    if groups in ("layer", "variable"):
        return list(range(len(rules)))
    keys = {}
    for top in _top_layers(model):
        stage = re.match(r"stage_\d+(?=_)", top.name) if groups == "stage" else None
        for layer in layers_inside(top):
            keys[id(layer)] = stage[0] if stage else id(top)
    order: dict[Any, int] = {}
    return [
        order.setdefault(keys.get(id(rule.layer), id(rule.layer)), len(order)) for rule in rules
    ]


def _top_layers(model: Any) -> list[Any]:
    """Layers of the model and of models in it, whose names people know."""
    layers: list[Any] = []
    for layer in children_of(model):
        layers += _top_layers(layer) if isinstance(layer, keras.Model) else [layer]
    return layers


def _read_elsewhere(calls: Calls, rules: list[LayerRule]) -> frozenset[int]:
    """The layers, by `id`, of which a variable is read by others than the layer: tied weights.

    A rule would see no more than the layer's own share of such a variable's gradient.
    """
    return frozenset(
        id(rule.layer)
        for rule in rules
        for variable in rule.variables
        if calls.read_elsewhere(variable, rule.layer)
    )


def _collect(
    layer: Any, calls: Calls, rules: list[LayerRule], elsewhere: frozenset[int]
) -> list[Any]:
    """Adds the rules in and below a layer; returns the variables that wait for one around it."""
    if any(rule.layer is layer for rule in rules) or not trained_variables(layer):
        return []
    if isinstance(layer, keras.layers.BatchNormalization):
        raise InputError(
            f"Layer {layer.name} is a BatchNormalization: it mixes the examples of a batch, so no "
            "example has a gradient of its own; kd.replace_batch_normalization(model) gives the "
            "model without, and base.trainable = False freezes the layers that hold it."
        )
    is_read_here = id(layer) not in elsewhere
    if calls.by_record[id(layer)] and is_read_here and (rule := rule_for(layer)) is not None:
        rules.append(LayerRule(layer, rule, calls.shapes[id(layer)]))
        return []
    children = children_of(layer)
    inside = {id(v) for child in children for v in trained_variables(child)}
    waiting = [v for v in trained_variables(layer) if id(v) not in inside]
    for child in children:
        waiting += _collect(child, calls, rules, elsewhere)
    if not waiting or not calls.by_record[id(layer)] or not is_read_here:
        return waiting
    if not draws_known_noise_alone(layer, calls):
        raise InputError(
            f"Layer {layer.name} ({type(layer).__name__}) draws random numbers and has no "
            "per-example rule: draw them in a keras.layers.Dropout or GaussianNoise inside it, or "
            "register a rule."
        )
    noisy = layers_with_noise(layer, calls.asked)
    rule = VectorizedNoiseRule(waiting, noisy) if noisy else VectorizedRule(waiting)
    rules.append(LayerRule(layer, rule, calls.shapes[id(layer)]))
    return []


def _check_cover(model: Any, rules: list[LayerRule]) -> None:
    owner: dict[int, str] = {}
    for rule in rules:
        for variable in rule.variables:
            if id(variable) in owner:
                raise InputError(
                    f"Variable {variable.path} belongs to two layers, {owner[id(variable)]} and "
                    f"{rule.layer.name}: share the layer instead of the variable."
                )
            owner[id(variable)] = rule.layer.name
    missing = [v.path for v in model.trainable_variables if id(v) not in owner]
    if missing:
        raise InputError(f"No layer of the model owns {', '.join(missing)}.")
