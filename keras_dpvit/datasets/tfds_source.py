"""Published data sets through tensorflow-datasets (TFDS)."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_dpvit import _reasons
from keras_dpvit.datasets.image_data import ImageData
from keras_dpvit.errors import InputError

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_PARTS = ("train", "test")


def find_prepared(name: str, data_dir: str | os.PathLike[str]) -> Path | None:
    """Finds a data set which TFDS has already prepared.

    Args:
        name: the name of the data set in TFDS.
        data_dir: what was TFDS's data directory then, or the data set's own version folder in it.

    Returns:
        The folder of the highest version, or None when there is none.
    """
    root = Path(os.path.expanduser(data_dir)).absolute()
    if root.parent.name == name and _is_prepared(root):
        return root
    versions = filter(_is_prepared, (root / name).glob("*"))
    return max(versions, key=_version, default=None)


def _version(path: Path) -> tuple[int, ...]:
    match = _VERSION.fullmatch(path.name)
    return tuple(map(int, match.groups())) if match else ()


def _is_prepared(path: Path) -> bool:
    """Tells a finished version from one TFDS was stopped in, which has no version's name."""
    return bool(_version(path)) and os.path.isfile(path / "dataset_info.json")


def load_prepared(name: str, folder: Path, class_names: Sequence[str]) -> ImageData:
    """Loads a data set from a folder which TFDS has prepared, without any network.

    Args:
        name: what to call the data set.
        folder: the version folder, as `find_prepared` gives it.
        class_names: the classes' names.

    Returns:
        The data, in the order in which TFDS stores it.

    Raises:
        InputError: if TFDS cannot read the folder, or it does not hold labelled uint8 images in
            a `train` and a `test` split.
    """
    import tensorflow_datasets as tfds

    return _read(name, lambda: tfds.builder_from_directory(str(folder)), str(folder), class_names)


def load_downloaded(
    name: str, data_dir: str | None, class_names: Sequence[str], advice: str
) -> ImageData:
    """Loads a data set from TFDS's own data directory, first downloading it when it is not there.

    Without a network this takes TFDS some minutes of retries before it gives up.

    Args:
        name: the name of the data set in TFDS.
        data_dir: TFDS's data directory; None for its default.
        class_names: the classes' names.
        advice: what else the user can do, for the message when the download fails.

    Returns:
        The data, in the order in which TFDS stores it.

    Raises:
        InputError: if TFDS cannot download or read the data set.
    """
    import tensorflow_datasets as tfds

    # TFDS reports a lost network through many types, some of them bare Exceptions, and
    # for all of them the remedy is the same.
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        builder.download_and_prepare()
    except Exception as error:
        raise InputError(
            f"{name}: tensorflow-datasets could not download it; {advice} "
            f"({_reasons.reason(error)})."
        ) from error
    return _read(name, lambda: builder, str(builder.data_dir), class_names)


def _read(
    name: str, make_builder: Callable[[], Any], folder: str, class_names: Sequence[str]
) -> ImageData:
    """Reads both splits of a prepared data set; `make_builder` returns its TFDS builder."""
    # A damaged folder surfaces as whatever protobuf, JSON or TensorFlow raise for it.
    try:
        builder = make_builder()
        parts = [_read_split(builder, part) for part in _PARTS]
    except Exception as error:
        raise InputError(
            f"{name}: tensorflow-datasets must be able to read images and labels in the splits "
            f"train and test from {folder!r}: {type(error).__name__}: {_reasons.reason(error)}."
        ) from error
    (x_train, y_train), (x_test, y_test) = parts
    return ImageData(name, x_train, y_train, x_test, y_test, tuple(class_names))


def _read_split(builder: Any, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads one split whole, in stored order."""
    import tensorflow_datasets as tfds

    rows = tfds.as_numpy(builder.as_dataset(split=part, batch_size=-1, shuffle_files=False))
    return np.asarray(rows["image"]), np.asarray(rows["label"]).astype(np.int64)
