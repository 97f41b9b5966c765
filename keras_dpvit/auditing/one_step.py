"""One step, released many times with and without one record: can the two be told apart?

A plan of one step over all records has the epsilon of that step. The adversary knows the model, all
other records and the record in question, and sees what the step releases: the noisy gradients and
the sensitivity's next state.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dpvit import _validate
from keras_dpvit.auditing.canary_scores import ClippedRecords
from keras_dpvit.auditing.threshold_test import (
    TestResult,
    apply_threshold,
    best_threshold,
    epsilon_from_test,
)
from keras_dpvit.errors import InputError

_AT_ONCE = 200
STATISTICS = ("direction", "spread", "state")


@dataclasses.dataclass(frozen=True)
class StepBound:
    """A lower bound on the epsilon of one step.

    Attributes:
        epsilon: float, not negative.
        statistic: str, which of `STATISTICS` did best on the trials that chose it.
        result: the `TestResult` on the other trials.
        confidence: float.
    """

    epsilon: float
    statistic: str
    result: TestResult
    confidence: float


def attack_step(
    model: Any,
    others: tuple[np.ndarray, np.ndarray],
    record: tuple[np.ndarray, np.ndarray],
    trials: int,
    confidence: float = 0.95,
    progress: Callable[[int], None] = lambda done: None,
) -> StepBound:
    """Releases a model's first step with and without a record, and tries to tell which is which.

    Looked at are the noisy sum's part along the record's clipped gradient ("direction"), the
    deviation of the rest of it from what the other records add up to ("spread"), and the
    sensitivity's next state ("state"). The first half of the trials chooses one of these and a
    threshold; the second half is what the bound comes from.

    Guarantee: the one of `threshold_test.epsilon_from_test`.

    Args:
        model: a model compiled with a private optimizer that has not been trained yet, whose plan
            takes every record in every step (`batch_size = num_examples`), one by one.
        others: images and labels of the records that are always there.
        record: one image and its label, `(1, ...)` and `(1,)`.
        trials: int, even; on each side.
        confidence: float in (0, 1).
        progress: called now and then with the number of trials done on both sides.

    Raises:
        InputError: if a record is not in every step, or `trials` is odd or not positive.
    """
    _validate.positive_int(trials=trials)
    if trials % 2:
        raise InputError(f"trials must be even, half of them choose the test, got {trials}.")
    plan = model.private_trainer.plan
    if plan.sampling_probability < 1 or plan.microbatch_size > 1:
        raise InputError("the plan must take every record in every step, one by one.")
    fixed = ClippedRecords(model, *others).sum()
    watched = ClippedRecords(model, *record).sum()
    both = tuple(np.concatenate(pair) for pair in zip(others, record, strict=True))
    sides = [
        _statistics(
            model, data, fixed, watched, trials, functools.partial(_shifted, progress, past)
        )
        for data, past in ((others, 0), (both, trials))
    ]
    half, delta = trials // 2, plan.delta
    tried = [
        (*best_threshold(sides[0][:half, k], sides[1][:half, k], delta), k)
        for k in range(len(STATISTICS))
    ]
    threshold, _, chosen = max(tried, key=lambda found: found[1])
    result = apply_threshold(sides[0][half:, chosen], sides[1][half:, chosen], threshold)
    epsilon = epsilon_from_test(result, delta, confidence)
    return StepBound(epsilon, STATISTICS[chosen], result, confidence)


def _shifted(progress: Callable[[int], None], past: int, done: int) -> None:
    progress(past + done)


def _statistics(
    model: Any,
    data: tuple[np.ndarray, ...],
    fixed: list[Any],
    watched: list[Any],
    trials: int,
    progress: Callable[[int], None],
) -> np.ndarray:
    """The statistics of each release, `(trials, 3)`."""
    trainer = model.private_trainer
    trainer.prepare(None)
    centre, towards = (tf.concat([tf.reshape(g, [-1]) for g in gs], 0) for gs in (fixed, watched))
    towards = tf.math.l2_normalize(towards)
    divisor = float(trainer.plan.num_microbatches)
    x, y = (tf.constant(part) for part in data)
    # All records are in every step, and the model draws nothing: so its sums are always these.
    weights = tf.ones(tf.shape(y)[:1])
    sums, below_count, *_ = trainer.step.clipped_sums(
        x, y, weights, tf.cast(weights, tf.bool), trainer.state.sensitivity
    )

    @tf.function(autograph=False)
    def releases(steps: Any) -> Any:
        def one(step: Any) -> Any:
            gradients, state = trainer.step.release(
                sums, below_count, trainer.state.sensitivity, step, trainer.keys.noise
            )
            rest = divisor * tf.concat([tf.reshape(g, [-1]) for g in gradients], 0) - centre
            along = tf.tensordot(rest, towards, 1)
            spread = tf.reduce_sum((rest - along * towards) ** 2)
            return tf.stack([along, spread, tf.cast(state, tf.float32)])

        return tf.map_fn(one, steps, fn_output_signature=tf.float32)

    # Steps that no release of this key had: the two sides draw different noise.
    first = trainer.state.steps_taken
    rows = []
    for start in range(first, first + trials, _AT_ONCE):
        end = min(start + _AT_ONCE, first + trials)
        rows.append(releases(tf.range(start, end, dtype=tf.int64)).numpy())
        progress(end - first)
    trainer.state.steps.assign(first + trials)
    return np.concatenate(rows)
