"""The sums that norms and clipped sums are made of, in the form fastest for the compiler."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

_NATIVE = contextvars.ContextVar("native", default=False)


@contextlib.contextmanager
def kernels_for(*, xla: bool) -> Iterator[None]:
    """What is traced within the context runs under XLA, or under TensorFlow's own kernels.

    The results differ by rounding only. Outside of such a context XLA is allowed for.
    """
    token = _NATIVE.set(not xla)
    try:
        yield
    finally:
        _NATIVE.reset(token)


def squared_norms(rows: Any) -> Any:
    """Squared L2 norm of each record, `(records,)`, of a tensor `(records, ...)`."""
    rows = _flat(rows)
    if _NATIVE.get():
        # One pass that writes no squares; XLA cannot compile it and needs it not.
        return tf.math.reduce_euclidean_norm(rows, axis=1) ** 2
    return tf.reduce_sum(rows**2, axis=1)


def weighted_sum(rows: Any, weights: Any) -> Any:
    """Sum over records of `weights[i] * rows[i]`."""
    weights = tf.cast(weights, rows.dtype)
    if _NATIVE.get():
        # Not tensordot, which spends a dozen small operations on a shape it does not know.
        return tf.reshape(tf.matmul(weights[None], _flat(rows)), rows.shape[1:])
    # XLA's product of a vector and a matrix is three times slower than the sum it would fuse.
    return tf.reduce_sum(weighted(rows, weights), axis=0)


def weighted(rows: Any, weights: Any) -> Any:
    """`weights[i] * rows[i]` in the rows' dtype."""
    shape = (-1,) + (1,) * (rows.shape.rank - 1)
    return tf.cast(tf.reshape(weights, shape), rows.dtype) * rows


def writes_out(tokens: int, width_in: int, width_out: int) -> bool:
    """Whether a layer's `x^T g` is better held for every record than measured by Gram matrices.

    Measured on CPU: with TensorFlow's kernels six products an element pay for it. XLA takes twice
    as long for many small products as for one of all records.
    """
    native: bool = _NATIVE.get()
    return native and tokens > 1 and 6 * width_in * width_out <= tokens**2 * (width_in + width_out)


def _flat(rows: Any) -> Any:
    size = 1
    for side in rows.shape[1:]:
        size *= side
    return tf.reshape(rows, (-1, size))
