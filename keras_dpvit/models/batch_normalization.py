"""Models with BatchNormalization made fit for private training."""

from typing import Any

import keras

from keras_dpvit import _reasons, _validate
from keras_dpvit.errors import InputError
from keras_dpvit.layers.fixed_normalization import FixedNormalization
from keras_dpvit.layers.inside import layers_inside

REPLACEMENTS = ("group", "layer", "frozen")
_MOST_GROUPS = 32  # Wu and He 2018
_LEAST_IN_GROUP = 4
_SUBSTITUTES = (
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    FixedNormalization,
)


def replace_batch_normalization(model: Any, by: str = "group") -> Any:
    """A copy of a model in which no layer normalises over the examples of a batch.

    BatchNormalization computes with the mean of a batch, so that no example has a gradient of its
    own. The copy has in its place:

    * "group": `GroupNormalization` (Wu and He 2018) with as many groups as the channels fill with
      four or more each, 32 at the most: a group of one channel would take its mean away, and what
      is pooled behind it would say nothing;
    * "layer": `LayerNormalization` over the channels;
    * "frozen": the same normalisation by the statistics that the layer has, which no longer
      change; right for weights that were trained elsewhere, of no use for a fresh model.

    Scale and offset are kept, and all other weights. "group" and "layer" compute otherwise than the
    model was trained to: a pre-trained model needs fine-tuning, or "frozen".

    Args:
        model: a functional or sequential Keras model, built.
        by: "group", "layer" or "frozen".

    Returns:
        A new model; the given one is not changed. Without any BatchNormalization it is a copy.

    Raises:
        InputError: if the model cannot be cloned, or a layer normalises within a layer that was
            not made by Keras' functional way.

    Example:
        >>> layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)]
        >>> network = keras.Sequential([*layers, keras.layers.BatchNormalization()])
        >>> type(kd.replace_batch_normalization(network).layers[1]).__name__
        'GroupNormalization'
    """
    _validate.one_of(REPLACEMENTS, by=by)
    if not isinstance(model, (keras.Sequential, keras.Model)) or not model.built:
        raise InputError(f"model must be a built Keras model, got {model!r}.")
    made: list[tuple[Any, Any]] = []
    try:
        copy = _clone(model, by, made)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise InputError(
            "model must be a functional or sequential one that Keras can clone: "
            f"{_reasons.reason(error)}."
        ) from error
    for layer, other in made:
        _copy_weights(layer, other)
    left = [layer.name for layer in layers_inside(copy) if _is_batch_normalization(layer)]
    if left:
        raise InputError(
            f"model has a BatchNormalization inside a layer of its own ({left[0]}): replace it "
            "in that layer's code."
        )
    return copy


def _clone(model: Any, by: str, made: list[tuple[Any, Any]]) -> Any:
    def clone(layer: Any) -> Any:
        if isinstance(layer, keras.Model):
            return _clone(layer, by, made)
        other = _substitute(layer, by) if _is_batch_normalization(layer) else _copied(layer)
        made.append((layer, other))
        return other

    if isinstance(model, keras.Sequential):
        return keras.models.clone_model(model, clone_function=clone)
    return keras.models.clone_model(model, clone_function=clone, call_function=_called)


def _called(layer: Any, *args: Any, **kwargs: Any) -> Any:
    if isinstance(layer, _SUBSTITUTES):
        kwargs = {}  # they take neither a mask nor the mode, which change nothing in them
    return layer(*args, **kwargs)


def _copied(layer: Any) -> Any:
    return type(layer).from_config(layer.get_config())


def _is_batch_normalization(layer: Any) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def _substitute(layer: Any, by: str) -> Any:
    shared: dict[str, Any] = {"name": layer.name, "dtype": layer.dtype_policy}
    options = {**shared, "epsilon": layer.epsilon, "center": layer.center, "scale": layer.scale}
    if by == "layer":
        return keras.layers.LayerNormalization(axis=layer.axis, **options)
    if by == "group":
        groups = _groups(int(layer.moving_mean.shape[0]))
        return keras.layers.GroupNormalization(groups=groups, axis=layer.axis, **options)
    return FixedNormalization(axis=layer.axis, **options)


def _groups(channels: int) -> int:
    most = min(_MOST_GROUPS, max(1, channels // _LEAST_IN_GROUP))
    return max(n for n in range(1, most + 1) if channels % n == 0)


def _copy_weights(layer: Any, other: Any) -> None:
    if not _is_batch_normalization(layer):
        other.set_weights(layer.get_weights())
    elif isinstance(other, FixedNormalization):
        other.take(layer)
    else:
        for name in ("gamma", "beta"):
            if getattr(layer, name, None) is not None:
                getattr(other, name).assign(getattr(layer, name))
    other.trainable = layer.trainable
