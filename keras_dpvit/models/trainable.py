"""The part of a model that is trained: all of it, its head, or its biases and its head."""

from collections.abc import Iterable
from typing import Any

import keras

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.layers.inside import children_of

TRAINABLE = ("all", "head", "bias")
_BIAS_NAMES = ("bias", "beta")

# Set on a variable that `choose_trainable` has frozen, so that it knows what it may release.
_FROZEN_HERE = "_frozen_by_keras_dpvit"


def choose_trainable(model: Any, trainable: str = "all") -> None:
    """Chooses what a model trains, by `variable.trainable`; to be called before `compile`.

    A variable that is frozen otherwise (`layer.trainable = False`) stays frozen under every
    choice. Each call replaces the choice of the one before, and "all" lifts it. The choice is
    about this object: Keras writes no variable's `trainable` into a file. Only models of this
    package, once compiled, keep it in theirs and have it again when they are loaded.

    Args:
        model: a built Keras model, or one of this package.
        trainable: "all"; "head", the new task's layers alone: whatever lies outside of
            `model.backbone`, or without such an attribute the last layer that owns trainable
            variables; "bias", all additive biases (variables named bias or beta) and the head's
            other variables too, since a head for new classes starts from random weights:
            differentially private bias-term fine-tuning (Bu et al. 2022, arXiv:2210.00036).

    Raises:
        InputError: on another word, or if it leaves nothing to train; the choice before then
            stands.

    Example:
        >>> model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=3)
        >>> kd.choose_trainable(model, "head")
        >>> len(model.trainable_variables)
        2
    """
    _validate.one_of(TRAINABLE, trainable=trainable)
    network = network_of(model)
    frozen = [v for v in network.variables if getattr(v, _FROZEN_HERE, False)]
    for variable in frozen:
        variable.trainable = True
    candidates = network.trainable_variables
    chosen = {id(v) for v in _chosen(network, candidates, trainable)}
    if not chosen:
        for variable in frozen:
            variable.trainable = False
        raise InputError(
            f"trainable={trainable!r} leaves no variable of {network.name} to train: choose "
            f"another of {', '.join(TRAINABLE)}, or unfreeze layers."
        )
    for variable in candidates:
        variable.trainable = id(variable) in chosen
        setattr(variable, _FROZEN_HERE, not variable.trainable)
    if network is not model or hasattr(model, "trainable_part"):
        model.trainable_part = trainable


def network_of(model: Any) -> Any:
    """The Keras model inside a `DPModel`; any other model itself."""
    wrapped = hasattr(model, "privacy_ledger") and hasattr(model, "network")
    return model.network if wrapped else model


def head_variables(network: Any, among: Iterable[Any]) -> list[Any]:
    """Those of some variables that belong to the head of a model (see `choose_trainable`).

    Args:
        network: a built Keras model.
        among: variables of it.
    """
    backbone = getattr(network, "backbone", None)
    if isinstance(backbone, keras.layers.Layer):
        inside = {id(v) for v in backbone.variables}
        return [v for v in among if id(v) not in inside]
    wanted = {id(v): v for v in among}
    last: list[Any] = []
    for layer in _depth_first(network):
        below = {id(v) for child in children_of(layer) for v in child.variables}
        own = [v for v in layer.variables if id(v) not in below and id(v) in wanted]
        last = own or last
    return last


def _chosen(network: Any, candidates: list[Any], trainable: str) -> list[Any]:
    if trainable == "all":
        return candidates
    chosen = head_variables(network, candidates)
    if trainable == "bias":
        chosen = chosen + [v for v in candidates if v.name in _BIAS_NAMES]
    return chosen


def _depth_first(layer: Any) -> Iterable[Any]:
    yield layer
    for child in children_of(layer):
        yield from _depth_first(child)
