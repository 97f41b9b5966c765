"""Layers that hold what `adapt` computed: statistics without noise, which no step protects."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_dpvit.layers.inside import layers_inside


def adapted_statistics(model: Any) -> tuple[str, ...]:
    """A line for each layer that holds statistics that its `adapt` computed.

    Args:
        model: a Keras model.
    """
    return tuple(
        f"Layer {layer.name} holds statistics that adapt() computed: if from these records, they "
        "are in the model without noise; give mean and variance as constants instead."
        for layer in layers_inside(model)
        for kind, is_adapted in _KINDS.items()
        if isinstance(layer, kind) and is_adapted(layer)
    )


def _normalization(layer: Any) -> bool:
    if layer.input_mean is not None or not layer.built:
        return False
    mean, variance = np.asarray(layer.adapt_mean), np.asarray(layer.adapt_variance)
    return bool(np.any(mean != 0) or np.any(variance != 1))


def _discretization(layer: Any) -> bool:
    # Boundaries that were given leave num_bins out; adapt needs it.
    return layer.num_bins is not None and layer.bin_boundaries is not None


def _lookup(layer: Any) -> bool:
    return layer.input_vocabulary is None and bool(
        layer.get_vocabulary(include_special_tokens=False)
    )


def _text(layer: Any) -> bool:
    return _lookup(layer._lookup_layer)  # noqa: SLF001


_KINDS: dict[Any, Callable[[Any], bool]] = {
    keras.layers.Normalization: _normalization,
    keras.layers.Discretization: _discretization,
    keras.layers.StringLookup: _lookup,
    keras.layers.IntegerLookup: _lookup,
    keras.layers.TextVectorization: _text,
}
