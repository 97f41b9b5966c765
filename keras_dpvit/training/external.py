"""Batches that somebody else makes: their rows are counted, because cost is per pass."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dpvit.errors import InputError
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.training import sources


class ExternalBatches:
    """A `tf.data.Dataset` of batches made elsewhere, with a count of the rows of each pass.

    Guarantee: no pass gives a step more than the plan's `num_examples` rows, batch upon batch: the
    one that would is refused before its step. So what has the length of several passes is never
    counted as one. That a pass holds no record twice within that length is not seen from here.

    Args:
        model: a built Keras model with one input and one output.
        plan: the `PrivacyPlan`.
        x: `tf.data.Dataset` of batches (images, labels), with an end.
        y: None.

    Attributes:
        data: a `tf.data.Dataset` of batches (images, labels, which rows count). An integer label
            that is none of the classes is 0 there, and its row does not count.
        some_records: images and labels of a few records.

    Raises:
        InputError: on anything else, and on a data set that repeats one.
    """

    def __init__(self, model: Any, plan: PrivacyPlan, x: Any, y: Any) -> None:
        _check(x, y)
        first = next(iter(x.take(1)), None)
        if first is None:
            raise InputError("x must hold at least one batch, got none.")
        images, labels = first
        sources.check_images(images.numpy(), tuple(model.input_shape[1:]))
        self._plan = plan
        self._classes = sources.num_classes_of(model, labels.numpy()[:1])
        if self._classes is not None:
            sources.check_labels(labels.numpy(), self._classes, 0.5)
            labels = self._in_range(labels)[0]
        self.some_records = images.numpy()[:8], labels.numpy()[:8]
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
        rows = before + tf.cast(tf.shape(batch[1])[0], tf.int64)
        return rows, (rows, *batch)

    def _marked(self, rows: Any, images: Any, labels: Any) -> tuple[Any, Any, Any]:
        counted = tf.py_function(self._check_rows, [rows], tf.bool)
        with tf.control_dependencies([counted]):
            present = tf.ones(tf.shape(labels)[:1], tf.bool)
        if self._classes is None:
            return images, labels, present
        kept, in_range = self._in_range(labels)
        return images, kept, present & in_range

    def _in_range(self, labels: Any) -> tuple[Any, Any]:
        """Labels with 0 in place of those that are none of the classes, and which rows are kept."""
        kept = (labels >= 0) & (labels < tf.cast(self._classes, labels.dtype))
        numbers = tf.where(kept, labels, tf.zeros([], labels.dtype))
        return tf.cast(numbers, tf.int64), tf.reshape(kept, [-1])

    def _check_rows(self, rows: Any) -> bool:
        self._rows = int(rows)
        if self._rows > self._plan.num_examples:
            raise InputError(
                f"x must give at most num_examples={self._plan.num_examples} rows in a pass: a "
                "pass is paid for as one look at each record; give one pass, and set epochs."
            )
        return True


def _check(x: Any, y: Any) -> None:
    if not isinstance(x, tf.data.Dataset) or y is not None:
        raise InputError(
            "a plan with sampling='external' needs a tf.data.Dataset of (images, labels) batches "
            f"as x and no y, got {type(x).__name__}; arrays are better given to a plan that "
            "samples them itself."
        )
    if not isinstance(x.element_spec, tuple) or len(x.element_spec) != 2:
        raise InputError("x must give batches of (images, labels), without sample weights.")
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
    for part in data._inputs():  # noqa: SLF001
        yield from _ancestors(part)


def _repeats(data: Any) -> bool:
    if "Repeat" not in type(data).__name__:
        return False
    count = tf.get_static_value(getattr(data, "_count", None))
    return count is None or int(count) != 1
