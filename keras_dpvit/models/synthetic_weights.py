"""Weights of presets that were learned from made-up images, shipped with the package."""

import io
import pathlib
import zipfile
from typing import Any

import numpy as np

from keras_dpvit import _files
from keras_dpvit._reasons import reason
from keras_dpvit._types import Array
from keras_dpvit.errors import InputError
from keras_dpvit.layers.whitening import WhitenedFeatures
from keras_dpvit.models.presets import check_weights, synthetic_file
from keras_dpvit.privacy.ledger import PrivacyLedger

NOTE = "Initial weights were learned from synthetic images: no record is behind them."

_BACKBONE, _HEAD = "backbone/", "head/"
_CONSTANTS = ("mean", "directions", "scales", "variances")


def load(model: Any, preset: str, weights: str) -> None:
    """Puts the weights of a preset into a classifier; to be called before `compile`.

    Args:
        model: a `DPViTClassifier` of the preset; blocks that its head leaves out are passed by.
        preset: str, one of `names`.
        weights: "synthetic" for those that ship with the package, or a file of `trainers.pretrain`.

    Raises:
        InputError: if there are no such weights, or they do not fit the model.
    """
    check_weights(preset, weights)
    if weights != "synthetic":
        take(model, pathlib.Path(weights))
        return
    with synthetic_file(preset) as path:
        take(model, path)


def take(model: Any, path: pathlib.Path) -> None:
    """Puts weights from a file that `write` made into a classifier; see `load`."""
    from keras_dpvit.models import provenance

    try:
        with np.load(path, allow_pickle=False) as file:
            values = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"weights cannot be read from {str(path)!r}: {reason(error)}.") from error
    variables = model.backbone.variables
    kept = [values[f"{_BACKBONE}{i}"] for i in range(len(variables)) if f"{_BACKBONE}{i}" in values]
    if [v.shape for v in kept] != [tuple(v.shape) for v in variables]:
        raise InputError(
            "weights were made for the preset's own sizes: leave out arguments that change the "
            "backbone."
        )
    model.start_from(PrivacyLedger(), (NOTE,))
    for variable, value in zip(variables, kept, strict=True):
        variable.assign(value.astype("float32"))
    for layer in whitened_layers(model):
        layer.take(*(values[f"{_HEAD}{layer.name}/{part}"] for part in _CONSTANTS))
    provenance.settle(model)


def write(model: Any, constants: dict[str, dict[str, Array]], path: pathlib.Path) -> None:
    """Writes the weights of a classifier's backbone and the constants of its head.

    Args:
        model: a `DPViTClassifier`.
        constants: name of a `WhitenedFeatures` layer to the arguments of its `take`.
        path: a `.npz` file; written whole or not at all.
    """
    import keras

    values = {
        f"{_BACKBONE}{i}": keras.ops.convert_to_numpy(v).astype("float16")
        for i, v in enumerate(model.backbone.variables)
    }
    for name, parts in constants.items():
        values |= {f"{_HEAD}{name}/{part}": parts[part] for part in _CONSTANTS}
    content = io.BytesIO()
    np.savez_compressed(content, **values)
    _files.write_whole(path, content.getvalue())


def whitened_layers(model: Any) -> list[WhitenedFeatures]:
    """The layers of a classifier's head that hold constants."""
    return [layer for layer in model.layers if isinstance(layer, WhitenedFeatures)]
