"""Folders of pictures, one sub-folder for each class."""

import logging
import numbers
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_dpvit.datasets.folder_survey import Item, survey_folder
from keras_dpvit.datasets.image_data import ImageData
from keras_dpvit.datasets.image_files import Reading, read_image, shown
from keras_dpvit.datasets.picture_files import together
from keras_dpvit.errors import InputError

_FILES_WORTH_A_BAR = 1000


def check_image_shape(image_shape: Any) -> tuple[int, int, int]:
    """Checks an image shape given by the user.

    Args:
        image_shape: three whole numbers (height, width, channels).

    Returns:
        The same as a tuple of ints.

    Raises:
        InputError: if it is anything else, a size is below 1, or channels is not 1 or 3.
    """
    is_sequence = isinstance(image_shape, Sequence) and not isinstance(image_shape, str)
    sizes = tuple(image_shape) if is_sequence else ()
    whole = [isinstance(size, numbers.Integral) and not isinstance(size, bool) for size in sizes]
    if len(sizes) != 3 or not all(whole) or min(sizes) < 1 or sizes[2] not in (1, 3):
        raise InputError(
            "image_shape must be (height, width, channels) in whole numbers above 0 with "
            f"1 or 3 channels, got {image_shape!r}."
        )
    height, width, channels = sizes
    return int(height), int(width), int(channels)


def load_image_folder(
    data_dir: str | os.PathLike[str],
    *,
    image_shape: tuple[int, int, int] | None = None,
    test_fraction: float = 0.2,
    class_names: Sequence[str] | None = None,
    reading: Reading | None = None,
) -> ImageData:
    """Loads pictures from one sub-folder for each class.

    The classes are the sub-folders in sorted order; a class' pictures lie at any depth below its
    folder. When `data_dir` has the sub-folders `train` and `test` (or `val`, where there is no
    `test`), the classes are below each of those; otherwise `in_test_part` splits the files. What
    is hidden is no part of the folder; what else is left out is told in one line.

    Args:
        data_dir: the folder.
        image_shape: (height, width, channels) with 1 or 3 channels; each image is turned as its
            EXIF orientation says, converted to gray or RGB, and resized bilinearly (see
            `image_files.read_image`). Without it every image must have the size and the channels
            of the first.
        test_fraction: expected share of the files in the test part, strictly between 0 and 1.
        class_names: names of the sub-folders that are classes, in their order; others are left
            out, and one of these may be empty. Without it the names are read from the folder, and
            a model that carries them tells what the private folder holds.
        reading: transparency and bit depth; None for the usual ones.

    Returns:
        The data, in the order of the classes and then of the files' paths.

    Raises:
        InputError: if the folder is missing, has fewer than two classes, a class without images
            to train on or without a folder, or files which are not whole images, if sizes differ
            without an `image_shape`, or if one part is empty.
    """
    if image_shape is not None:
        image_shape = check_image_shape(image_shape)
    survey = survey_folder(data_dir, test_fraction=test_fraction, class_names=class_names)
    left_out = survey.left_out_line()
    if left_out is not None:
        logging.getLogger("keras_dpvit").warning(
            "%s python -m trainers.check --data_dir lists them.", left_out
        )
    images, labels = _read_images([*survey.train, *survey.test], image_shape, reading or Reading())
    rows = len(survey.train)
    return ImageData(
        name="image_folder",
        x_train=images[:rows],
        y_train=labels[:rows],
        x_test=images[rows:],
        y_test=labels[rows:],
        class_names=survey.class_names,
    )


def _read_images(
    items: list[Item], image_shape: tuple[int, int, int] | None, reading: Reading
) -> tuple[np.ndarray, np.ndarray]:
    """Reads every file into uint8 (rows, height, width, channels), and int64 labels (rows,)."""
    bad: list[str] = []
    images: np.ndarray | None = None
    first: Path | None = None
    for row, (path, _) in enumerate(with_progress(items)):
        try:
            image = read_image(path, image_shape, reading=reading)
        except InputError as error:
            bad.append(str(error))
            continue
        if images is None:
            first, images = path, np.empty((len(items), *image.shape), dtype=np.uint8)
        if image.shape != images.shape[1:]:
            raise InputError(
                "image_shape must be given when images differ in size or channels; "
                f"{shown(path)!r} is {_sizes(image.shape)}, {shown(first)!r} is "
                f"{_sizes(images.shape[1:])}."
            )
        images[row] = image
    if bad:
        raise together(bad)
    assert images is not None
    return images, np.array([label for _, label in items], dtype=np.int64)


def _sizes(shape: tuple[int, ...]) -> str:
    height, width, channels = shape
    return f"{height} high, {width} wide with {channels} channel{'s' if channels > 1 else ''}"


def with_progress(items: list[Item]) -> Iterable[Item]:
    """The items, with a progress bar on a terminal when there are many."""
    if len(items) <= _FILES_WORTH_A_BAR or not sys.stderr.isatty():
        return items
    import tqdm

    return tqdm.tqdm(items, desc="images", unit="file")
