"""One loss for each record from whatever a model is compiled with."""

import copy
import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from keras_dpvit.errors import InputError


@dataclasses.dataclass(frozen=True)
class OutputLoss:
    """The loss of one of a model's outputs.

    Attributes:
        loss: `keras.losses.Loss` that averages over the axes of a record.
        weight: float, of the output among the others (`compile(loss_weights=)`).
    """

    loss: Any
    weight: float = 1.0


def output_losses(
    loss: Any, names: Sequence[str] = ("output",), loss_weights: Any = None
) -> list[OutputLoss]:
    """The loss of each output of a model, from the arguments of `compile`.

    Args:
        loss: a name, a `keras.losses.Loss`, a function of `(y_true, y_pred)`; or a list, tuple or
            dict of them.
        names: of the outputs, in order.
        loss_weights: None, a float, or a list, tuple or dict like `loss`.

    Raises:
        InputError: if an output has no loss, or there is a loss or weight for no output.
    """
    losses = _for_each(loss, names, "loss")
    weights = _for_each(1.0 if loss_weights is None else loss_weights, names, "loss_weights")
    return [
        OutputLoss(_as_loss(own, name), float(weight))
        for own, weight, name in zip(losses, weights, names, strict=True)
    ]


def _for_each(value: Any, names: Sequence[str], what: str) -> list[Any]:
    if isinstance(value, dict):
        if set(value) != set(names):
            raise InputError(
                f"{what} must have one entry for each output ({', '.join(names)}), got "
                f"{', '.join(map(str, value)) or 'none'}."
            )
        return [value[name] for name in names]
    if isinstance(value, (list, tuple)):
        if len(value) != len(names):
            raise InputError(
                f"{what} must have one entry for each of {len(names)} outputs, got {len(value)}."
            )
        return list(value)
    return [value] * len(names)


def _as_loss(loss: Any, name: str) -> Any:
    if loss is None:
        raise InputError(
            f"loss must be given for each output, got None for {name!r}: leave out of the model "
            "what is not trained."
        )
    loss = keras.losses.get(loss)
    if not isinstance(loss, keras.losses.Loss):
        return _FunctionLoss(loss)
    # A sum over the batch, or a mean over its weights, is no property of one record.
    own = copy.copy(loss)
    own.reduction = "sum_over_batch_size"
    return own


class _FunctionLoss(keras.losses.Loss):
    """A function of `(y_true, y_pred)` as a loss; ranks are made equal, as Keras does."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        name = getattr(function, "__name__", "function")
        super().__init__(name=re.sub(r"\W", "_", name))  # of a lambda, no scope can be named
        self._function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self._function(*_of_one_rank(y_true, y_pred))


def _of_one_rank(y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    """Labels and outputs without an axis of one that only one of them has at its end.

    Class numbers `(n,)` or `(n, 1)` beside `(n, classes)` stay as they are.
    """
    ranks = len(y_true.shape), len(y_pred.shape)
    if ranks[0] == ranks[1] + 1 and y_true.shape[-1] == 1:
        y_true = tf.squeeze(y_true, -1)
    elif ranks[1] == ranks[0] + 1 and y_pred.shape[-1] == 1:
        y_true = y_true[..., None]
    return y_true, y_pred


class RecordLosses:
    """The compiled loss of each record, evaluated for one record at a time.

    Guarantee: the value of a record is a function of its own label, output and weight, whatever
    the loss does with a batch: it never sees more than one record. (`check_loss` refuses a loss to
    which this makes a difference.)

    Args:
        losses: one for each output.
    """

    def __init__(self, losses: Sequence[OutputLoss]) -> None:
        self._losses = tuple(losses)

    def __call__(self, y_true: Any, y_pred: Any, weights: Any = None) -> Any:
        """The losses of a batch.

        Args:
            y_true: labels `(records, ...)`, one tensor for each output in the outputs' structure.
            y_pred: outputs `(records, ...)`, whose Keras masks leave out steps of a sequence.
            weights: tensor `(records, ...)` or None, factors on the losses: of the record, or of
                the steps of its sequences.

        Returns:
            float32 `(records,)`; further axes of a loss are averaged within the record.
        """
        outputs = keras.tree.flatten(y_pred)
        labels = [tf.convert_to_tensor(label) for label in keras.tree.flatten(y_true)]
        beside = [beside_output(output) for output in outputs]
        others = {} if weights is None else {"weights": weights}

        def of_one(row: Any) -> Any:
            own_labels, own_outputs, own_beside, others = row
            weight = others["weights"][None] if others else None
            total = tf.zeros([])
            for part, label, output, more in zip(
                self._losses, own_labels, own_outputs, own_beside, strict=True
            ):
                output = with_beside(output[None], {k: v[None] for k, v in more.items()})
                value = part.loss(label[None], output, sample_weight=weight)
                total += part.weight * tf.reduce_mean(tf.cast(value, tf.float32))
            return total

        return tf.vectorized_map(of_one, (labels, outputs, beside, others))


# Attributes in which Keras keeps, beside an output, the mask of its steps, and what a sigmoid or
# softmax was taken of: its losses are computed from that, where a probability would be 0 or 1.
_BESIDE = ("_keras_mask", "_keras_logits")


def beside_output(output: Any) -> dict[str, Any]:
    """The tensors that Keras keeps beside an output, by the attribute's name."""
    found = {name: getattr(output, name, None) for name in _BESIDE}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def with_beside(output: Any, beside: dict[str, Any]) -> Any:
    """The output with these tensors beside it."""
    if beside:
        output = tf.identity(output)
    for name, tensor in beside.items():
        setattr(output, name, tensor)
    return output


def in_float32(outputs: Any) -> Any:
    """A model's outputs in float32, with the tensors that Keras keeps beside them."""

    def cast(output: Any) -> Any:
        if output.dtype == tf.float32:
            return output
        beside = {
            name: tf.cast(tensor, tf.float32) if tensor.dtype.is_floating else tensor
            for name, tensor in beside_output(output).items()
        }
        return with_beside(tf.cast(output, tf.float32), beside)

    return keras.tree.map_structure(cast, outputs)


def per_example_loss(loss: Any) -> RecordLosses:
    """The `RecordLosses` of a model with one output, from what `compile` is given as its loss."""
    return RecordLosses(output_losses(loss))


def check_loss(loss: Any, y: Any, outputs: Any) -> None:
    """Raises unless a loss of a batch is made of its records' own losses.

    Args:
        loss: of one output, as `compile` takes it, or an `OutputLoss`.
        y: array `(records, ...)`, labels of at least two records.
        outputs: array `(records, ...)`, outputs that the model might give for them.

    Raises:
        InputError: if the loss compares records with each other, or keeps or draws something from
            call to call.
    """
    # Before any reduction: a batch has its values, or one that is their mean or sum.
    own_loss = loss if isinstance(loss, OutputLoss) else output_losses(loss)[0]
    function = own_loss.loss.call
    y, outputs = tf.convert_to_tensor(y), tf.convert_to_tensor(outputs)
    y = tf.cast(y, outputs.dtype)  # as Keras hands it to a loss
    specs = [tf.TensorSpec((1, *t.shape[1:]), t.dtype) for t in (y, outputs)]
    traced = tf.function(function, autograph=False).get_concrete_function(*specs)
    stateful = sorted(_stateful_operations(traced))
    if stateful:
        raise InputError(
            f"loss must be a function of a record's label and output alone, it has {stateful[0]}: "
            "it must draw no random numbers, call no Python function and write no variable."
        )
    own = RecordLosses([OutputLoss(own_loss.loss)])(y, outputs).numpy()
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
