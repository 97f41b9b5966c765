"""Clipped sums of a batch for code that adds its own noise and accounts for it itself."""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.gradients.clipped_gradients import clipped_gradients
from keras_dpvit.gradients.layer_rules import clipping_groups, layer_rules
from keras_dpvit.gradients.private_forward import private_forward
from keras_dpvit.privacy.clipping import Clipping


@dataclasses.dataclass(frozen=True)
class ClippedSum:
    """The findings of `clipped_sum`.

    Attributes:
        sums: tensors, the sum of all records' clipped gradients in each of `variables`.
        variables: the model's trainable variables, layer by layer.
        count: int32 scalar, records whose gradient is in the sums; a private number.
    """

    sums: list[Any]
    variables: list[Any]
    count: Any


def clipped_sum(
    model: Any, loss_fn: Callable[[Any, Any], Any], batch: Any, clipping: Clipping, cap: float
) -> ClippedSum:
    """The gradients of a batch's records, each clipped, added up without noise.

    Privacy: none. The sums and the count are private values; noise, sampling, accounting and the
    ledger are the caller's. One record moves the sums by at most `cap` if `loss_fn` lets no row
    touch another, which is not tried here. `kd.PrivateStep` does all of it.

    Args:
        model: a built Keras model; wrapped or not.
        loss_fn: a function of `(model, batch)` that gives float `(records,)`; it calls
            `model(inputs, training=True)`.
        batch: what `loss_fn` takes, in any structure.
        clipping: a `Clipping`, as `kd.FlatClipping()`.
        cap: float from 1e-9 to 1e9, the largest L2 norm of a clipped gradient.

    Returns:
        A `ClippedSum`. A record whose loss or gradient is not finite counts as zero.

    Raises:
        InputError: if an argument is of another kind, or the model mixes records (as
            BatchNormalization does).

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
        >>> loss_fn = lambda model, x: 100.0 * model(x, training=True)[:, 0]
        >>> x = np.array([[3.0, 4.0], [3.0, 4.0]])
        >>> found = kd.gradients.clipped_sum(model, loss_fn, x, kd.FlatClipping(), cap=1.0)
        >>> [round(float(g), 3) for g in found.sums[0][:, 0]], int(found.count)
        ([1.2, 1.6], 2)
    """
    if not isinstance(clipping, Clipping):
        raise InputError(f"clipping must be a Clipping, as kd.FlatClipping(), got {clipping!r}.")
    cap = _validate.clipping_norm(cap=cap)
    rules = layer_rules(model, by_variable=clipping.groups == "variable")

    def forward() -> tuple[Any, Any]:
        with private_forward(model):
            return tf.cast(loss_fn(model, batch), tf.float32), ()

    clipped = clipped_gradients(
        clipping, cap, rules, clipping_groups(model, rules, clipping.groups), forward
    )
    variables = [v for rule in rules for v in rule.variables]
    count = tf.reduce_sum(tf.cast(clipped.gradients.usable, tf.int32))
    return ClippedSum(clipped.weighted_sums(), variables, count)
