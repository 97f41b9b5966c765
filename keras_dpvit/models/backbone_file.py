"""A classifier over a Keras model that lies in a file, KerasHub's included."""

import os
import pathlib
import zipfile
from typing import Any

import keras

from keras_dpvit import _reasons, _validate
from keras_dpvit.errors import InputError
from keras_dpvit.models import provenance
from keras_dpvit.models.backbone_pixels import AUTO, PIXELS, SCALINGS
from keras_dpvit.models.linear_head import linear_head
from keras_dpvit.models.private_model import PrivatelyTrainable


def load_backbone(path: str | os.PathLike[str]) -> Any:
    """The model in a `.keras` file: a backbone, or a classifier.

    Raises:
        InputError: if the file cannot be loaded, a model of this package, which has a ledger, wrote
            it, or the model does not take images of one size.
    """
    place = pathlib.Path(path)
    if place.suffix != ".keras" or not zipfile.is_zipfile(place):
        raise InputError(f"backbone must be a .keras file that is whole, got {str(place)!r}.")
    if provenance.read_ledger(place) is not None:
        raise InputError(
            "backbone must be a file of another package, since the records behind it are taken as "
            f"public; {str(place)!r} has a privacy ledger: start from it by init_weights."
        )
    import_hub_for(place)
    try:
        model = keras.saving.load_model(place, compile=False)
    except Exception as error:  # whatever a damaged file makes Keras raise
        raise InputError(
            f"backbone must be a file that can be loaded, got {str(place)!r}: "
            f"{_reasons.reason(error)}."
        ) from error
    shapes = [tuple(tensor.shape[1:]) for tensor in getattr(model, "inputs", None) or []]
    if isinstance(model, PrivatelyTrainable) or len(shapes) != 1:
        raise InputError(
            f"backbone must be a Keras model of one input, {str(place)!r} holds a "
            f"{type(model).__name__}."
        )
    if len(shapes[0]) != 3 or None in shapes[0] or shapes[0][-1] not in (1, 3):
        raise InputError(
            f"backbone must take images of fixed sides with 1 or 3 channels, {str(place)!r} takes "
            f"{shapes[0]}."
        )
    return model


def classifier_on(model: Any, num_classes: int, pixels: str = AUTO, frozen: bool = True) -> Any:
    """A classifier of pixels 0..255 over what a model computes, with a new linear layer of zeros.

    A classifier's own last layer is left out. Tokens are read at the class token where the model
    has one, else averaged; feature maps are averaged.

    Args:
        model: from `load_backbone`.
        num_classes: int.
        pixels: one of `PIXELS`, what the model takes; "auto" asks its KerasHub preprocessor, and
            takes 0..255 where there is none.
        frozen: bool, whether what lies below the new layer is frozen.

    Raises:
        InputError: if the model gives no vectors, tokens or feature maps, or `pixels` fits no
            images of its channels.
    """
    scale, offset = scaling_of(model, pixels)
    shape = model.inputs[0].shape[1:]
    if not isinstance(scale, float) and shape[-1] != len(scale):
        raise InputError(f"pixels={pixels!r} needs images of {len(scale)} channels, not {shape}.")
    below = _vectors(model)
    below.trainable = not frozen
    images = keras.Input(shape, name="images")
    x = keras.layers.Rescaling(scale, offset, name="pixels", dtype="float32")(images)
    logits = keras.layers.Dense(
        num_classes, kernel_initializer="zeros", name="logits", dtype="float32"
    )(below(x))
    network = keras.Model(images, logits, name="classifier")
    provenance.take_as_public(network)
    return network


def scaling_of(model: Any, pixels: str = AUTO) -> tuple[Any, Any]:
    """Factor and offset, of all channels or of each, from pixels 0..255 to what a model takes."""
    _validate.one_of(PIXELS, pixels=pixels)
    if pixels != AUTO:
        return SCALINGS[pixels]
    converter = getattr(getattr(model, "preprocessor", None), "image_converter", None)
    if converter is None:
        return SCALINGS["0..255"]
    scale, offset = converter.scale, converter.offset
    if isinstance(scale, (list, tuple)) or isinstance(offset, (list, tuple)):
        channels = int(model.inputs[0].shape[-1])
        return _each(scale, 1.0, channels), _each(offset, 0.0, channels)
    return (1.0 if scale is None else float(scale)), (0.0 if offset is None else float(offset))


def import_hub_for(path: str | os.PathLike[str]) -> None:
    """Imports KerasHub if the model in a `.keras` file has parts of it, so that Keras finds them.

    Raises:
        InputError: if it is needed and not installed.
    """
    try:
        with zipfile.ZipFile(path) as file:
            needed = b"keras_hub" in file.read("config.json")
    except (OSError, KeyError, zipfile.BadZipFile):  # reported by what loads it
        return
    if not needed:
        return
    try:
        import keras_hub
    except ImportError as error:
        raise InputError(
            f"{str(path)!r} has parts of KerasHub: pip install 'keras_dpvit[hub]'."
        ) from error
    del keras_hub


def _each(value: Any, missing: float, channels: int) -> list[float]:
    value = missing if value is None else value
    return [float(x) for x in value] if isinstance(value, (list, tuple)) else [value] * channels


def _vectors(model: Any) -> Any:
    """The model from its input to one vector for each image."""
    try:
        return keras.Model(model.inputs, linear_head(model).dense.input, name="backbone")
    except InputError:
        shapes = [tuple(output.shape[1:]) for output in model.outputs]
    if len(shapes) != 1 or len(shapes[0]) not in (1, 2, 3):
        raise InputError(
            "backbone must give one vector, tokens or a feature map for each image, "
            f"{model.name} gives {shapes}."
        )
    images = keras.Input(model.inputs[0].shape[1:], name="scaled_images")
    # Called whole: some layers of KerasHub are saved by the model that they are in alone.
    found = model(images)
    if len(shapes[0]) == 3:
        found = keras.layers.GlobalAveragePooling2D(name="pooler")(found)
    elif len(shapes[0]) == 2 and getattr(model, "use_class_token", False):
        found = found[:, 0]
    elif len(shapes[0]) == 2:
        found = keras.layers.GlobalAveragePooling1D(name="pooler")(found)
    return keras.Model(images, found, name="backbone")
