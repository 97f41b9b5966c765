"""Weights of classes, as Keras' `fit(class_weight=)` has them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dpvit.errors import InputError
from keras_dpvit.layers.model_structure import outputs_of


def class_weights(given: Any, model: Any, labels: Any) -> "ClassWeights | None":
    """The weights of `fit(class_weight=)`.

    Privacy: a weight is a factor on its record's loss, before the gradient is clipped, and so
    costs nothing. The numbers are settings, and public.

    Args:
        given: mapping of class numbers to floats, or None; classes that it leaves out have 1.
        model: a built Keras model with one output.
        labels: of a few records: class numbers `(n,)` or `(n, 1)`, 0 or 1, or one-hot rows.

    Returns:
        The weights as a function of labels, or None.

    Raises:
        InputError: if a weight is not a finite number, or labels are no classes.
    """
    if given is None:
        return None
    output = outputs_of(model)
    if keras.tree.is_nested(output):
        raise InputError("class_weight needs a model with one output: use sample_weight.")
    if not isinstance(given, Mapping):
        raise InputError(f"class_weight must be a dict of class numbers to weights, got {given!r}.")
    classes = max(2, int(output.shape[-1]))
    table = np.ones(classes, "float32")
    for number, weight in given.items():
        if number not in range(classes) or not math.isfinite(float(weight)):
            raise InputError(
                f"class_weight must give finite weights to classes 0..{classes - 1}, got "
                f"{number!r}: {weight!r}."
            )
        table[int(number)] = weight
    one_hot = labels.ndim == 2 and labels.shape[1] == classes and labels.shape[1] > 1
    if not one_hot and labels.shape[1:] not in ((), (1,)):
        raise InputError(
            "class_weight needs one class for each record: weigh steps or pixels by sample_weight."
        )

    return ClassWeights(tuple(map(float, table)), one_hot)


@dataclasses.dataclass(frozen=True)
class ClassWeights:
    """The weight of each record by its own label; equal for equal settings.

    Attributes:
        table: the weight of each class.
        one_hot: bool, whether labels are rows of 0 and 1.
    """

    table: tuple[float, ...]
    one_hot: bool

    def applied(self, weights: Any, y: Any) -> Any:
        """Records' weights `(records, ...)` times those of their classes.

        A class' weight goes along its record's row, never along an axis that happens to be as long
        as the batch: there it would weigh other records.
        """
        return weights * tf.reshape(self(y), (-1, *[1] * (weights.shape.rank - 1)))

    def __call__(self, y: Any) -> Any:
        """Float32 `(records,)`, from labels of records."""
        numbers = tf.argmax(y, axis=-1) if self.one_hot else tf.cast(tf.reshape(y, [-1]), tf.int64)
        # A label that is none of the classes has weight 1: an error would tell of its record.
        known = (numbers >= 0) & (numbers < len(self.table))
        found = tf.gather(tf.constant(self.table), tf.where(known, numbers, 0))
        return tf.where(known, found, 1.0)
