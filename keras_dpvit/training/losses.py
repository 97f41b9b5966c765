"""Losses: the paper's own, and one value for each record from whatever a model is compiled with."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from keras_dpvit.errors import InputError


@keras.saving.register_keras_serializable(package="keras_dpvit")
class PerClassBinaryCrossentropy(keras.losses.Loss):
    """Binary cross-entropy of each class against all others, averaged over classes (eq 7).

    `-(1/C) sum_c [y_c log p_c + (1 - y_c) log(1 - p_c)]` with `p = sigmoid(logits)`, computed from
    the logits so that no probability reaches 0 or 1. Beside softmax cross-entropy each class has
    its own threshold. At inference take the largest logit, or the sigmoids.

    Args:
        name: str or None.
        reduction: as in `keras.losses.Loss`; private training takes one value for each record.

    Input shapes:
        labels: class numbers `(batch,)` or `(batch, 1)`, or 0/1 for each class
            `(batch, num_classes)`.
        logits: `(batch, num_classes)`.

    Example:
        >>> loss = kd.PerClassBinaryCrossentropy()
        >>> float(loss(np.array([1]), np.zeros((1, 3), "float32"))) > 0
        True
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
    """The compiled loss of each record, evaluated for one record at a time.

    Guarantee: the value of a record is a function of its own label and output, whatever the loss
    does with a batch: it never sees more than one record. (`check_loss` refuses a loss to which
    this makes a difference.)

    Args:
        loss: what was given to `compile`: a name, a `keras.losses.Loss`, or a function of
            `(y_true, y_pred)`. Labels and outputs whose ranks differ by an axis of one are given
            one rank, as Keras does.

    Returns:
        A function of `(y_true, y_pred)` with float32 values of shape `(records,)`; further axes
        of a loss are averaged within the record.

    Raises:
        InputError: if the loss is missing or several.
    """
    function = _batch_loss(loss)

    def of_one(pair: tuple[Any, Any]) -> Any:
        y_true, y_pred = pair
        return tf.reduce_mean(tf.cast(function(y_true[None], y_pred[None]), tf.float32))

    def losses(y_true: Any, y_pred: Any) -> Any:
        return tf.vectorized_map(of_one, (tf.convert_to_tensor(y_true), y_pred))

    return losses


def check_loss(loss: Any, y: Any, outputs: Any) -> None:
    """Raises unless a loss of a batch is made of its records' own losses.

    Args:
        loss: see `per_example_loss`.
        y: array `(records, ...)`, labels of at least two records.
        outputs: array `(records, ...)`, outputs that the model might give for them.

    Raises:
        InputError: if the loss compares records with each other, or keeps or draws something from
            call to call.
    """
    function = _batch_loss(loss)
    y, outputs = tf.convert_to_tensor(y), tf.convert_to_tensor(outputs)
    specs = [tf.TensorSpec((1, *t.shape[1:]), t.dtype) for t in (y, outputs)]
    traced = tf.function(function, autograph=False).get_concrete_function(*specs)
    stateful = sorted(_stateful_operations(traced))
    if stateful:
        raise InputError(
            f"loss must be a function of a record's label and output alone, it has {stateful[0]}: "
            "it must draw no random numbers, call no Python function and write no variable."
        )
    own = per_example_loss(loss)(y, outputs).numpy()
    together = tf.cast(function(y, outputs), tf.float32).numpy()
    if together.ndim == 0:
        agree = any(_close(together, expected) for expected in (own.mean(), own.sum()))
    else:
        agree = len(together) == len(own)
        agree = agree and _close(together.reshape(len(own), -1).mean(axis=1), own)
    if not agree:
        raise InputError(
            "loss must be the sum or mean of one loss for each record, this one compares the "
            "records of a batch (its value for a batch differs from that of its records one by "
            "one): each record's gradient is clipped separately, so give a loss that looks at one "
            "record."
        )


def _close(found: Any, expected: Any) -> bool:
    return bool(np.allclose(found, expected, rtol=1e-3, atol=1e-5, equal_nan=True))


def _batch_loss(loss: Any) -> Callable[[Any, Any], Any]:
    """The loss as a function of labels and outputs of a batch, before any reduction by Keras."""
    if loss is None or isinstance(loss, (dict, list, tuple)):
        raise InputError(
            f"loss must be one loss for one output, got {loss!r}: give compile a single loss."
        )
    loss = keras.losses.get(loss)
    function = loss.call if isinstance(loss, keras.losses.Loss) else loss

    def of_batch(y_true: Any, y_pred: Any) -> Any:
        return function(*_of_one_rank(y_true, y_pred))

    return of_batch


def _of_one_rank(y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    """Labels and outputs without an axis of one that only one of them has at its end.

    Class numbers `(n,)` or `(n, 1)` beside `(n, classes)` stay as they are.
    """
    ranks = y_true.shape.rank, y_pred.shape.rank
    if ranks[0] == ranks[1] + 1 and y_true.shape[-1] == 1:
        y_true = tf.squeeze(y_true, -1)
    elif ranks[1] == ranks[0] + 1 and y_pred.shape[-1] == 1:
        y_true = y_true[..., None]
    return y_true, y_pred


def _stateful_operations(function: Any) -> set[str]:
    """Names of operations in a traced function that do not depend on their inputs alone."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
    harmless = {"Placeholder", "ReadVariableOp", "PartitionedCall", "StatefulPartitionedCall"}
    known = {node.op: op_def_registry.get(node.op) for node in nodes}
    return {
        name
        for name, definition in known.items()
        if definition is not None and definition.is_stateful and name not in harmless
    }
