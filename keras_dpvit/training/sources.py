"""Sources of a training's records: arrays, random-access sources, Keras data sets."""

import abc
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_dpvit._types import Array
from keras_dpvit.errors import InputError

_NAMES = ("images", "labels")  # of a record's two parts
_FEW = 0.05  # of the labels may lie outside of the classes


class Source(abc.ABC):
    """Records that can be taken by number, so that a plan can sample them itself.

    Attributes:
        num_records: int.
        num_classes: int or None; integer labels must lie below it, and a record whose label does
            not is taken as absent. `source_for` sets it.
    """

    num_records: int
    num_classes: int | None = None

    def take(self, rows: Array) -> tuple[Array, Array, Array]:
        """Images `(len(rows), height, width, channels)`, labels, and which of the records count.

        In the midst of a training, an end that one record brings about would tell of it. So a NaN
        or an infinite pixel passes, and its gradient counts as zero; a label that is none of the
        classes becomes 0, and its record does not count.

        Args:
            rows: int array `(n,)`, in any order, may be empty.

        Raises:
            InputError: if a record differs from the first in shape or type, or more than half of
                the labels, and more than five, are none of the classes.
        """
        images, labels = self._read(np.asarray(rows, int))
        if self.num_classes is None:
            return images, labels, np.ones(len(rows), bool)
        check_labels(labels, self.num_classes, 0.5)
        present = ~outside(labels, self.num_classes)
        kept = present.reshape(-1, *[1] * (labels.ndim - 1))
        return images, np.where(kept, labels, labels.dtype.type(0)).astype("int64"), present

    @abc.abstractmethod
    def _read(self, rows: Array) -> tuple[Array, Array]:
        """As `take`, without a look at the labels' values."""

    def example(self) -> tuple[Array, Array]:
        """Images and labels of the first record, for shapes and types."""
        return self.take(np.zeros(1, int))[:2]


class ArraySource(Source):
    """Records in two arrays."""

    def __init__(self, x: Array, y: Array) -> None:
        self._x, self._y = x, y
        self.num_records = len(x)

    def _read(self, rows: Array) -> tuple[Array, Array]:
        return self._x[rows], self._y[rows]

    def example(self) -> tuple[Array, Array]:
        if self.num_records:
            return super().example()
        x, y = self._x, self._y  # a private data set may be empty: then blanks stand for it
        kind = y.dtype if self.num_classes is None else "int64"
        return np.zeros((1, *x.shape[1:]), x.dtype), np.zeros((1, *y.shape[1:]), kind)


class RandomAccessSource(Source):
    """Anything with a length whose items are records, as `tfds.data_source` and array_record have.

    Args:
        records: `records[i]` is a pair (image, label) or a mapping with "image" and "label".

    Raises:
        InputError: if an item is something else.
    """

    def __init__(self, records: Any) -> None:
        self._records = records
        self.num_records = len(records)
        if not self.num_records:
            raise InputError("x must hold at least one record, got none.")
        self._first = self._record(0)

    def _read(self, rows: Array) -> tuple[Array, Array]:
        stored = _room_for(len(rows), *self._first)
        for index, row in enumerate(rows):
            for store, part, first, name in zip(
                stored, self._record(int(row)), self._first, _NAMES, strict=True
            ):
                _check_like(part, first, name)
                store[index] = part
        return stored

    def _record(self, index: int) -> tuple[Array, Array]:
        record = self._records[index]
        if isinstance(record, Mapping) and {"image", "label"} <= set(record):
            record = record["image"], record["label"]
        if not isinstance(record, (tuple, list)) or len(record) != 2:
            raise InputError(
                "x must give records as (image, label) or {'image': ..., 'label': ...}, got "
                f"{type(record).__name__}."
            )
        return np.asarray(record[0]), np.asarray(record[1])


def _room_for(records: int, image: Array, label: Array) -> tuple[Array, Array]:
    """Empty arrays for `records` records like the one given."""
    return (
        np.empty((records, *image.shape), image.dtype),
        np.empty((records, *label.shape), label.dtype),
    )


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
        dataset: `dataset[i]` is a pair (images, labels) of arrays.
    """

    def __init__(self, dataset: keras.utils.PyDataset) -> None:
        self._dataset = dataset
        batches = dataset.num_batches
        if not batches:
            raise InputError("x must have at least one batch and an end, to be sampled from.")
        first = self._batch(0)
        self._batch_size = len(first[0])
        if not self._batch_size:
            raise InputError("x must hold at least one record, its first batch holds none.")
        self._first = first[0][0], first[1][0]
        self._last = batches - 1
        last_size = len(self._batch(self._last)[0])
        if last_size > self._batch_size:
            raise self._unequal()
        self.num_records = self._last * self._batch_size + last_size

    def _unequal(self) -> InputError:
        return InputError(
            f"x must give batches of one size ({self._batch_size}), but for a smaller last one."
        )

    def _batch(self, index: int) -> tuple[Array, Array]:
        batch = self._dataset[index]
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise InputError("x must give batches as (images, labels), without sample weights.")
        images, labels = np.asarray(batch[0]), np.asarray(batch[1])
        if len(images) != len(labels):
            raise InputError(
                "x must give as many images as labels in each batch, got "
                f"{len(images)} and {len(labels)}."
            )
        return images, labels

    def _read(self, rows: Array) -> tuple[Array, Array]:
        numbers, places = np.divmod(rows, self._batch_size)
        stored = _room_for(len(rows), *self._first)
        for number in np.unique(numbers):
            batch = self._batch(int(number))
            mine = numbers == number
            size = len(batch[0])
            if places[mine].max() >= size or (number != self._last and size != self._batch_size):
                raise self._unequal()
            for store, part, first, name in zip(stored, batch, self._first, _NAMES, strict=True):
                _check_like(part[0], first, name)
                store[mine] = part[places[mine]]
        return stored


def check_arrays(model: Any, x: Any, y: Any) -> tuple[Array, Array]:
    """Images and labels as arrays that fit the model and each other.

    Args:
        model: a built Keras model with one input and one output.
        x: array `(records, *model.input_shape[1:])`.
        y: array `(records, ...)`.

    Raises:
        InputError: on anything but arrays, shapes or types that do not fit, or more than a few
            labels outside the model's classes. What single records hold ends nothing, because
            an end would reveal it: they count as zero.
    """
    if not hasattr(x, "shape") or not hasattr(y, "shape"):
        raise InputError(
            f"fit needs arrays x and y, got {type(x).__name__} and {type(y).__name__}: the plan "
            "samples records itself and must be able to index them."
        )
    x, y = np.asarray(x), np.asarray(y)
    check_images(x, tuple(model.input_shape[1:]))
    if len(x) != len(y):
        raise InputError("images and labels must have the same length, got different lengths.")
    classes = num_classes_of(model, y)
    if classes is not None:
        check_labels(y, classes, _FEW)
    return x, y


def num_classes_of(model: Any, labels: Any) -> int | None:
    """The number of classes, if labels are class numbers, one for each record; else None.

    Whole numbers beside several outputs number classes, and so does whatever a sparse loss is
    given; targets of a single output do not.

    Args:
        model: a compiled Keras model with one input and one output.
        labels: anything with `shape` and `dtype`, the records along the first axis.
    """
    kind = np.dtype(getattr(labels.dtype, "as_numpy_dtype", labels.dtype))
    classes = int(model.output_shape[-1])
    if classes == 1 or any(side != 1 for side in labels.shape[1:]):
        return None
    loss = getattr(model, "loss", None)
    name = str(getattr(loss, "name", None) or getattr(loss, "__name__", None) or loss)
    return classes if np.issubdtype(kind, np.integer) or "sparse" in name else None


def check_images(images: Array, image_shape: tuple[Any, ...]) -> None:
    """Raises `InputError` unless images are `(n, *image_shape)` and numbers."""
    expected = "x".join(str(side) for side in image_shape)
    if images.shape[1:] != tuple(image_shape):
        found = "x".join(str(side) for side in images.shape[1:])
        raise InputError(f"images must be {expected} (the model's input), got {found}.")
    if images.dtype.kind in "OSUcMm":
        raise InputError(f"images must be of real numbers, got {images.dtype}.")


def outside(labels: Array, num_classes: int) -> Array:
    """Mask of the records whose label is not one of the classes, bool `(records,)`."""
    bad = ~((labels >= 0) & (labels < num_classes))  # a NaN is not in range, either
    return np.asarray(bad.any(axis=tuple(range(1, labels.ndim))))


def check_labels(labels: Array, num_classes: int, share: float) -> None:
    """Refuses labels of another kind, and says nothing of those of a few records.

    Args:
        labels: int array, the records along the first axis.
        num_classes: int.
        share: float, of the records; more than it, and more than five, may not lie outside.

    Raises:
        InputError: if they do. It names neither a record nor a label nor a count.
    """
    bad = np.count_nonzero(outside(labels, num_classes))
    if bad > 5 and bad > share * len(labels):
        raise InputError(
            f"labels must lie in 0..{num_classes - 1}: more than {100 * share:g} % of the labels "
            f"lie outside 0..{num_classes - 1}."
        )


def source_for(model: Any, x: Any, y: Any) -> Source:
    """The source of what `fit` was given.

    Args:
        model: a built Keras model with one input and one output.
        x: array, random-access source or `PyDataset`.
        y: array of labels if `x` is an array, else None.

    Raises:
        InputError: if it cannot be sampled from, or does not fit the model.
    """
    if hasattr(x, "shape"):
        x, y = check_arrays(model, x, y)
        arrays = ArraySource(x, y)
        arrays.num_classes = num_classes_of(model, y)
        return arrays
    if y is not None:
        raise InputError(f"y must be left out where x ({type(x).__name__}) holds the labels too.")
    if isinstance(x, keras.utils.PyDataset):
        source: Source = PyDatasetSource(x)
    elif hasattr(x, "__len__") and hasattr(x, "__getitem__"):
        source = RandomAccessSource(x)
    else:
        raise InputError(
            f"fit cannot sample from a {type(x).__name__}: give arrays, a random-access source "
            "(tfds.data_source) or a keras PyDataset; or, for batches made elsewhere, a plan with "
            "sampling='external', whose epsilon is not amplified."
        )
    images, labels = source.example()
    check_images(images, tuple(model.input_shape[1:]))
    source.num_classes = num_classes_of(model, labels)
    return source
