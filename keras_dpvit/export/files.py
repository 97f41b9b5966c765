"""Writing whole directories or nothing."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

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
