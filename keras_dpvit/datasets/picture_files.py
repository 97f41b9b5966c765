"""Picture files that a user names, and one message for all of them that cannot be read."""

import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from keras_dpvit.datasets.image_files import files_below, is_picture, shown
from keras_dpvit.errors import InputError

_NAMED = 5  # files that a message names


def picture_files(names: Sequence[str], argument: str) -> list[pathlib.Path]:
    """Files, and the pictures in folders and their sub-folders, in order.

    Args:
        names: files or folders.
        argument: what the user calls them, for messages.

    Raises:
        InputError: if one is missing, or a folder holds no picture.
    """
    found: list[pathlib.Path] = []
    for name in names:
        path = pathlib.Path(name)
        if os.path.isdir(name):
            inside = [file for file in files_below(path) if is_picture(file)]
            if not inside:
                raise InputError(f"{argument} must hold pictures; {shown(name)!r} has none.")
            found += inside
        elif os.path.isfile(name):
            found.append(path)
        else:
            raise InputError(f"{argument} must be a file that exists, got {shown(name)!r}.")
    return found


def read_each(paths: Iterable[pathlib.Path], read: Callable[[pathlib.Path], Any]) -> list[Any]:
    """Reads every file, and tells of all that cannot be read at once.

    Args:
        paths: the files.
        read: of a file; raises `InputError` where it cannot be read.

    Returns:
        What `read` returned, in the files' order.

    Raises:
        InputError: see `together`, after all files were tried.
    """
    found, problems = [], []
    for path in paths:
        try:
            found.append(read(path))
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise together(problems)
    return found


def together(problems: Sequence[str]) -> InputError:
    """One error for all files that cannot be read: the first five, and how many more there are."""
    told = "; ".join(problem.rstrip(".") for problem in problems[:_NAMED])
    more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    return InputError(f"{told}{more}.")
