"""One loss for each record, from whatever loss a model was compiled with."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_dpvit.errors import InputError


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
