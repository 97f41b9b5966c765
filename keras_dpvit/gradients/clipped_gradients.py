"""Clipped gradients of single records: what a step adds up, and what an audit looks for."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dpvit.gradients.layer_rules import LayerRule
from keras_dpvit.gradients.per_example import PerExampleGradients
from keras_dpvit.privacy.clipping import Clipping
from keras_dpvit.privacy.sensitivity import release_weights


@dataclasses.dataclass(frozen=True)
class ClippedGradients:
    """Records' gradients and the weights that clip them.

    Attributes:
        gradients: the `PerExampleGradients`.
        weights: float32 `(records, layers)`, 0 for a record that cannot be used.
        norms: `(records,)`, of the clipped gradients.
        thresholds: float32 `(records,)`, of the clipping; NaN for a record that cannot be used.
    """

    gradients: PerExampleGradients
    weights: Any
    norms: Any
    thresholds: Any

    def weighted_sums(self) -> list[Any]:
        """The clipped gradients added up, variable by variable."""
        return self.gradients.weighted_sums(self.weights)


def clipped_gradients(
    clipping: Clipping,
    cap: Any,
    rules: list[LayerRule],
    groups: list[int],
    forward: Callable[[], tuple[Any, Any]],
    rows_per_record: int = 1,
    scale: float = 1.0,
    *,
    present: Any = None,
    jit_compile: bool = False,
) -> ClippedGradients:
    """Clips by group, then the whole at the cap.

    Guarantee: no record's clipped gradient is longer than the cap, whatever its gradient; one that
    is not finite counts as zero.

    Args:
        clipping: how groups are scaled against each other.
        cap: scalar float, the norm that no clipped gradient exceeds.
        rules: the model's `layer_rules`.
        groups: for each of them the number of its clipping group.
        forward: see `PerExampleGradients`, as for all that follows.
        rows_per_record: int.
        scale: float.
        present: bool `(rows,)` or None.
        jit_compile: bool.
    """
    gradients = PerExampleGradients(
        rules, forward, rows_per_record, scale, present=present, jit_compile=jit_compile
    )
    norms = group_norms(gradients.layer_norms(), groups)
    weights, clipped = release_weights(norms, clipping.factors(norms), cap)
    weights = tf.where(gradients.usable[:, None], weights, 0.0)
    # A record that counts as zero has norm 0, whatever made it unusable.
    clipped = tf.where(gradients.usable, clipped, 0.0)
    thresholds = tf.cast(clipping.thresholds(norms), tf.float32)
    thresholds = tf.where(gradients.usable, thresholds, math.nan)
    return ClippedGradients(gradients, tf.gather(weights, groups, axis=1), clipped, thresholds)


def group_norms(layer_norms: Any, groups: list[int]) -> Any:
    """Norms `(records, groups)` from norms `(records, layers)`."""
    if groups == list(range(layer_norms.shape[1])):
        return layer_norms
    member = np.zeros((len(groups), max(groups) + 1), "float32")
    member[np.arange(len(groups)), groups] = 1.0
    # Not a product with 0 and 1: a layer's infinite norm must not touch the other groups.
    columns = [
        tf.norm(tf.gather(layer_norms, np.flatnonzero(column), axis=1), axis=1)
        for column in member.T
    ]
    return tf.stack(columns, axis=1)
