"""Version directories, and reading what was written."""

import json
import os
import pathlib
from typing import Any

from keras_dpvit.errors import InputError


def next_version(base: str | os.PathLike[str]) -> int:
    """The first version number above all in `base` (1 if there are none), as TF Serving counts.

    Raises:
        InputError: if `base` is a file.
    """
    base = pathlib.Path(base)
    if base.exists() and not base.is_dir():
        raise InputError(f"{base} is a file, not a directory for versions.")
    taken = [int(p.name) for p in base.glob("*") if p.name.isdecimal()] if base.exists() else []
    return max(taken, default=0) + 1


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: if it is missing or no JSON object.
    """
    try:
        content = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} must be a JSON file that can be read.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object.")
    return content
