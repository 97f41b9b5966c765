"""Folders of PNG and JPEG files, one sub-folder for each class."""

import hashlib
import numbers
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_dpvit._validate import open_unit_interval
from keras_dpvit.datasets.image_data import ImageData, existing_folder, first_line
from keras_dpvit.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg")

_FILES_WORTH_A_BAR = 1000
# Pillow's modes of gray images; those of 16 bits have become L before they are compared.
_GRAY_MODES = ("1", "L", "LA")

# A file, and the number of its class.
_Item = tuple[Path, int]


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


def in_test_part(relative_path: str, test_fraction: float) -> bool:
    """Decides by a file's name alone whether it belongs to the test part.

    The SHA-256 of the path, read as a number in [0, 1), is compared with `test_fraction`. No
    other file is looked at, so adding or removing a file moves no other file between the parts,
    and two folders which differ in one file have parts which differ in that file only.

    Args:
        relative_path: the file's path below the data folder, with forward slashes.
        test_fraction: the expected share of files in the test part.

    Returns:
        True for the test part.
    """
    digest = hashlib.sha256(relative_path.encode("utf-8", "surrogateescape")).digest()
    # 53 bits, as many as a float holds, so that the quotient is exact and stays below 1.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53 < test_fraction


def load_image_folder(
    data_dir: str | os.PathLike[str],
    *,
    image_shape: tuple[int, int, int] | None = None,
    test_fraction: float = 0.2,
    class_names: Sequence[str] | None = None,
) -> ImageData:
    """Loads PNG and JPEG files from one sub-folder for each class.

    The classes are the sub-folders in sorted order. When `data_dir` has the sub-folders `train`
    and `test`, the classes are below each of those; otherwise `in_test_part` splits the files.
    Files and folders whose name starts with a dot, files with another suffix, and anything deeper
    than the class folders are ignored.

    Args:
        data_dir: the folder.
        image_shape: (height, width, channels) with 1 or 3 channels; each image is turned as its
            EXIF orientation says, converted to gray or RGB (transparency is dropped), and resized
            bilinearly. Without it every image must have the size and the channels of the first.
        test_fraction: expected share of the files in the test part, strictly between 0 and 1.
        class_names: names of the sub-folders that are classes, in their order; others are left
            out, and one of these may be empty. Without it the names are read from the folder, and
            a model that carries them tells what the private folder holds.

    Returns:
        The data, in the order of the classes and then of the file names.

    Raises:
        InputError: if the folder is missing, has fewer than two classes, a class without images
            or without a folder, or a file which is not a whole image, if sizes differ without an
            `image_shape`, or if one part is empty.
    """
    if image_shape is not None:
        image_shape = check_image_shape(image_shape)
    open_unit_interval(test_fraction=test_fraction)
    root = existing_folder(data_dir, "one sub-folder of images for each class")
    if class_names is not None:
        class_names = _check_class_names(class_names)
    if (root / "train").is_dir() and (root / "test").is_dir():
        class_names, train, test = _given_parts(root, class_names)
    else:
        class_names, train, test = _split_by_name(root, test_fraction, class_names)
    images, labels = _read_images([*train, *test], image_shape)
    rows = len(train)
    return ImageData(
        name="image_folder",
        x_train=images[:rows],
        y_train=labels[:rows],
        x_test=images[rows:],
        y_test=labels[rows:],
        class_names=class_names,
    )


def _check_class_names(class_names: Sequence[str]) -> tuple[str, ...]:
    names = () if isinstance(class_names, str) else tuple(class_names)
    # Each must be a name and no path, which could lead out of the folder.
    plain = all(isinstance(x, str) and x == Path(x).name and not x.startswith(".") for x in names)
    if len(names) < 2 or len(set(names)) != len(names) or not plain:
        raise InputError(
            "classes must be at least 2 different names of sub-folders, got "
            f"{', '.join(map(str, names)) or class_names!r}."
        )
    return names


def _given_parts(
    root: Path, given: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[_Item], list[_Item]]:
    """Lists the classes and files of a folder which has its own `train` and `test`."""
    class_names, train = _list_classes(root / "train", given)
    test_names, test = _list_classes(root / "test", given)
    for part, chosen in (("train", train), ("test", test)):
        if not chosen:
            raise InputError(f"data_dir must have images of the classes in {part}, got none.")
    if class_names != test_names:
        odd = sorted(set(class_names) ^ set(test_names))[0]
        raise InputError(
            f"data_dir must have the same classes in train and test; {str(root)!r} has "
            f"{odd!r} in one of them only."
        )
    return class_names, train, test


def _split_by_name(
    root: Path, test_fraction: float, given: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[_Item], list[_Item]]:
    """Lists the classes and files of a folder, and splits the files by their names."""
    class_names, items = _list_classes(root, given)
    train: list[_Item] = []
    test: list[_Item] = []
    for item in items:
        relative_path = item[0].relative_to(root).as_posix()
        (test if in_test_part(relative_path, test_fraction) else train).append(item)
    for part, chosen in (("train", train), ("test", test)):
        if not chosen:
            raise InputError(
                f"test_fraction must leave images in both parts; {test_fraction} puts none of the "
                f"{len(items)} images of {str(root)!r} in the {part} part."
            )
    return class_names, train, test


def _list_classes(root: Path, given: tuple[str, ...] | None) -> tuple[tuple[str, ...], list[_Item]]:
    """Lists the class names and the files below a folder, sorted, but for names that are given."""
    if given is None:
        folders = [path for path in _entries(root) if path.is_dir()]
    else:
        folders = [root / name for name in given]
        for folder in folders:
            if not folder.is_dir():
                raise InputError(
                    f"classes must name sub-folders of data_dir; {str(folder)!r} is not a folder."
                )
    if len(folders) < 2:
        raise InputError(
            f"data_dir must have at least 2 sub-folders, one for each class; {str(root)!r} "
            f"has {len(folders)}."
        )
    items: list[_Item] = []
    for label, folder in enumerate(folders):
        files = [
            path for path in _entries(folder) if path.suffix.lower() in SUFFIXES and path.is_file()
        ]
        if not files and given is None:
            raise InputError(
                f"data_dir must have PNG or JPEG files in each class; {str(folder)!r} has none."
            )
        items += [(path, label) for path in files]
    return tuple(folder.name for folder in folders), items


def _entries(folder: Path) -> list[Path]:
    """Lists what is in a folder and not hidden, sorted by name."""
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        raise InputError(
            f"data_dir must be readable; {str(folder)!r} is not: {first_line(error)}."
        ) from error
    shown = [path for path in paths if not path.name.startswith(".")]
    return sorted(shown, key=lambda path: path.name)


def _read_images(
    items: list[_Item], image_shape: tuple[int, int, int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Reads every file into uint8 (rows, height, width, channels), and int64 labels (rows,)."""
    first = items[0][0]
    shape = read_image(first, None).shape if image_shape is None else image_shape
    images = np.empty((len(items), *shape), dtype=np.uint8)
    for row, (path, _) in enumerate(_with_progress(items)):
        image = read_image(path, image_shape)
        if image.shape != shape:
            raise InputError(
                "image_shape must be given when images differ in size or channels; "
                f"{str(path)!r} is {_sizes(image.shape)}, {str(first)!r} is {_sizes(shape)}."
            )
        images[row] = image
    return images, np.array([label for _, label in items], dtype=np.int64)


def _sizes(shape: tuple[int, ...]) -> str:
    height, width, channels = shape
    return f"{height} high, {width} wide with {channels} channel{'s' if channels > 1 else ''}"


def _with_progress(items: list[_Item]) -> Iterable[_Item]:
    """Shows a progress bar on a terminal when there are many files."""
    if len(items) <= _FILES_WORTH_A_BAR or not sys.stderr.isatty():
        return items
    import tqdm

    return tqdm.tqdm(items, desc="images", unit="file")


def read_image(path: Path, image_shape: tuple[int, int, int] | None) -> np.ndarray:
    """Decodes one file to uint8 (height, width, channels), as `load_image_folder` does.

    Args:
        path: a PNG or JPEG file.
        image_shape: (height, width, channels) with 1 or 3 channels, to which it is converted and
            resized; None leaves its size, with 1 channel for gray and 3 for anything else.

    Raises:
        InputError: if it is not a whole image.
    """
    import PIL.Image
    import PIL.ImageOps

    # Pillow's decoders raise many types on damaged bytes, and its own ones on images so large
    # that they may be decompression bombs.
    try:
        with PIL.Image.open(path, formats=("PNG", "JPEG")) as opened:
            image = _eight_bits(PIL.ImageOps.exif_transpose(opened))
    except Exception as error:
        raise InputError(
            f"image file {str(path)!r} must be a whole PNG or JPEG image: {first_line(error)}."
        ) from error
    channels = (1 if image.mode in _GRAY_MODES else 3) if image_shape is None else image_shape[2]
    image = image.convert("L" if channels == 1 else "RGB")
    if image_shape is not None and image.size != (image_shape[1], image_shape[0]):
        image = image.resize((image_shape[1], image_shape[0]), PIL.Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(image.height, image.width, channels)


def _eight_bits(image: Any) -> Any:
    """Scales 16-bit gray to 8 bits, where Pillow's own conversion would clip it."""
    import PIL.Image

    if image.mode.startswith("I"):
        return PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image
