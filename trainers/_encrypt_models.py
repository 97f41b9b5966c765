"""Models under a key as files: loading, moving to a key, writing."""

import os
import pathlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

from keras_dpvit import _files, _quiet
from keras_dpvit.errors import InputError
from keras_dpvit.runs import model_files


def check_output(source: str, target: str) -> None:
    """Raises InputError unless `target` is a new .keras file in a folder that can be written."""
    model_files.check_model_file(source, "input")
    path = pathlib.Path(target).absolute()
    folder = path.parent
    if path.suffix != ".keras" or not _files.is_writable(folder):
        raise InputError(
            "output must be a file ending in .keras in a folder that can be written, "
            f"got {target!r}."
        )
    if path.exists():
        raise InputError(f"output must be a new file; {target!r} exists.")


def convert(source: str, target: str, move: Callable[[Any], Any]) -> None:
    """Reads a model, moves it and writes it, whole or not at all.

    Args:
        source: a .keras file.
        target: a new .keras file.
        move: from a model to the model under another key.

    Raises:
        InputError: as `check_output`, `load_any` and `move` do.
    """
    check_output(source, target)
    _quiet.start_tensorflow()
    model = model_files.load_any(source, "input")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        moved = move(model)
    for warning in caught:
        if warning.category is UserWarning:
            print(f"warning: {warning.message}", file=sys.stderr)
    work = pathlib.Path(target).with_name(f".{os.getpid()}-{pathlib.Path(target).name}")
    try:
        moved.save(work)
        os.link(work, target)  # unlike a rename, never over another file
    except OSError as error:
        raise InputError(f"output {target!r} cannot be written: {error.strerror}.") from error
    finally:
        work.unlink(missing_ok=True)


def rotate(source: str, target: str, old: Any, new: Any) -> None:
    """Puts a model under another key.

    Args:
        source: a .keras file.
        target: a new .keras file.
        old: its `KeyFile`.
        new: the `KeyFile` for the output.
    """
    from keras_dpvit.encryption import keyed_model

    convert(source, target, lambda model: keyed_model.rotate(model, old, new))
    print(f"The model is under key {new.key.kid} in {target}.")
