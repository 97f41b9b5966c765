"""Weights of classes, as Keras' `fit(class_weight=)` has them."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dpvit.errors import InputError
from keras_dpvit.layers.model_structure import outputs_of


def class_weights(given: Any, model: Any, labels: Any) -> Callable[[Any], Any] | None:
    """A function that gives the weight of each record by its own label.

    Privacy: a weight is a factor on its record's loss, before the gradient is clipped, and so
    costs nothing. The numbers are settings, and public.

    Args:
        given: mapping of class numbers to floats, or None; classes that it leaves out have 1.
        model: a built Keras model with one output.
        labels: of a few records: class numbers `(n,)` or `(n, 1)`, 0 or 1, or one-hot rows.

    Returns:
        A function of labels with float32 `(records,)`, or None.

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

    def of_labels(y: Any) -> Any:
        numbers = tf.argmax(y, axis=-1) if one_hot else tf.cast(tf.reshape(y, [-1]), tf.int64)
        # A label that is none of the classes has weight 1: an error would tell of its record.
        known = (numbers >= 0) & (numbers < classes)
        return tf.where(known, tf.gather(table, tf.where(known, numbers, 0)), 1.0)

    return of_labels
