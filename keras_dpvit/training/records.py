"""Records as a private step takes them, and what they are taken from by number."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_dpvit._types import Array
from keras_dpvit.layers.model_structure import as_tuples
from keras_dpvit.training.labels import ClassNumbers, check_range


@dataclasses.dataclass(frozen=True)
class Rows:
    """Records as a step takes them.

    Attributes:
        x: arrays `(records, ...)` in the structure that the model takes.
        y: labels `(records, ...)` in the structure of its outputs.
        weights: float32 `(records, ...)`, factors on the records' own losses.
        present: bool `(records,)`, which of the records count.
    """

    x: Any
    y: Any
    weights: Array
    present: Array

    def parts(self) -> tuple[Any, Any, Array, Array]:
        """All four, as a batch in a data set has them."""
        return as_tuples(self.x), as_tuples(self.y), self.weights, self.present

    def map(self, function: Callable[[Array], Array]) -> "Rows":
        """The records with a function applied to each array."""
        parts = self.x, self.y, self.weights, self.present
        return Rows(*keras.tree.map_structure(function, parts))


# A record's parts as they come from a source: x, y, and weights or None.
Parts = tuple[Any, Any, Any]


class Source(abc.ABC):
    """Records that can be taken by number, so that a plan can sample them itself.

    Attributes:
        num_records: int.
        numbers: of each output's labels the `ClassNumbers`; a record with a label outside of them
            is taken as absent. None for labels that number nothing. `source_for` sets it.
        arrange: brings labels into the structure of the model's outputs; `source_for` sets it.
    """

    num_records: int
    numbers: list[ClassNumbers] | None = None
    arrange: Callable[[Any], Any] = staticmethod(lambda y: y)

    def take(self, rows: Array) -> Rows:
        """The records of these numbers.

        In the midst of a training, an end that one record brings about would tell of it. So a NaN
        or an infinite value passes, and its gradient counts as zero; a label that is none of the
        classes becomes 0, and its record does not count.

        Args:
            rows: int array `(n,)`, in any order, may be empty.

        Raises:
            InputError: if a record differs from the first in shape or type, or more than half of
                the labels, and more than five, are none of the classes.
        """
        rows = np.asarray(rows, int)
        x, y, weights = self._read(rows)
        y = self.arrange(y)
        if weights is None:
            weights = np.ones(len(rows), "float32")
        present = np.ones(len(rows), bool)
        if self.numbers is None:
            return Rows(x, y, weights, present)
        labels = keras.tree.flatten(y)
        for own, label in zip(self.numbers, labels, strict=True):
            check_range(own, label, 0.5)
            present &= ~own.outside(label)
        kept = [own.kept(label, present) for own, label in zip(self.numbers, labels, strict=True)]
        return Rows(x, keras.tree.pack_sequence_as(y, kept), weights, present)

    @abc.abstractmethod
    def _read(self, rows: Array) -> Parts:
        """The parts of these records, without a look at the labels' values."""

    def example(self) -> Rows:
        """The first record, for shapes and types."""
        return self.take(np.zeros(1, int))
