"""Sources of a training's records: arrays, random-access sources, Keras data sets."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_dpvit._types import Array
from keras_dpvit.errors import InputError
from keras_dpvit.layers.model_structure import inputs_for
from keras_dpvit.training.dataset_source import DatasetSource
from keras_dpvit.training.labels import arrangement, check_range, class_numbers
from keras_dpvit.training.records import Parts, Rows, Source

_FEW = 0.05  # of the labels may lie outside of the classes


_NAMES = ("images", "labels", "weights")  # of a record's parts


class ArraySource(Source):
    """Records in arrays.

    Args:
        x: arrays `(records, ...)` in any structure.
        y: labels, likewise.
        weights: array `(records, ...)` or None.
    """

    def __init__(self, x: Any, y: Any, weights: Array | None = None) -> None:
        self._parts = x, y, weights
        self.num_records = len(keras.tree.flatten(x)[0])

    def _read(self, rows: Array) -> Parts:
        parts: Parts = _map(lambda part: part[rows], self._parts)
        return parts

    def example(self) -> Rows:
        if self.num_records:
            return super().example()
        # A private data set may be empty: then blanks stand for it.
        blanks = _map(lambda part: np.zeros((1, *part.shape[1:]), part.dtype), self._parts)
        source = ArraySource(*blanks)
        source.numbers, source.arrange = self.numbers, self.arrange
        return source.example()


def _map(function: Callable[[Array], Array], parts: Any) -> Any:
    """A function of each array in a record's parts; absent weights stay absent."""
    x, y, weights = parts
    x, y = keras.tree.map_structure(function, (x, y))
    return x, y, None if weights is None else function(weights)


class RandomAccessSource(Source):
    """Anything with a length whose items are records, as `tfds.data_source` and array_record have.

    Args:
        records: `records[i]` is (x, y) or (x, y, weight), where x and y may be dicts or tuples of
            arrays, or a mapping with "image" and "label".

    Raises:
        InputError: if an item is something else.
    """

    def __init__(self, records: Any) -> None:
        self._records = records
        self.num_records = len(records)
        if not self.num_records:
            raise InputError("x must hold at least one record, got none.")
        self._first = self._record(0)

    def _read(self, rows: Array) -> Parts:
        stored = _room_for(len(rows), self._first)
        for index, row in enumerate(rows):
            _store(stored, index, self._record(int(row)), self._first)
        return stored

    def _record(self, index: int) -> Parts:
        record = self._records[index]
        if isinstance(record, Mapping) and {"image", "label"} <= set(record):
            record = record["image"], record["label"]
        if not isinstance(record, (tuple, list)) or len(record) not in (2, 3):
            raise InputError(
                "x must give records as (x, y), (x, y, weight) or {'image': ..., 'label': ...}, "
                f"got {type(record).__name__}."
            )
        return _parts_of(record)


def _parts_of(found: Any) -> Parts:
    """x, y, and weights or None, as arrays."""
    x, y = _arrays(found[0]), _arrays(found[1])
    weights = found[2] if len(found) == 3 else None
    return x, y, None if weights is None else np.asarray(weights, "float32")


def _arrays(structure: Any) -> Any:
    """A structure of arrays; a list of numbers is one array."""
    if isinstance(structure, dict):
        return {key: _arrays(value) for key, value in structure.items()}
    are_parts = isinstance(structure, list) and all(np.ndim(value) for value in structure)
    if isinstance(structure, tuple) or (are_parts and hasattr(structure[0], "shape")):
        return tuple(_arrays(value) for value in structure)
    return np.asarray(structure)


def _room_for(records: int, first: Parts) -> Parts:
    """Empty arrays for `records` records like the one given."""
    room: Parts = _map(lambda part: np.empty((records, *part.shape), part.dtype), first)
    return room


def _store(stored: Parts, place: Any, parts: Parts, first: Parts, rows: Any = None) -> None:
    """Puts a record, or the rows of a batch, into its place; it must be like the first record."""
    if (parts[2] is None) != (first[2] is None):
        raise InputError("weights must be given with each record or with none.")
    for name, into, found, like in zip(_NAMES, stored, parts, first, strict=True):
        if found is None:
            continue
        try:
            keras.tree.assert_same_structure(found, like)
        except (TypeError, ValueError) as error:
            raise InputError(f"{name} must have one structure in all records.") from error
        for store, part, one in zip(*map(keras.tree.flatten, (into, found, like)), strict=True):
            _check_like(part if rows is None else part[0], one, name)
            store[place] = part if rows is None else part[rows]


def _check_like(part: Array, first: Array, name: str) -> None:
    """Raises unless a part of a record is like the first record's, which all are stored as."""
    if part.shape != first.shape:
        raise InputError(f"{name} must have one shape, got {first.shape} and another one.")
    if not np.can_cast(part.dtype, first.dtype):
        raise InputError(f"{name} must be of one type, got {first.dtype} and another one.")


class PyDatasetSource(Source):
    """A Keras `PyDataset`: a record is a row of one of its batches.

    All batches but the last must be of one size. A batch is read whole for each of its records
    that is sampled, once a step.

    Args:
        dataset: `dataset[i]` is (x, y) or (x, y, weights), each an array, or for x and y a dict or
            tuple of arrays.
    """

    def __init__(self, dataset: keras.utils.PyDataset) -> None:
        self._dataset = dataset
        batches = dataset.num_batches
        if not batches:
            raise InputError("x must have at least one batch and an end, to be sampled from.")
        first = self._batch(0)
        self._batch_size = _length(first)
        if not self._batch_size:
            raise InputError("x must hold at least one record, its first batch holds none.")
        self._first = _map(lambda part: part[0], first)
        self._last = batches - 1
        last_size = _length(self._batch(self._last))
        if last_size > self._batch_size:
            raise self._unequal()
        self.num_records = self._last * self._batch_size + last_size

    def _unequal(self) -> InputError:
        return InputError(
            f"x must give batches of one size ({self._batch_size}), but for a smaller last one."
        )

    def _batch(self, index: int) -> Parts:
        batch = self._dataset[index]
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            raise InputError("x must give batches as (x, y) or (x, y, weights).")
        parts = _parts_of(batch)
        lengths = {len(part) for part in keras.tree.flatten(parts) if part is not None}
        if len(lengths) != 1:
            raise InputError("x must give as many images as labels in each batch.")
        return parts

    def _read(self, rows: Array) -> Parts:
        numbers, places = np.divmod(rows, self._batch_size)
        stored = _room_for(len(rows), self._first)
        for number in np.unique(numbers):
            batch = self._batch(int(number))
            mine = numbers == number
            size = _length(batch)
            if places[mine].max() >= size or (number != self._last and size != self._batch_size):
                raise self._unequal()
            _store(stored, mine, batch, self._first, places[mine])
        return stored


def _length(parts: Parts) -> int:
    return len(keras.tree.flatten(parts[0])[0])


def check_arrays(model: Any, x: Any, y: Any, weights: Any) -> Parts:
    """Records as arrays that fit the model and each other.

    Args:
        model: a built Keras model.
        x: arrays `(records, ...)` in the structure that the model takes.
        y: labels `(records, ...)`.
        weights: array `(records, ...)` or None.

    Raises:
        InputError: on anything but arrays, or shapes or types that do not fit. What single records
            hold ends nothing, because an end would reveal it: they count as zero.
    """
    leaves = keras.tree.flatten((x, y))
    if not all(hasattr(leaf, "shape") for leaf in leaves):
        kinds = " and ".join(type(part).__name__ for part in (x, y))
        raise InputError(
            f"fit needs arrays x and y, got {kinds}: the plan samples records itself and must be "
            "able to index them."
        )
    parts = _parts_of((x, y, weights) if weights is not None else (x, y))
    check_inputs(model, parts[0])
    if len({len(part) for part in keras.tree.flatten(parts) if part is not None}) != 1:
        raise InputError("images and labels must have the same length, got different lengths.")
    return parts


def check_inputs(model: Any, x: Any) -> None:
    """Raises `InputError` unless arrays are what a model takes, each for its input."""
    for array, tensor in zip(keras.tree.flatten(x), inputs_for(model, x), strict=True):
        check_images(array, tuple(tensor.shape[1:]))


def check_weights(records: Rows) -> None:
    """Raises `InputError` unless weights are of records, or of the steps that labels have."""
    shape = tuple(records.weights.shape[1:])
    labels = [tuple(label.shape[1:]) for label in keras.tree.flatten(records.y)]
    if shape not in ((), (1,)) and any(own[: len(shape)] != shape for own in labels):
        raise InputError(
            "sample_weight must have one number for each record, or for each step of its labels, "
            f"got {shape} beside labels of {labels[0]}."
        )


def check_images(images: Array, image_shape: tuple[Any, ...]) -> None:
    """Raises `InputError` unless images are `(n, *image_shape)` and numbers."""
    expected = "x".join(str(side) for side in image_shape)
    if images.shape[1:] != tuple(image_shape):
        found = "x".join(str(side) for side in images.shape[1:])
        raise InputError(f"images must be {expected} (the model's input), got {found}.")
    if images.dtype.kind in "OSUcMm":
        raise InputError(f"images must be of real numbers, got {images.dtype}.")


def source_for(model: Any, x: Any, y: Any, weights: Any = None) -> Source:
    """The source of what `fit` was given.

    Args:
        model: a built and compiled Keras model.
        x: arrays, a random-access source or a `PyDataset`.
        y: labels if `x` is arrays, else None.
        weights: array, one factor for each record, if `x` is arrays; else None.

    Raises:
        InputError: if it cannot be sampled from, or does not fit the model.
    """
    in_arrays = _are_arrays(x, y)
    if in_arrays:
        source: Source = ArraySource(*check_arrays(model, x, y, weights))
    else:
        source = _of_records(x, y, weights)
    source.arrange = arrangement(model)
    first = source.example()
    check_inputs(model, first.x)
    check_weights(first)
    source.numbers = class_numbers(model, first.y)
    if in_arrays:
        for numbers, labels in zip(
            source.numbers, keras.tree.flatten(source.arrange(y)), strict=True
        ):
            check_range(numbers, np.asarray(labels), _FEW)
    return source


def _are_arrays(x: Any, y: Any) -> bool:
    """True for arrays in any structure; a list by itself is one of records."""
    if isinstance(x, (list, tuple, dict)):
        if y is None:
            return False
        leaves = keras.tree.flatten(x)
        return bool(leaves) and all(hasattr(leaf, "shape") for leaf in leaves)
    return hasattr(x, "shape")


def _of_records(x: Any, y: Any, weights: Any) -> Source:
    for name, value in (("y", y), ("sample_weight", weights)):
        if value is not None:
            raise InputError(
                f"{name} must be left out where x ({type(x).__name__}) holds the whole records."
            )
    if isinstance(x, keras.utils.PyDataset):
        return PyDatasetSource(x)
    if type(x).__module__.startswith("tensorflow.python.data"):
        return DatasetSource(x)
    if hasattr(x, "__len__") and hasattr(x, "__getitem__"):
        return RandomAccessSource(x)
    raise InputError(
        f"fit cannot sample from a {type(x).__name__}: give arrays, a random-access source "
        "(tfds.data_source) or a keras PyDataset; write what can only be read in order once by "
        "kd.datasets.to_array_record(x, directory); or, for batches made elsewhere, take a plan "
        "with sampling='external', whose epsilon is not amplified."
    )
