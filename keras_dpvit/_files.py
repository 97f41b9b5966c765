"""Files written whole or not at all, places that can be written, and JSON with infinite numbers."""

import json
import math
import os
import pathlib
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
    work = path.with_name(f"{partial_prefix(path.name)}{os.getpid()}")
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


def write_json(path: Path, value: Any, indent: int = 1) -> None:
    """Writes a value as JSON, whole or not at all; infinite numbers as in `jsonable`."""
    write_whole(path, json.dumps(jsonable(value), indent=indent, allow_nan=False) + "\n")


def jsonable(value: Any) -> Any:
    """The value as JSON can hold it: infinite numbers as "infinite", NaN as None."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "infinite" if value > 0 else "-infinite"
    return value


def from_jsonable(value: Any) -> Any:
    """The inverse of `jsonable` for infinite numbers."""
    if isinstance(value, dict):
        return {key: from_jsonable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_jsonable(item) for item in value]
    if isinstance(value, str):
        return {"infinite": math.inf, "-infinite": -math.inf}.get(value, value)
    return value


def is_writable(folder: Path) -> bool:
    """True for a folder in which files can be made."""
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def can_be_made(path: Path) -> bool:
    """True if the nearest folder above the path that exists can be written."""
    place = pathlib.Path(path).absolute().parent
    while not place.exists():
        place = place.parent
    return is_writable(place)
