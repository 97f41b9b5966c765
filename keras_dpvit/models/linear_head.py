"""The linear layer that a classifier ends in, and what lies below it."""

import dataclasses
import functools
from typing import Any

import keras

from keras_dpvit.errors import InputError
from keras_dpvit.models.trainable import network_of

# A softmax changes neither the layer's place nor what its weights mean.
_ACTIVATIONS = (keras.activations.linear, keras.activations.softmax)


@dataclasses.dataclass(frozen=True)
class LinearHead:
    """A classifier cut above its features.

    Attributes:
        network: the Keras model.
        dense: its last layer, a `Dense`, which holds the head's weights.
    """

    network: Any
    dense: Any

    @functools.cached_property
    def features_model(self) -> Any:
        """The model from the network's inputs to the input of the last layer."""
        return keras.Model(self.network.inputs, self.dense.input, name="features")

    @functools.cached_property
    def head_model(self) -> Any:
        """The last layer, shared with the network, as a model of features."""
        features = keras.Input(self.dense.input.shape[1:], name="features")
        return keras.Model(features, self.dense(features), name="head")


def linear_head(model: Any) -> LinearHead:
    """Finds the linear head of a classifier.

    Args:
        model: a functional or sequential Keras model, or one of this package, that ends in a
            `Dense` layer without activation or with a softmax.

    Raises:
        InputError: if it ends otherwise, or a branch stands beside that layer.
    """
    network = network_of(model)
    outputs = getattr(network, "outputs", None) or []
    layers = getattr(network, "layers", [])
    found = [x for x in layers if isinstance(x, keras.layers.Dense) and _ends_in(x, outputs)]
    if not found or found[0].activation not in _ACTIVATIONS or len(found[0].input.shape) != 2:
        raise InputError(
            "model must have a head of one linear layer: a functional or sequential model that "
            f"ends in a Dense layer over vectors, without a branch beside it; {network.name} "
            "ends otherwise."
        )
    return LinearHead(network, found[0])


def _ends_in(layer: Any, outputs: list[Any]) -> bool:
    try:
        return len(outputs) == 1 and layer.output is outputs[0]
    except (AttributeError, ValueError):  # never called, or called more than once
        return False
