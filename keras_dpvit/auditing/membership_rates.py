"""The success of membership inference, with intervals, beside what differential privacy allows."""

import dataclasses
import math

import numpy as np

from keras_dpvit import _validate
from keras_dpvit._types import Array
from keras_dpvit.auditing.threshold_test import rate_at_least
from keras_dpvit.errors import InputError

_LEAST = 2  # records on each side: a variance needs two


def most_true_positives(false_positive_rate: float, epsilon: float, delta: float) -> float:
    """The largest true positive rate that (epsilon, delta)-differential privacy allows any attack.

    Both answers are bounded: `TPR <= e^epsilon FPR + delta` and `1 - FPR <= e^epsilon (1 - TPR) +
    delta` (Kairouz, Oh and Viswanath, ICML 2015, theorem 2.1).

    Args:
        false_positive_rate: float from 0 to 1.
        epsilon: float, 0 or above, for one record added or removed; may be infinite.
        delta: float from 0 to 1.

    Raises:
        InputError: if an argument is out of range.

    Example:
        >>> round(kd.auditing.most_true_positives(0.01, epsilon=1.0, delta=0.0), 4)
        0.0272
    """
    _check_claim(epsilon, delta)
    if not 0 <= false_positive_rate <= 1:
        raise InputError(f"false_positive_rate must lie in 0..1, got {false_positive_rate!r}.")
    if math.isinf(epsilon):
        return 1.0
    by_positives = delta
    if false_positive_rate > 0:
        by_positives += math.exp(min(0.0, epsilon + math.log(false_positive_rate)))
    by_negatives = 1.0 - math.exp(-epsilon) * max(0.0, 1.0 - delta - false_positive_rate)
    return min(1.0, by_positives, by_negatives)


def largest_auc(epsilon: float, delta: float) -> float:
    """The area under the curve of `most_true_positives`, which no attack's AUC exceeds.

    Args:
        epsilon: float, 0 or above, for one record added or removed; may be infinite.
        delta: float from 0 to 1.

    Raises:
        InputError: if an argument is out of range.

    Example:
        >>> round(kd.auditing.largest_auc(epsilon=1.0, delta=0.0), 4)
        0.7311
    """
    _check_claim(epsilon, delta)
    # Above the curve lie two triangles that share the corner FPR = 1 - TPR = (1 - delta) / (1 +
    # e^epsilon), each on a base of 1 - delta.
    return 1.0 - (1.0 - delta) ** 2 * math.exp(-epsilon) / (1.0 + math.exp(-epsilon))


@dataclasses.dataclass(frozen=True)
class RateAt:
    """The true positive rate of an attack at the threshold of a false positive rate.

    The threshold is the lowest at which the records that were not trained on give no more false
    alarms than the rate allows; scores equal to it are not called members.

    Attributes:
        at: float, the false positive rate that was asked for.
        false_positives: int, at the threshold.
        non_members: int.
        true_positives: int.
        members: int.
    """

    at: float
    false_positives: int
    non_members: int
    true_positives: int
    members: int

    @property
    def true_positive_rate(self) -> float:
        """The share of members that the attack names."""
        return self.true_positives / self.members

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The Clopper-Pearson interval of the true positive rate."""
        return _clopper_pearson(self.true_positives, self.members, confidence)

    def contradicts(self, epsilon: float, delta: float, confidence: float = 0.95) -> bool:
        """True if even the interval's ends lie outside of what the claim allows.

        That is the lower end of the true positive rate above `most_true_positives` at the upper
        end of the false positive rate.
        """
        most_false = _clopper_pearson(self.false_positives, self.non_members, confidence)[1]
        least_true = self.interval(confidence)[0]
        return least_true > most_true_positives(most_false, epsilon, delta)


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """The success of one attack on one model.

    Attributes:
        auc: float, the chance that a member scores higher than a non-member; ties count half.
        auc_interval: (low, high), by DeLong's variance; a point where one side's scores all lie
            above the other's.
        rates: `RateAt` for each false positive rate asked for.
        confidence: float, of the intervals.
    """

    auc: float
    auc_interval: tuple[float, float]
    rates: tuple[RateAt, ...]
    confidence: float


def attack_result(
    scores: Array,
    members: Array,
    false_positive_rates: tuple[float, ...] = (0.001, 0.01),
    confidence: float = 0.95,
) -> AttackResult:
    """The success of an attack by its scores.

    Intervals are over draws of records, with the models as they are, and take records as
    independent. Source of the AUC's: DeLong, DeLong and Clarke-Pearson, Biometrics 1988.

    Args:
        scores: float array `(records,)`; higher means "was trained on".
        members: bool array `(records,)`, True for records that were trained on.
        false_positive_rates: floats strictly between 0 and 1.
        confidence: float strictly between 0 and 1.

    Raises:
        InputError: on other shapes, scores that are NaN, fewer than two records on a side, or
            values out of range.

    Example:
        >>> scores, members = np.arange(200.0), np.arange(200) >= 90
        >>> result = kd.auditing.attack_result(scores, members, (0.01,))
        >>> result.auc, result.rates[0].true_positive_rate
        (1.0, 1.0)
    """
    scores, members = np.asarray(scores, "float64"), np.asarray(members)
    if scores.ndim != 1 or members.shape != scores.shape or members.dtype != bool:
        raise InputError(
            f"scores and members must be one number and one bool for each record, got shapes "
            f"{scores.shape} and {members.shape}, {members.dtype}."
        )
    if np.isnan(scores).any():
        raise InputError("scores must not be NaN.")
    inside, outside = scores[members], scores[~members]
    if min(len(inside), len(outside)) < _LEAST:
        raise InputError(
            f"members must be at least {_LEAST} records and leave as many out, got {len(inside)} "
            f"of {len(scores)}."
        )
    for rate in false_positive_rates:
        _validate.open_unit_interval(false_positive_rates=rate)
    confidence = _validate.open_unit_interval(confidence=confidence)
    auc, interval = _auc(inside, outside, confidence)
    rates = tuple(_rate_at(inside, outside, float(rate)) for rate in false_positive_rates)
    return AttackResult(auc, interval, rates, confidence)


def _auc(inside: Array, outside: Array, confidence: float) -> tuple[float, tuple[float, float]]:
    """The AUC and its interval."""
    from scipy import stats

    ranks = stats.rankdata(np.concatenate([inside, outside]))
    m, n = len(inside), len(outside)
    # The share of the other side that each record beats.
    beats = (ranks[:m] - stats.rankdata(inside)) / n
    beaten = 1.0 - (ranks[m:] - stats.rankdata(outside)) / m
    auc = float(beats.mean())
    stddev = math.sqrt(beats.var(ddof=1) / m + beaten.var(ddof=1) / n)
    half = float(stats.norm.ppf(0.5 + 0.5 * confidence)) * stddev
    return auc, (max(0.0, auc - half), min(1.0, auc + half))


def _rate_at(inside: Array, outside: Array, rate: float) -> RateAt:
    allowed = math.floor(rate * len(outside) + 1e-9)
    threshold = np.sort(outside)[len(outside) - 1 - allowed]
    return RateAt(
        rate,
        int((outside > threshold).sum()),
        len(outside),
        int((inside > threshold).sum()),
        len(inside),
    )


def _clopper_pearson(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    level = 0.5 * (1.0 - confidence)
    return (
        rate_at_least(successes, trials, level),
        1.0 - rate_at_least(trials - successes, trials, level),
    )


def _check_claim(epsilon: float, delta: float) -> None:
    if not epsilon >= 0:
        raise InputError(f"epsilon must be 0 or above, got {epsilon!r}.")
    if not 0 <= delta <= 1:
        raise InputError(f"delta must lie in 0..1, got {delta!r}.")
