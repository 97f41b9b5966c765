"""Labels: their place among a model's outputs, and class numbers that are out of range."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_dpvit._types import Array
from keras_dpvit.errors import InputError
from keras_dpvit.layers.model_structure import output_names, outputs_of


@dataclasses.dataclass(frozen=True)
class ClassNumbers:
    """The range of one output's labels.

    Attributes:
        classes: int or None where labels number no classes.
        ignored: int or None, a number that stands for no class (`ignore_class` of the loss).
    """

    classes: int | None = None
    ignored: int | None = None

    def outside(self, labels: Any) -> Any:
        """Mask of the records with a label that is none of the classes, bool `(records,)`."""
        if self.classes is None:
            return np.zeros(len(labels), bool)
        inside = (labels >= 0) & (labels < self.classes)  # a NaN is not in range, either
        if self.ignored is not None:
            inside |= labels == self.ignored
        return np.asarray((~inside).any(axis=tuple(range(1, labels.ndim))))

    def kept(self, labels: Array, present: Array) -> Array:
        """The labels with 0 in place of those of absent records, class numbers as int64."""
        if self.classes is None:
            return labels
        rows = present.reshape(-1, *[1] * (labels.ndim - 1))
        return np.where(rows, labels, labels.dtype.type(0)).astype("int64")


def class_numbers(model: Any, labels: Any) -> list[ClassNumbers]:
    """Finds out which outputs' labels number classes.

    Class numbers are what a sparse loss is given, and whole numbers beside several outputs under
    a loss that may take them for classes; targets of a single output are not.

    Args:
        model: a compiled Keras model.
        labels: arrays in the structure of the outputs, or anything with `shape` and `dtype`.
    """
    losses = getattr(model, "loss", None)
    outputs = keras.tree.flatten(outputs_of(model))
    names = output_names(model)
    found = []
    for index, (output, label) in enumerate(zip(outputs, keras.tree.flatten(labels), strict=True)):
        loss = losses
        if isinstance(losses, dict):
            loss = losses.get(names[index])
        elif isinstance(losses, (list, tuple)):
            loss = losses[index] if index < len(losses) else None
        found.append(_numbers_of(loss, output.shape, label))
    return found


def _numbers_of(loss: Any, output_shape: Any, label: Any) -> ClassNumbers:
    kind = np.dtype(getattr(label.dtype, "as_numpy_dtype", label.dtype))
    classes = int(output_shape[-1]) if len(output_shape) > 1 else 1
    shape = tuple(label.shape[1:])
    name = str(getattr(loss, "name", None) or getattr(loss, "__name__", None) or loss)
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    ignored = getattr(loss, "ignore_class", None)
    per_place = shape == tuple(output_shape[1:-1]) or shape == (*output_shape[1:-1], 1)
    if "sparse" in name and per_place:
        return ClassNumbers(classes, ignored)
    may_number = np.issubdtype(kind, np.integer) and classes > 1
    if may_number and all(side == 1 for side in shape) and not _takes_targets(loss):
        return ClassNumbers(classes, ignored)
    return ClassNumbers()


def _takes_targets(loss: Any) -> bool:
    """True for Keras' own losses of amounts, of 0 and 1, and of one-hot rows."""
    kind = loss if hasattr(loss, "__name__") else type(loss)
    name = kind.__name__.lower()
    return kind.__module__.startswith("keras.src.losses") and "sparse" not in name


def arrangement(model: Any) -> Callable[[Any], Any]:
    """A function that brings labels into the structure of a model's outputs.

    Raises:
        InputError: in the function, if there are not as many labels as outputs.
    """
    outputs, names = outputs_of(model), output_names(model)

    def arrange(y: Any) -> Any:
        found = keras.tree.flatten(y)
        if keras.tree.is_nested(outputs) and isinstance(y, dict):
            found = [y[name] for name in names if name in y]
        elif isinstance(outputs, dict):
            found = []
        if len(found) != len(names):
            raise InputError(
                f"y must have labels for each of {len(names)} outputs, as a dict by their names "
                f"or in their order: {', '.join(names)}."
            )
        return keras.tree.pack_sequence_as(outputs, found)

    return arrange


def check_range(numbers: ClassNumbers, labels: Array, share: float) -> None:
    """Refuses labels of another kind, and says nothing of those of a few records.

    Args:
        numbers: of the output.
        labels: int array, the records along the first axis.
        share: float, of the records; more than it, and more than five, may not lie outside.

    Raises:
        InputError: if they do. It names neither a record nor a label nor a count.
    """
    bad = np.count_nonzero(numbers.outside(labels))
    if numbers.classes is not None and bad > 5 and bad > share * len(labels):
        most = numbers.classes - 1
        raise InputError(
            f"labels must lie in 0..{most}: more than {100 * share:g} % of the labels lie outside "
            f"0..{most}."
        )
