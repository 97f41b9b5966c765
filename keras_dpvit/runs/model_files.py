"""Models and pictures that flags name as files."""

import os
import pathlib
import zipfile
from typing import Any

from keras_dpvit import _files, _reasons
from keras_dpvit.errors import InputError


def load_member(path: str, member: int) -> Any:
    """The classifier in a `.keras` file; of a fused model, one of its members.

    Args:
        path: a `.keras` file of this package.
        member: int, from 1.

    Raises:
        InputError: if the file holds no such classifier.
    """
    from keras_dpvit.models.classifier import DPViTClassifier
    from keras_dpvit.models.fused import FusedClassifier

    model = load_any(path)
    members = model.members if isinstance(model, FusedClassifier) else [model]
    if not 1 <= member <= len(members):
        raise InputError(f"member must be 1..{len(members)} for {path!r}, got {member}.")
    chosen = members[member - 1]
    if not isinstance(chosen, DPViTClassifier):
        raise InputError(
            f"model must hold a DPViTClassifier; {path!r} holds a {type(chosen).__name__}."
        )
    return chosen


def load_any(path: str, argument: str = "model") -> Any:
    """The model in a `.keras` file of this package, whatever it is.

    Args:
        path: a `.keras` file.
        argument: what the user calls it, for messages.

    Raises:
        InputError: if the file is missing or cannot be loaded.
    """
    from keras_dpvit.loading import load_model

    check_model_file(path, argument)
    try:
        return load_model(path)
    except Exception as error:
        raise InputError(
            f"{argument} must be a .keras file of this package; {path!r} cannot be loaded: "
            f"{_reasons.reason(error)}."
        ) from error


def save_compressed(model: Any, path: pathlib.Path) -> None:
    """Saves a model to a new `.keras` file, compressed, which Keras leaves out.

    Args:
        model: a model of this package.
        path: the file; nothing is there yet.
    """
    plain = path.with_name(f"{_files.partial_prefix()}{path.name}")
    try:
        model.save(plain)
        with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "x") as target:
            for entry in source.infolist():
                target.writestr(entry, source.read(entry), zipfile.ZIP_DEFLATED)
    finally:
        plain.unlink(missing_ok=True)


def check_model_file(path: str, argument: str = "model") -> None:
    """Checks that there is such a file, before any time is spent.

    Raises:
        InputError: if there is none, or its name does not end in .keras.
    """
    if not path.endswith(".keras") or not os.path.isfile(path):
        raise InputError(
            f"{argument} must be a .keras file, got {path!r}: it does not exist or ends otherwise."
        )


def check_picture(**argument: str) -> None:
    """Checks where a picture goes before any time is spent; an older picture is overwritten.

    Raises:
        InputError: unless it names a PNG file in a directory that can be written.
    """
    ((name, path),) = argument.items()
    folder = pathlib.Path(path).absolute().parent
    if not path.lower().endswith(".png") or not _files.is_writable(folder) or os.path.isdir(path):
        raise InputError(
            f"{name} must be a file ending in .png in a directory that can be written, "
            f"got {path!r}."
        )
