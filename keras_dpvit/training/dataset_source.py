"""tf.data pipelines whose elements can be taken by number."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dpvit._types import Array
from keras_dpvit.errors import InputError
from keras_dpvit.training.records import Source

# A step of a pipeline that changes no element: order, waiting and storage are the plan's here.
_PASSED_BY = ("Shuffle", "Prefetch", "Options", "Cache", "Model", "AssertCardinality")
_BATCHES = ("Batch", "ParallelBatch")
_KEPT = ("TensorSlice", "Map", "ParallelMap", "Zip", "Range")


class DatasetSource(Source):
    """A `tf.data.Dataset` made of arrays in memory and maps without state.

    Its elements are sampled by number. What only orders or batches them (`shuffle`, `batch`,
    `prefetch`, `cache`) is passed by: the plan draws the batches.

    Args:
        dataset: of (x, y) or (x, y, weight), single records or batches of them.

    Raises:
        InputError: if an element cannot be taken by number, or a map draws random numbers or keeps
            a state.
    """

    def __init__(self, dataset: tf.data.Dataset) -> None:
        records = _single_records(dataset)
        _check(records)
        spec = records.element_spec
        if not isinstance(spec, tuple) or len(spec) not in (2, 3):
            raise InputError("x must give records as (x, y) or (x, y, weight).")
        self.num_records = int(records.cardinality())
        if self.num_records <= 0:
            raise InputError("x must hold at least one record and have an end.")
        types = keras.tree.map_structure(lambda part: part.dtype, spec)

        def at(row: Any) -> Any:
            return tf.data.experimental.at(records, row)

        self._take = tf.function(
            lambda rows: tf.map_fn(at, rows, fn_output_signature=types),
            input_signature=[tf.TensorSpec((None,), tf.int64)],
            autograph=False,
        )
        self._spec = spec

    def _read(self, rows: Array) -> tuple[Any, Any, Any]:
        if not len(rows):
            parts = keras.tree.map_structure(
                lambda part: np.zeros((0, *part.shape), part.dtype.as_numpy_dtype), self._spec
            )
        else:
            found = self._take(tf.constant(rows, tf.int64))
            parts = keras.tree.map_structure(lambda tensor: tensor.numpy(), found)
        x, y, *weights = parts
        return x, y, np.asarray(weights[0], "float32") if weights else None


def _single_records(dataset: Any) -> Any:
    """The pipeline without what orders it, and without one batching at its end."""
    may_batch = True
    while True:
        kind = _kind(dataset)
        if kind in _PASSED_BY or (kind in _BATCHES and may_batch):
            may_batch = may_batch and kind not in _BATCHES
            (dataset,) = inputs_of_pipeline(dataset)
        else:
            return dataset


def _check(dataset: Any) -> None:
    kind = _kind(dataset)
    if kind in _PASSED_BY:  # below a map, where it cannot be passed by
        raise InputError(f"{_lower(kind)} must come after map in x, where it is left to the plan.")
    if kind not in _KEPT:
        raise InputError(
            f"fit cannot sample from a tf.data pipeline with {_lower(kind)}: write its records "
            "once, fit(kd.datasets.to_array_record(dataset, directory)); or build it by "
            "from_tensor_slices and map; or, for batches made elsewhere, take a plan with "
            "sampling='external', whose epsilon is not amplified."
        )
    function = getattr(dataset, "_map_func", None)
    if function is not None and function.function.function_def.signature.is_stateful:
        raise InputError(
            "map in x must be a function of its record alone: this one draws random numbers, calls "
            "Python or keeps a state; augment by layers of the model, or fit(augmentation=...)."
        )
    for part in inputs_of_pipeline(dataset):
        _check(part)


def _kind(dataset: Any) -> str:
    return type(dataset).__name__.strip("_").removesuffix("Dataset").removesuffix("V1")


def _lower(kind: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in kind).lstrip("_")


def inputs_of_pipeline(dataset: Any) -> list[Any]:
    """The data sets that a `tf.data.Dataset` is made from."""
    return list(dataset._inputs())  # noqa: SLF001
