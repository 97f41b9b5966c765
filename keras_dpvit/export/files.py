"""Writing whole directories or nothing, and reading what was written."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from keras_dpvit.errors import InputError


@contextlib.contextmanager
def new_directory(target: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A directory to fill, moved to `target` when the context ends well, removed when not.

    Raises:
        InputError: if `target` exists already, or its place cannot be written.
    """
    target = pathlib.Path(target)
    if target.exists():
        raise InputError(f"{target} exists already: nothing is written over an export.")
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
