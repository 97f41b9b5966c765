"""The sums that norms and clipped sums are made of, in the form fastest in TensorFlow's kernels."""

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_dpvit import native


@contextlib.contextmanager
def full_precision_products() -> Iterator[None]:
    """Within the context, a GPU multiplies float32 matrices as float32.

    As TensorFloat-32, which is TensorFlow's default, the product of a record's share of the sum is
    wrong by 2^-11 of its factors, more than a norm taken from the factors keeps in reserve.
    """
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def squared_norms(rows: Any) -> Any:
    """Squared L2 norm of each record, float64 `(records,)`, of a tensor `(records, ...)`.

    Squares and sums are taken in float64: they neither underflow nor vanish beside larger ones, so
    that with n numbers a record the result is below the true one by at most n 2^-53 of its size.
    """
    if native.takes(rows):
        return native.squared_norms(_flat(rows))
    return tf.reduce_sum(tf.square(tf.cast(_flat(rows), tf.float64)), axis=1)


def weighted_sum(rows: Any, weights: Any) -> Any:
    """Sum over records of `weights[i] * rows[i]`."""
    # Not tensordot, which spends a dozen small operations on a shape it does not know.
    weights = tf.cast(weights, rows.dtype)[None]
    return tf.reshape(tf.matmul(weights, _flat(rows)), rows.shape[1:])


def weighted(rows: Any, weights: Any) -> Any:
    """`weights[i] * rows[i]` in the rows' dtype."""
    shape = (-1,) + (1,) * (rows.shape.rank - 1)
    return tf.cast(tf.reshape(weights, shape), rows.dtype) * rows


def writes_out(tokens: int, width_in: int, width_out: int) -> bool:
    """True if holding `x^T g` for every record is cheaper than measuring it by Gram matrices.

    Measured on CPU, between 8 products an element, which do not pay for it, and 31, which do.
    """
    return tokens > 1 and 16 * width_in * width_out <= tokens**2 * (width_in + width_out)


def _flat(rows: Any) -> Any:
    size = 1
    for side in rows.shape[1:]:
        size *= side
    return tf.reshape(rows, (-1, size))
