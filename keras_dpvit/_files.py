"""Files written whole or not at all, places that can be written, and JSON with infinite numbers."""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from keras_dpvit.errors import InputError

Path = str | os.PathLike[str]

# Files of a run's version directory.
CARD_NAME = "privacy_card.json"
KERAS_NAME = "model.keras"
RUN_NAME = "run.json"
TFLITE_NAME = "model.tflite"


def partial_prefix(name: str = "") -> str:
    """The start of the names of files that are being written."""
    return f".part-{name}-" if name else ".part-"


def write_whole(path: Path, content: Any) -> None:
    """Writes a file whole or not at all; an older file is replaced, or stays as it is.

    The content is on the disk before it has the file's name. Missing folders are made.

    Args:
        path: the file.
        content: str, written as UTF-8, or bytes.

    Raises:
        InputError: if the file cannot be written.
    """
    path = pathlib.Path(path)
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    # Not the whole name: with more before it, a long one would be too long.
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    work = path.with_name(f"{partial_prefix(digest)}{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(work, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(work, path)
    except OSError as error:
        work.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from error


def write_json(path: Path, value: Any, indent: int = 1, nan_as_none: bool = True) -> None:
    """Writes a value as JSON, whole or not at all; numbers as in `jsonable`.

    Raises:
        ValueError: on a NaN with `nan_as_none=False`.
        InputError: if the file cannot be written.
    """
    content = jsonable(value, nan_as_none)
    write_whole(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


def jsonable(value: Any, nan_as_none: bool = True) -> Any:
    """The value as JSON can hold it.

    Infinite numbers become "infinite"; NaN becomes None, or stays and is none of JSON's.
    """
    if isinstance(value, dict):
        return {key: jsonable(item, nan_as_none) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item, nan_as_none) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    return None if nan_as_none and isinstance(value, float) and math.isnan(value) else value


def from_jsonable(value: Any) -> Any:
    """The inverse of `jsonable` for infinite numbers."""
    if isinstance(value, dict):
        return {key: from_jsonable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_jsonable(item) for item in value]
    if isinstance(value, str):
        return {"infinite": math.inf, "-infinite": -math.inf}.get(value, value)
    return value


@contextlib.contextmanager
def new_directory(target: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A directory to fill, moved to `target` when the context ends well, removed when not.

    Raises:
        InputError: if `target` exists already, or its place cannot be written.
    """
    target = pathlib.Path(target)
    if target.exists():
        raise InputError(f"{target} exists already: nothing is written over it.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise InputError(f"{target.parent} cannot be written: {error.strerror}.") from error
    try:
        yield work
        work.chmod(0o755)  # mkdtemp's own mode would keep a server of another user out
        os.rename(work, target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def make_directory(path: Path, argument: str) -> pathlib.Path:
    """Makes a directory if it is missing.

    Args:
        path: the directory.
        argument: what the user calls it, for the message.

    Raises:
        InputError: if it cannot be made.
    """
    directory = pathlib.Path(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{argument} must be a directory that can be written: {error.strerror}."
        ) from error
    return directory


def is_writable(folder: Path) -> bool:
    """True for a folder in which files can be made."""
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def can_be_made(path: Path) -> bool:
    """True if the nearest folder above the path that exists can be written."""
    place = pathlib.Path(path).absolute().parent
    while not place.exists():
        place = place.parent
    return is_writable(place)
