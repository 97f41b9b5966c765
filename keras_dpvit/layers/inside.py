"""The layers inside a layer."""

from typing import Any


def layers_inside(layer: Any, include_self: bool = True) -> list[Any]:
    """All layers in a layer, at any depth, each once; an outer layer before those in it.

    Args:
        layer: a Keras layer or model.
        include_self: bool, whether the layer itself is among them.
    """
    # Keras has no public way to the children of a layer that is not a model.
    return list(layer._flatten_layers(include_self=include_self))  # noqa: SLF001


def children_of(layer: Any) -> list[Any]:
    """The layers directly in a layer."""
    return list(layer._layers)  # noqa: SLF001


def trained_variables(layer: Any) -> list[Any]:
    """The variables in a layer, at any depth, that train.

    Also those below a frozen layer whose own layer was set to train after it, as adapters in a
    frozen backbone are: the model trains them, `layer.trainable_variables` does not name them.
    """
    return [v for v in layer.variables if v.trainable]
