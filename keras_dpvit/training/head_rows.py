"""Features as the rows of a linear head that is solved for: public scale, width and constant."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dpvit._types import Array
from keras_dpvit.errors import InputError
from keras_dpvit.layers.whitening import JoinedFeatures
from keras_dpvit.models.linear_head import LinearHead

# Wider features are projected: their covariance matrix would take gigabytes, and minutes to invert.
LARGEST_WIDTH = 4096
NUM_DIRECTIONS = 1500

_CONSTANT = 0.1  # the input of the head's bias; small, it leaves the length to the features
_CHUNK = 4096


@dataclasses.dataclass(frozen=True)
class RowMap:
    """The map from features to rows, made from public facts, and back for the head's weights.

    Attributes:
        norm: float, the length to which features are clipped.
        directions: float32 `(width, n)`, orthonormal columns that features are projected on; None
            keeps all.
        has_bias: bool, whether a constant stands behind the features.
    """

    norm: float
    directions: Array | None
    has_bias: bool

    @property
    def _scale(self) -> float:
        """Of features of the length `norm`, so that with the constant they have length 1."""
        return 1 / (self.norm * math.sqrt(1 + _CONSTANT**2 * self.has_bias))

    @property
    def _bias_input(self) -> float:
        return _CONSTANT / math.sqrt(1 + _CONSTANT**2)

    def rows(self, features: Any) -> Any:
        """Rows `(batch, n)` of TensorFlow features; zero where a feature is not finite."""
        x = tf.cast(features, tf.float32) * self._scale
        finite = tf.reduce_all(tf.math.is_finite(x), axis=1, keepdims=True)
        x = tf.where(finite, x, 0.0)
        if self.directions is not None:
            x = tf.matmul(x, self.directions)
        # The constant is within the bound, and lengths are cut before numbers become halves.
        longest = 1 / math.sqrt(1 + _CONSTANT**2 * self.has_bias)
        largest = tf.maximum(tf.reduce_max(tf.abs(x), axis=1, keepdims=True), 1e-30)
        length = largest * tf.norm(x / largest, axis=1, keepdims=True)
        x = tf.where(tf.math.is_finite(length), x * tf.minimum(1.0, longest / length), 0.0)
        if self.has_bias:
            constant = tf.where(finite, self._bias_input, 0.0)
            x = tf.concat([x, constant], axis=1)
        return x

    def head_weights(self, weights: Array) -> tuple[Array, Array | None]:
        """Kernel and bias for features, from weights `(n, classes)` for rows."""
        kernel, bias = weights, None
        if self.has_bias:
            kernel, bias = weights[:-1], weights[-1] * self._bias_input
        kernel = kernel * self._scale
        if self.directions is not None:
            kernel = self.directions @ kernel
        return kernel, bias


def is_wide(head: LinearHead) -> bool:
    """True if a head's features are projected."""
    return _width(head) > LARGEST_WIDTH


def row_map(
    head: LinearHead, l2_norm_clip: float | None, public_features: Callable[[], Array] | None
) -> RowMap:
    """The map for a head.

    Args:
        head: of a classifier.
        l2_norm_clip: a public length of features; None takes that of a whitened head's, which all
            have one, or the median of public ones.
        public_features: gives features `(n, width)` of images that need no protection; None if
            there are no such images.

    Raises:
        InputError: if such images are needed and there are none, or their features have no length.
    """
    norm = l2_norm_clip if l2_norm_clip is not None else _own_norm(head)
    if norm is not None and not is_wide(head):
        return RowMap(norm, None, head.dense.use_bias)
    if public_features is None:
        raise InputError(
            "public_images must be given, images that need no protection, in the model's own scale "
            "(kd.datasets.synthetic_shapes draws some): from them come the usual length of "
            f"features, unless l2_norm_clip says it, and for features wider than {LARGEST_WIDTH} "
            f"the directions to keep; these have {_width(head)}."
        )
    features = np.asarray(public_features(), "float32")
    if norm is None:
        norm = float(np.median(np.linalg.norm(features.astype("float64"), axis=1)))
        if not 0 < norm < math.inf:
            raise InputError(
                f"l2_norm_clip must be given: the features of public_images have length {norm:g}."
            )
    return RowMap(norm, _directions(features) if is_wide(head) else None, head.dense.use_bias)


def _width(head: LinearHead) -> int:
    return int(head.dense.input.shape[-1])


def _own_norm(head: LinearHead) -> float | None:
    below = head.dense.input._keras_history.operation  # noqa: SLF001 - Keras has no other way
    if isinstance(below, JoinedFeatures):
        return math.sqrt(1 + below.constant**2)
    return None


def _directions(features: Array) -> Array:
    """Directions in which public features vary most, by randomised subspace iteration.

    Halko, Martinsson and Tropp 2011, algorithm 4.4 with one iteration. The numbers are public, so
    the seed may be.
    """
    count = min(NUM_DIRECTIONS, len(features), features.shape[1])
    mixed = np.random.default_rng(0).standard_normal((count, len(features)), "float32")
    basis = np.linalg.qr((mixed @ features).T)[0]
    basis = features.T @ (features @ basis)
    basis = np.linalg.qr(basis)[0]
    return np.ascontiguousarray(basis, "float32")


class Rows:
    """Rows of all records and their classes, read in chunks.

    Guarantee: each row has a length of at most 1 (up to float64 rounding of its float32 numbers),
    and is zero if a number in it is not finite or the label is none of the classes.

    Args:
        rows: float16 `(records, n)`, from `RowMap.rows`.
        labels: `(records,)`.
        num_classes: int.
    """

    def __init__(self, rows: Array, labels: Any, num_classes: int) -> None:
        labels = np.asarray(labels)
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.ndim != 1 or labels.dtype.kind not in "iufb":
            raise InputError(
                "labels must be class numbers, one for each record, got "
                f"{labels.dtype} {labels.shape}."
            )
        if len(labels) != len(rows):
            raise InputError(
                f"images and labels must have the same length ({len(rows)} and {len(labels)})."
            )
        self._rows, self.width, self.num_classes = rows, rows.shape[1], num_classes
        self._labels = labels

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        """Pairs of float32 rows `(chunk, n)` and one-hot classes `(chunk, classes)`."""
        numbers = np.arange(self.num_classes)
        for start in range(0, len(self._rows), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            # A NaN equals none of the numbers.
            classes = (self._labels[chunk, None] == numbers).astype("float32")
            x = np.asarray(self._rows[chunk], "float32")
            x = np.where(np.isfinite(x).all(axis=1, keepdims=True), x, np.float32(0))
            x *= classes.sum(axis=1, keepdims=True)
            norms = np.sqrt(np.einsum("ij,ij->i", x, x, dtype="float64"))
            yield x / np.maximum(1.0, norms * (1 + 1e-6)).astype("float32")[:, None], classes
