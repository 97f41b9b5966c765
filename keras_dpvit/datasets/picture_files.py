"""Picture files that a user names."""

import os
import pathlib
from collections.abc import Sequence

from keras_dpvit.datasets.image_files import files_below, is_picture, shown
from keras_dpvit.errors import InputError


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
