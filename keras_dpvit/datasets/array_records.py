"""Records in a file from which any of them can be read by its number."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from keras_dpvit import _files, _reasons
from keras_dpvit.errors import InputError

_RECORDS, _SPEC = "records.array_record", "spec.json"


class ArrayRecords:
    """The records that `to_array_record` wrote, for `fit(x)`.

    Args:
        directory: path.

    Raises:
        InputError: if it holds no such records.

    Example:
        >>> made = kd.datasets.to_array_record([(np.zeros(2), 0), (np.ones(2), 1)], "records")
        >>> records = kd.datasets.ArrayRecords("records")
        >>> len(records), [part.tolist() for part in records[1]]
        (2, [[1.0, 1.0], 1])
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        from array_record.python import array_record_module

        path = pathlib.Path(directory)
        try:
            spec = json.loads((path / _SPEC).read_text("utf-8"))
            self._reader = array_record_module.ArrayRecordReader(
                str(path / _RECORDS), options="readahead_buffer_size:0"
            )
            self._length = int(self._reader.num_records())
            if self._length != spec["records"]:
                raise ValueError(f"{self._length} records of {spec['records']}")
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{str(path)!r} holds no whole records of kd.datasets.to_array_record: "
                f"{_reasons.reason(error)}."
            ) from error
        self._structure = _from_json(spec["structure"])
        self._kinds = [(np.dtype(d), tuple(s)) for d, s in spec["parts"]]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        import keras

        if not -self._length <= index < self._length:
            raise IndexError(f"record {index} of {self._length}")
        (raw,) = self._reader.read([index % self._length])
        parts, place = [], 0
        for dtype, shape in self._kinds:
            part = np.frombuffer(raw, dtype, int(np.prod(shape)), place).reshape(shape)
            parts.append(part)
            place += part.nbytes
        return keras.tree.pack_sequence_as(self._structure, parts)


def to_array_record(
    dataset: Iterable[Any], directory: str | os.PathLike[str], *, batched: bool = False
) -> ArrayRecords:
    """Writes what can only be read in order to a file that a plan can sample from.

    A plan draws each step's records by their numbers. A generator, or a `tf.data` pipeline over
    files, has none; written once, it has. The directory holds the private records themselves.

    Args:
        dataset: gives (x, y) or (x, y, weight), where x and y may be dicts or tuples of arrays; it
            must end. A `tf.data.Dataset`, a generator, anything that can be gone through. Leave
            `repeat`, `shuffle` and random augmentation out of it.
        directory: path of a new directory.
        batched: bool, the dataset gives batches `(rows, ...)` of records.

    Returns:
        The `ArrayRecords` in the directory.

    Raises:
        InputError: if the directory exists, the dataset has no end or gives nothing, or its
            records differ in structure, shape or type. Then nothing is left behind.

    Example:
        >>> def pictures():
        ...     for label in range(10):
        ...         yield np.full((8, 8, 1), label, "float32"), label
        >>> records = kd.datasets.to_array_record(pictures(), "pictures")
        >>> len(records), records[3][0].shape
        (10, (8, 8, 1))
    """
    from array_record.python import array_record_module

    path = pathlib.Path(directory)
    with _files.new_directory(path) as made:
        writer = array_record_module.ArrayRecordWriter(str(made / _RECORDS), "group_size:1")
        with contextlib.closing(writer):
            spec = _write(writer, _single(_records(dataset), batched))
        (made / _SPEC).write_text(json.dumps(spec), "utf-8")
    return ArrayRecords(path)


def _records(dataset: Any) -> Iterator[Any]:
    import tensorflow as tf

    if isinstance(dataset, tf.data.Dataset):
        if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
            raise InputError("dataset must have an end: leave repeat out.")
        yield from dataset.as_numpy_iterator()
        return
    yield from dataset


def _single(elements: Iterator[Any], batched: bool) -> Iterator[Any]:
    import keras

    for element in elements:
        if not isinstance(element, (tuple, list)) or len(element) not in (2, 3):
            raise InputError("dataset must give records as (x, y) or (x, y, weight).")
        arrays = keras.tree.map_structure(np.asarray, tuple(element))
        if not batched:
            yield arrays
            continue
        lengths = {len(part) if part.ndim else -1 for part in keras.tree.flatten(arrays)}
        if len(lengths) != 1 or -1 in lengths:
            raise InputError("dataset must give batches of as many inputs as labels.")
        for row in range(lengths.pop()):
            yield keras.tree.map_structure(lambda part, row=row: part[row], arrays)


def _write(writer: Any, records: Iterator[Any]) -> dict[str, Any]:
    """Writes the records; returns what they are made of."""
    import keras
    import tqdm

    spec: dict[str, Any] = {}
    count = 0
    for record in tqdm.tqdm(records, desc="Records", unit=" records", disable=None):
        parts = keras.tree.flatten(record)
        structure = keras.tree.map_structure(lambda part: 0, record)
        found = {
            "structure": _to_json(structure),
            "parts": [[part.dtype.str, list(part.shape)] for part in parts],
        }
        if any(part.dtype.hasobject for part in parts):
            raise InputError("dataset must give numbers: something in a record is of no type.")
        if spec and found != spec:
            raise InputError("dataset must give records of one structure, shape and type.")
        spec, count = found, count + 1
        writer.write(b"".join(np.ascontiguousarray(part).tobytes() for part in parts))
    if not spec:
        raise InputError("dataset must give at least one record, got none.")
    return {**spec, "records": count}


def _to_json(structure: Any) -> Any:
    """Dicts and tuples as JSON tells them apart."""
    if isinstance(structure, dict):
        return {"dict": {key: _to_json(value) for key, value in structure.items()}}
    if isinstance(structure, (tuple, list)):
        return {"tuple": [_to_json(value) for value in structure]}
    return None


def _from_json(stored: Any) -> Any:
    if stored is None:
        return 0
    if "dict" in stored:
        return {key: _from_json(value) for key, value in stored["dict"].items()}
    return tuple(_from_json(value) for value in stored["tuple"])
