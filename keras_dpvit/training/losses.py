"""Losses: the paper's own, and one value for each record from whatever a model is compiled with."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_dpvit.errors import InputError


@keras.saving.register_keras_serializable(package="keras_dpvit")
class PerClassBinaryCrossentropy(keras.losses.Loss):
    """Binary cross-entropy of each class against all others, averaged over classes (eq 7).

    `-(1/C) sum_c [y_c log p_c + (1 - y_c) log(1 - p_c)]` with `p = sigmoid(logits)`, computed from
    the logits so that no probability reaches 0 or 1. Beside softmax cross-entropy each class has
    a threshold of its own. At inference take the largest logit, or the sigmoids.

    Args:
        name: str or None.
        reduction: as in `keras.losses.Loss`; private training takes one value for each record.

    Input shapes:
        labels: class numbers `(batch,)` or `(batch, 1)`, or 0/1 for each class
            `(batch, num_classes)`.
        logits: `(batch, num_classes)`.
    """

    def __init__(
        self,
        name: str | None = "per_class_binary_crossentropy",
        reduction: str = "sum_over_batch_size",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, reduction=reduction, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        classes = y_pred.shape[-1]
        if len(y_true.shape) == 1 or (y_true.shape[-1] == 1 and classes > 1):
            numbers = keras.ops.cast(keras.ops.reshape(y_true, (-1,)), "int32")
            y_true = keras.ops.one_hot(numbers, classes, dtype=y_pred.dtype)
        y_true = keras.ops.cast(y_true, y_pred.dtype)
        return keras.losses.binary_crossentropy(y_true, y_pred, from_logits=True)


def per_example_loss(loss: Any) -> Callable[[Any, Any], Any]:
    """The compiled loss before any reduction over records.

    Args:
        loss: what was given to `compile`: a name, a `keras.losses.Loss`, or a function of
            `(y_true, y_pred)` that returns one value for each record.

    Returns:
        A function of `(y_true, y_pred)` with float32 values of shape `(records,)`; further axes
        of a loss are averaged within the record.

    Raises:
        InputError: if the loss is missing, several, or already reduced over the batch.
    """
    if loss is None or isinstance(loss, (dict, list, tuple)):
        raise InputError(
            f"loss must be one loss for one output, got {loss!r}: give compile a single loss."
        )
    loss = keras.losses.get(loss)
    function = loss.call if isinstance(loss, keras.losses.Loss) else loss

    def losses(y_true: Any, y_pred: Any) -> Any:
        values = tf.cast(function(tf.convert_to_tensor(y_true), y_pred), tf.float32)
        if values.shape.rank == 0:
            raise InputError(
                "loss must return one value for each record, got a single number: do not reduce "
                "over the batch, each record's gradient is clipped by itself."
            )
        if values.shape.rank > 1:
            values = tf.reduce_mean(values, axis=list(range(1, values.shape.rank)))
        return values

    return losses
