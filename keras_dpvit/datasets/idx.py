"""The IDX file format of MNIST and the data sets made after it."""

import gzip
import io
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_dpvit import _reasons
from keras_dpvit.datasets.image_data import ImageData, existing_folder
from keras_dpvit.errors import InputError

EXPECTED_FILES = (
    "train-images-idx3-ubyte[.gz], train-labels-idx1-ubyte[.gz], "
    "t10k-images-idx3-ubyte[.gz], t10k-labels-idx1-ubyte[.gz]"
)
_UBYTE = 0x08
_CHUNK = 1 << 20


def read_idx(path: str | os.PathLike[str], dimensions: int) -> np.ndarray:
    """Reads one IDX file of unsigned bytes.

    Args:
        path: the file, gzip-compressed when its name ends in `.gz`.
        dimensions: the number of dimensions the file must have.

    Returns:
        A writable uint8 array of the shape which the file's header gives.

    Raises:
        InputError: if the file is missing, cut short, too long, not gzip where its name says so,
            or its header is not that of an IDX file of bytes with `dimensions` dimensions.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise InputError(f"IDX file {str(path)!r} must be a file that exists.")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            return _parse(stream, path, dimensions)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"IDX file {str(path)!r} must be readable to its end: {_reasons.reason(error)}."
        ) from error


def _parse(stream: io.BufferedIOBase, path: Path, dimensions: int) -> np.ndarray:
    """Reads header and body from an open file."""
    header_length = 4 + 4 * dimensions
    header = stream.read(header_length)
    if len(header) < header_length:
        raise InputError(
            f"IDX file {str(path)!r} must start with a header of {header_length} bytes, "
            f"found {len(header)} bytes."
        )
    magic = bytes((0, 0, _UBYTE, dimensions))
    if header[:4] != magic:
        raise InputError(
            f"IDX file {str(path)!r} must start with the bytes {magic.hex(' ')} (unsigned bytes, "
            f"{dimensions} dimensions), found {header[:4].hex(' ')}."
        )
    shape = tuple(int(size) for size in np.frombuffer(header, dtype=">u4", offset=4))
    expected = math.prod(shape)
    # Growing with what is really there keeps a corrupt header from claiming memory, and reading
    # to the end makes gzip check its own length and checksum.
    body, found = bytearray(), 0
    while chunk := stream.read(_CHUNK):
        found += len(chunk)
        if found <= expected:
            body += chunk
    if found != expected:
        raise InputError(
            f"IDX file {str(path)!r} must hold {expected} bytes after its header "
            f"({' x '.join(map(str, shape))}), found {found} bytes."
        )
    try:
        return np.frombuffer(body, dtype=np.uint8).reshape(shape)
    except ValueError as error:
        # An empty body agrees with any sizes one of which is 0, but NumPy bounds their product.
        raise InputError(
            f"IDX file {str(path)!r} must have a shape which fits in memory, "
            f"found {' x '.join(map(str, shape))}."
        ) from error


def find_idx(folder: Path, stem: str, dimensions: int) -> Path | None:
    """Finds an IDX file by either spelling of its name, the uncompressed file first.

    Args:
        folder: where to look.
        stem: what comes before `-idx3-ubyte`, such as `train-images`.
        dimensions: the digit after `idx`.

    Returns:
        The file, or None when there is none.
    """
    for separator in "-.":
        for suffix in ("", ".gz"):
            path = folder / f"{stem}{separator}idx{dimensions}-ubyte{suffix}"
            if os.path.isfile(path):
                return path
    return None


def holds_idx(folder: Path) -> bool:
    """Tells whether a folder holds at least one of the four IDX files."""
    return any(
        find_idx(folder, f"{part}-{kind}", dimensions) is not None
        for part in ("train", "t10k")
        for kind, dimensions in (("images", 3), ("labels", 1))
    )


def load_idx(
    data_dir: str | os.PathLike[str],
    *,
    name: str = "idx",
    class_names: Sequence[str] | None = None,
) -> ImageData:
    """Loads a folder of the four IDX files of an MNIST-like data set.

    Args:
        data_dir: folder of `train-images`, `train-labels`, `t10k-images` and `t10k-labels`, each
            ending in `-idx3-ubyte` (images) or `-idx1-ubyte` (labels), or with a dot in place of
            the first hyphen, with or without `.gz`.
        name: what to call the data set.
        class_names: the classes' names; without them, the numbers from 0 to the largest label of
            both parts. The number of classes is public in what follows from it, so give the names
            when the largest label is not.

    Returns:
        The data, images of shape (rows, height, width, 1).

    Raises:
        InputError: if the folder or a file is missing, a file is corrupt, images and labels
            differ in number, or a label names no class.
    """
    folder = existing_folder(data_dir, f"the four IDX files {EXPECTED_FILES}")
    x_train, y_train = _read_part(folder, "train")
    x_test, y_test = _read_part(folder, "t10k")
    if class_names is None:
        largest = max(int(y.max()) if len(y) else 0 for y in (y_train, y_test))
        class_names = [str(number) for number in range(largest + 1)]
    return ImageData(name, x_train, y_train, x_test, y_test, tuple(class_names))


def _read_part(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads the images, with a channel axis, and the labels of one part."""
    paths = []
    for kind, dimensions in (("images", 3), ("labels", 1)):
        path = find_idx(folder, f"{part}-{kind}", dimensions)
        if path is None:
            raise InputError(
                f"data_dir must hold the four IDX files {EXPECTED_FILES}; {str(folder)!r} "
                f"has no {part}-{kind}-idx{dimensions}-ubyte[.gz]."
            )
        paths.append(path)
    images, labels = read_idx(paths[0], 3), read_idx(paths[1], 1)
    if len(images) != len(labels):
        raise InputError(
            f"IDX file {str(paths[1])!r} must hold one label for each image of "
            f"{paths[0].name!r}: expected {len(images)}, found {len(labels)}."
        )
    return images[..., np.newaxis], labels.astype(np.int64)
