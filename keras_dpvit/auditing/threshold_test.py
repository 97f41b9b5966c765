"""A lower bound on epsilon from telling two data sets apart, again and again.

Under (epsilon, delta)-privacy a test that says "with" at rate t where the record is in and at rate
f where it is not has `t <= e^epsilon f + delta`, and as much for saying "without".
"""

import dataclasses
import math

import numpy as np

from keras_dpvit import _validate
from keras_dpvit.errors import InputError


@dataclasses.dataclass(frozen=True)
class TestResult:
    """The outcome of a fixed test on fresh trials.

    Attributes:
        trials: int, on each side.
        hits: int, "with" said of trials with the record.
        false_alarms: int, "with" said of trials without it.
    """

    __test__ = False  # for pytest, whose tests have such names

    trials: int
    hits: int
    false_alarms: int

    def __post_init__(self) -> None:
        _validate.positive_int(trials=self.trials)
        for name in ("hits", "false_alarms"):
            if not 0 <= getattr(self, name) <= self.trials:
                raise InputError(f"{name} must lie in 0..{self.trials}, got {getattr(self, name)}.")


def epsilon_from_test(result: TestResult, delta: float, confidence: float = 0.95) -> float:
    """The epsilon that the mechanism exceeds, by a test's rates of right and wrong answers.

    Guarantee: above the true epsilon at `delta` with probability at most `1 - confidence`, if
    trials are independent and the test was fixed without looking at them: the two rates have
    Clopper-Pearson bounds at half of `1 - confidence` each.

    Args:
        result: a `TestResult`.
        delta: float in [0, 1).
        confidence: float in (0, 1).

    Returns:
        Epsilon; 0 if the rates show nothing.

    Raises:
        InputError: if an argument is out of range.
    """
    _validate.non_negative(delta=delta)
    _validate.open_unit_interval(confidence=confidence)
    level = 0.5 * (1.0 - confidence)
    hits, alarms, trials = result.hits, result.false_alarms, result.trials
    least_hits = rate_at_least(hits, trials, level)
    most_alarms = 1.0 - rate_at_least(trials - alarms, trials, level)
    bounds = [
        math.log((right - delta) / wrong)
        for right, wrong in ((least_hits, most_alarms), (1.0 - most_alarms, 1.0 - least_hits))
        if right > delta
    ]
    return max(0.0, *bounds) if bounds else 0.0


def rate_at_least(successes: int, trials: int, level: float) -> float:
    """The rate that the true one is below with probability `level` at most (Clopper-Pearson)."""
    from scipy import stats

    if successes == 0:
        return 0.0
    return float(stats.beta.ppf(level, successes, trials - successes + 1))


def best_threshold(
    without: np.ndarray, with_record: np.ndarray, delta: float, most: int = 200
) -> tuple[float, float]:
    """The threshold whose test shows the most on given trials, and the epsilon it shows there.

    The epsilon is an optimum over thresholds and no bound; test fresh trials for one. Thresholds
    are compared at 99.9 % confidence: at 95 % a few lucky trials far out win too often.

    Args:
        without: float array `(trials,)`, the statistic without the record.
        with_record: float array `(trials,)`, with it.
        delta: float, see `epsilon_from_test`.
        most: int, about as many thresholds are tried.
    """
    from scipy import special

    # Denser towards both ends, where a private mechanism gives most away.
    shares = special.expit(np.linspace(-9.0, 9.0, most))
    every = np.unique(np.quantile(np.concatenate([without, with_record]), shares))
    found = [
        (epsilon_from_test(apply_threshold(without, with_record, t), delta, 0.999), float(t))
        for t in every
    ]
    epsilon, threshold = max(found)
    return threshold, epsilon


def apply_threshold(without: np.ndarray, with_record: np.ndarray, threshold: float) -> TestResult:
    """The test "with, if the statistic is at least the threshold", on as many trials of each."""
    if len(without) != len(with_record):
        raise InputError(
            "trials with the record and without it must be equal in number, got "
            f"{len(with_record)} and {len(without)}."
        )
    return TestResult(
        len(without), int(np.sum(with_record >= threshold)), int(np.sum(without >= threshold))
    )
