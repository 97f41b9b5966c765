"""Which layers own the trainable variables, and the rule for each."""

import dataclasses
import logging
from typing import Any

import keras

from keras_dpvit.errors import InputError
from keras_dpvit.gradients import (  # noqa: F401  (they register their rules)
    convolution,
    dense,
    normalization,
    position,
)
from keras_dpvit.gradients.fallback import VectorizedRule, draws_random_numbers
from keras_dpvit.gradients.rules import GradientRule, rule_for


@dataclasses.dataclass(frozen=True)
class Unit:
    """A layer whose own trainable variables are one group of a record's gradient."""

    layer: Any
    rule: GradientRule

    @property
    def variables(self) -> list[Any]:
        """The group's variables, in the order that the rule's sums have."""
        variables: list[Any] = self.layer.trainable_variables
        return variables


def find_units(model: Any) -> list[Unit]:
    """The units of a built model, in the order of its trainable variables.

    Every trainable variable is in exactly one unit. A layer without a rule goes through the
    vectorised fallback, which is announced; nothing is left out.

    Raises:
        InputError: if a layer mixes examples, or draws random numbers and has no rule, or if
            two layers share a variable.
    """
    units: list[Unit] = []
    _collect(model, units)
    _check_cover(model, units)
    without_rule = [u.layer.name for u in units if isinstance(u.rule, VectorizedRule)]
    if without_rule:
        logging.getLogger("keras_dpvit").warning(
            "No per-example rule for %s: using the vectorised fallback, which is slower.",
            ", ".join(without_rule),
        )
    return units


def _collect(layer: Any, units: list[Unit]) -> None:
    if any(unit.layer is layer for unit in units) or not layer.trainable_variables:
        return
    if isinstance(layer, keras.layers.BatchNormalization):
        raise InputError(
            f"Layer {layer.name} is a BatchNormalization: it mixes the examples of a batch, so no "
            "example has a gradient of its own; use LayerNormalization or GroupNormalization."
        )
    children = list(layer._layers)
    inside = {id(v) for child in children for v in child.trainable_variables}
    owns_variables = any(id(v) not in inside for v in layer.trainable_variables)
    if not owns_variables:
        for child in children:
            _collect(child, units)
        return
    rule = None if inside else rule_for(layer)
    if rule is None:
        if draws_random_numbers(layer):
            raise InputError(
                f"Layer {layer.name} ({type(layer).__name__}) draws random numbers and has no "
                "per-example rule: move the noise into a layer without variables, or register a "
                "rule."
            )
        rule = VectorizedRule()
    units.append(Unit(layer, rule))


def _check_cover(model: Any, units: list[Unit]) -> None:
    owner: dict[int, str] = {}
    for unit in units:
        for variable in unit.variables:
            if id(variable) in owner:
                raise InputError(
                    f"Variable {variable.path} belongs to two layers, {owner[id(variable)]} and "
                    f"{unit.layer.name}: share the layer instead of the variable."
                )
            owner[id(variable)] = unit.layer.name
    missing = [v.path for v in model.trainable_variables if id(v) not in owner]
    if missing:
        raise InputError(f"No layer of the model owns {', '.join(missing)}.")
