"""Batches that somebody else makes: their rows are counted, because cost is per pass."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dpvit.errors import InputError
from keras_dpvit.layers.model_structure import as_tuples
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.training import sources
from keras_dpvit.training.dataset_source import inputs_of_pipeline
from keras_dpvit.training.labels import ClassNumbers, arrangement, check_range, class_numbers
from keras_dpvit.training.records import Rows


class ExternalBatches:
    """A `tf.data.Dataset` of batches made elsewhere, with a count of the rows of each pass.

    Guarantee: no pass gives a step more than the plan's `num_examples` rows, batch upon batch: the
    one that would is refused before its step. So what has the length of several passes is never
    counted as one. That a pass holds no record twice within that length is not seen from here.

    Args:
        model: a built Keras model with one input and one output.
        plan: the `PrivacyPlan`.
        x: `tf.data.Dataset` of batches (x, y) or (x, y, weights), with an end.
        y: None.

    Attributes:
        data: a `tf.data.Dataset` of batches (x, y, weights, which rows count). A label that is
            none of the classes is 0 there, and its row does not count.
        some_records: a few records, as `Rows`.

    Raises:
        InputError: on anything else, and on a data set that repeats one.
    """

    def __init__(self, model: Any, plan: PrivacyPlan, x: Any, y: Any) -> None:
        _check(x, y)
        first = next(iter(x.take(1)), None)
        if first is None:
            raise InputError("x must hold at least one batch, got none.")
        first = keras.tree.map_structure(lambda tensor: tensor.numpy(), tuple(first))
        self._arrange = arrangement(model)
        images, labels = first[0], self._arrange(first[1])
        sources.check_inputs(model, images)
        self._plan = plan
        self._numbers = class_numbers(model, labels)
        for numbers, label in zip(self._numbers, keras.tree.flatten(labels), strict=True):
            check_range(numbers, label, 0.5)
        self.some_records = self._few(images, labels)
        self._rows = 0
        counted = x.scan(np.int64(0), self._count)
        self.data = counted.map(self._marked).prefetch(2)

    def check_whole_pass(self) -> None:
        """Raises `InputError` if the pass that has just ended was far shorter than the plan's."""
        if self._rows < self._plan.num_examples - self._plan.batch_size:
            raise InputError(
                f"num_examples must be the number of rows in a pass, {self._plan.num_examples} is "
                "more than x holds: make a plan for what it holds."
            )

    def _count(self, before: Any, batch: Any) -> tuple[Any, Any]:
        rows = before + tf.cast(tf.shape(keras.tree.flatten(batch[1])[0])[0], tf.int64)
        return rows, (rows, *batch)

    def _few(self, images: Any, labels: Any) -> Rows:
        """The first rows of a batch of arrays."""
        images, labels = keras.tree.map_structure(lambda part: part[:8], (images, labels))
        flat = keras.tree.flatten(labels)
        present = np.ones(len(flat[0]), bool)
        for numbers, label in zip(self._numbers, flat, strict=True):
            present &= ~numbers.outside(label)
        kept = [n.kept(label, present) for n, label in zip(self._numbers, flat, strict=True)]
        labels = keras.tree.pack_sequence_as(labels, kept)
        return Rows(images, labels, np.ones(len(present), "float32"), present)

    def _marked(self, rows: Any, images: Any, labels: Any, weights: Any = None) -> Any:
        counted = tf.py_function(self._check_rows, [rows], tf.bool)
        labels = self._arrange(labels)
        flat = keras.tree.flatten(labels)
        with tf.control_dependencies([counted]):
            present = tf.ones(tf.shape(flat[0])[:1], tf.bool)
        for numbers, label in zip(self._numbers, flat, strict=True):
            present &= _in_range(numbers, label)
        kept = [_kept(n, label, present) for n, label in zip(self._numbers, flat, strict=True)]
        if weights is None:
            weights = tf.ones_like(present, tf.float32)
        weights = tf.cast(weights, tf.float32)
        labels = as_tuples(keras.tree.pack_sequence_as(labels, kept))
        return images, labels, weights, present

    def _check_rows(self, rows: Any) -> bool:
        self._rows = int(rows)
        if self._rows > self._plan.num_examples:
            raise InputError(
                f"x must give at most num_examples={self._plan.num_examples} rows in a pass: a "
                "pass is paid for as one look at each record; give one pass, and set epochs."
            )
        return True


def _in_range(numbers: ClassNumbers, labels: Any) -> Any:
    """True for rows without a label outside of the classes, bool `(rows,)`."""
    if numbers.classes is None:
        return tf.ones(tf.shape(labels)[:1], tf.bool)
    inside = (labels >= 0) & (labels < tf.cast(numbers.classes, labels.dtype))
    if numbers.ignored is not None:
        inside |= labels == tf.cast(numbers.ignored, labels.dtype)
    return tf.reduce_all(inside, axis=list(range(1, labels.shape.rank)))


def _kept(numbers: ClassNumbers, labels: Any, present: Any) -> Any:
    """Labels with 0 in place of those of absent rows; as `numbers.kept`."""
    if numbers.classes is None:
        return labels
    rows = tf.reshape(present, (-1, *[1] * (labels.shape.rank - 1)))
    return tf.cast(tf.where(rows, labels, tf.zeros([], labels.dtype)), tf.int64)


def _check(x: Any, y: Any) -> None:
    if not isinstance(x, tf.data.Dataset) or y is not None:
        raise InputError(
            "a plan with sampling='external' needs a tf.data.Dataset of (images, labels) batches "
            f"as x and no y, got {type(x).__name__}; arrays are better given to a plan that "
            "samples them itself."
        )
    if not isinstance(x.element_spec, tuple) or len(x.element_spec) not in (2, 3):
        raise InputError("x must give batches of (images, labels) or (images, labels, weights).")
    if int(x.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise InputError("x must have an end: what a pass costs is counted by passes.")
    if any(_repeats(part) for part in _ancestors(x)):
        raise InputError(
            "x must not be repeated: each of its passes costs a pass; leave repeat out, and set "
            "epochs."
        )


def _ancestors(data: Any) -> Iterator[Any]:
    """The data set and all that it is made from."""
    yield data
    for part in inputs_of_pipeline(data):
        yield from _ancestors(part)


def _repeats(data: Any) -> bool:
    if "Repeat" not in type(data).__name__:
        return False
    count = tf.get_static_value(getattr(data, "_count", None))
    return count is None or int(count) != 1
