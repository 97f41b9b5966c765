"""Files that travel with a SavedModel beside its graph: class names, privacy card, provenance.

assets/class_names.txt              one a line, in the order of the classes
assets.extra/privacy_card.json      what may be claimed
assets.extra/provenance.json        versions, preset, plan, signatures, digests of the files
assets.extra/tf_serving_warmup_requests
"""

import hashlib
import json
import os
import pathlib
from typing import Any

import keras
import tensorflow as tf

from keras_dpvit._files import CARD_NAME
from keras_dpvit.errors import InputError
from keras_dpvit.export.served_model import ServedModel
from keras_dpvit.models.fused import FusedClassifier
from keras_dpvit.models.presets import PRESETS, preset_arguments
from keras_dpvit.version import __version__

ASSETS = "assets"
EXTRA = "assets.extra"
CLASS_NAMES_FILE = f"{ASSETS}/class_names.txt"
CARD_FILE = f"{EXTRA}/{CARD_NAME}"
PROVENANCE_FILE = f"{EXTRA}/provenance.json"
WARMUP_FILE = f"{EXTRA}/tf_serving_warmup_requests"

_PROVENANCE_FORMAT = 1


def write_class_names(served: ServedModel, directory: pathlib.Path) -> None:
    """Writes `assets/class_names.txt`."""
    path = directory / CLASS_NAMES_FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in served.class_names), encoding="utf-8")


def provenance(model: Any) -> dict[str, Any]:
    """The provenance of an export, without a word about the machine.

    Args:
        model: the model that is exported.

    Returns:
        A JSON-able dict: versions of this package, TensorFlow and Keras; the model's type, preset
        (None if it has the arguments of none), number of parameters and shapes, and those of its
        members; the plans that its ledger has entries of.
    """
    return {
        "format": _PROVENANCE_FORMAT,
        "package": f"keras_dpvit {__version__}",
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "model": _describe(model),
        "plan": _plans(model),
    }


def write_provenance(content: dict[str, Any], directory: pathlib.Path) -> None:
    """Writes `assets.extra/provenance.json` with the SHA-256 of every file there is by now."""
    path = directory / PROVENANCE_FILE
    path.parent.mkdir(exist_ok=True)
    content = {**content, "sha256": file_digests(directory)}
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def file_digests(directory: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every file below a directory but the provenance, by relative path."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    names = [path.relative_to(directory).as_posix() for path in files]
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in zip(names, files, strict=True)
        if name != PROVENANCE_FILE
    }


def read_class_names(directory: str | os.PathLike[str]) -> list[str]:
    """The class names of an export.

    Raises:
        InputError: if they cannot be read.
    """
    path = pathlib.Path(directory, CLASS_NAMES_FILE)
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} must be a text file with a class name on each line.") from error


def preset_of(model: Any) -> str | None:
    """The name of the preset whose arguments a `DPViTClassifier`'s backbone has, if any.

    Those of its own size come first, before those that resize images of another size.
    """
    backbone = getattr(model, "backbone", None)
    if backbone is None:
        return None
    config = backbone.get_config()
    resized = {name: preset_arguments(name, config["image_shape"]) for name in PRESETS}
    named = [(name, preset_arguments(name)) for name in PRESETS]
    named += [(name, wanted) for name, wanted in resized.items() if "resize_to" in wanted]
    for name, wanted in named:
        if all(_plain(config.get(key)) == _plain(value) for key, value in wanted.items()):
            return name
    return None


def _describe(model: Any) -> dict[str, Any]:
    described = {
        "type": type(model).__name__,
        "preset": preset_of(model),
        "parameters": int(model.count_params()),
        "image_shape": list(model.input_shape[1:]),
        "num_classes": int(model.output_shape[-1]),
    }
    if isinstance(model, FusedClassifier):
        described["members_data"] = model.members_data
        described["members"] = [_describe(member) for member in model.members]
    return described


def _plans(model: Any) -> list[dict[str, Any]]:
    ledger = getattr(model, "privacy_ledger", None)
    plans: list[dict[str, Any]] = []
    for entry in ledger.all_entries() if ledger is not None else ():
        if entry.details and dict(entry.details) not in plans:
            plans.append(dict(entry.details))
    return plans


def _plain(value: Any) -> Any:
    """Tuples as lists, as configs have them after a file."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
