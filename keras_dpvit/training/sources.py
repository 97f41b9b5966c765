"""Where the records of a training come from: arrays, random-access sources, Keras data sets."""

import abc
from typing import Any

import keras
import numpy as np

from keras_dpvit.errors import InputError
from keras_dpvit.training import inputs


class Source(abc.ABC):
    """Records that can be taken by number, so that a plan can sample them itself."""

    num_records: int

    @abc.abstractmethod
    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images `(len(rows), height, width, channels)` and labels of these records.

        Args:
            rows: int array `(n,)`, may be empty.
        """

    def example(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of the first record, for shapes and types."""
        return self.take(np.zeros(1, int))


class ArraySource(Source):
    """Records in two arrays."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self._x, self._y = x, y
        self.num_records = len(x)

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._x[rows], self._y[rows]

    def example(self) -> tuple[np.ndarray, np.ndarray]:
        if self.num_records:
            return super().example()
        x, y = self._x, self._y  # a private data set may be empty: then blanks stand for it
        return np.zeros((1, *x.shape[1:]), x.dtype), np.zeros((1, *y.shape[1:]), y.dtype)


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
        self._first = self._read(0)

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        image, label = self._first
        read = [self._read(int(row)) for row in rows]
        images = np.empty((len(rows), *image.shape), image.dtype)
        labels = np.empty((len(rows), *label.shape), label.dtype)
        for index, (one, its_label) in enumerate(read):
            if one.shape != image.shape:
                raise InputError(
                    f"images must have one shape, got {image.shape} and, for record {rows[index]}, "
                    f"{one.shape}."
                )
            images[index], labels[index] = one, its_label
        return images, labels

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        record = self._records[index]
        if isinstance(record, dict) and {"image", "label"} <= set(record):
            record = record["image"], record["label"]
        if not isinstance(record, (tuple, list)) or len(record) != 2:
            raise InputError(
                "x must give records as (image, label) or {'image': ..., 'label': ...}, got "
                f"{type(record).__name__}."
            )
        return np.asarray(record[0]), np.asarray(record[1])


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
        self._batch_size = len(self._batch(0)[0])
        self._last = batches - 1
        last_size = len(self._batch(self._last)[0])
        if last_size > self._batch_size:
            raise self._unequal(self._last, last_size)
        self.num_records = self._last * self._batch_size + last_size

    def _unequal(self, number: int, size: int) -> InputError:
        return InputError(
            f"x must give batches of one size ({self._batch_size}), batch {number} has "
            f"{size} records."
        )

    def _batch(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        batch = self._dataset[index]
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise InputError("x must give batches as (images, labels), without sample weights.")
        return np.asarray(batch[0]), np.asarray(batch[1])

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        numbers, places = np.divmod(rows, self._batch_size)
        images, labels = [], []
        for number in np.unique(numbers):
            x, y = self._batch(int(number))
            wanted = places[numbers == number]
            if wanted.max() >= len(x) or (number != self._last and len(x) != self._batch_size):
                raise self._unequal(number, len(x))
            images.append(x[wanted])
            labels.append(y[wanted])
        if not images:
            x, y = self._batch(0)
            return x[:0], y[:0]
        return np.concatenate(images), np.concatenate(labels)


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
        return ArraySource(*inputs.check_arrays(model, x, y))
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
    inputs.check_images(images, tuple(model.input_shape[1:]))
    if np.issubdtype(labels.dtype, np.integer) and labels.ndim == 1:
        inputs.check_labels(labels, int(model.output_shape[-1]))
    return source
