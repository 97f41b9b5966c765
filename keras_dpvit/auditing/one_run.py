"""A lower bound on epsilon from one training: how many planted canaries were guessed right.

Source: T. Steinke, M. Nasr, M. Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS
2023, theorem 5.2. Each of m canaries is put into the training data by a separate fair coin;
whoever sees the result gives every canary a score and guesses the highest "in", the lowest "out",
and abstains from the rest.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_dpvit import _validate
from keras_dpvit.errors import InputError

_WIDEST = 64.0  # an epsilon above any that a count of guesses can show
_HALVINGS = 60


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Guesses about canaries, and how many were right.

    Attributes:
        num_canaries: int, all that had a coin, guessed about or not.
        guesses: int, fixed before the outcome was seen.
        correct: int.
    """

    num_canaries: int
    guesses: int
    correct: int

    def __post_init__(self) -> None:
        _validate.positive_int(num_canaries=self.num_canaries)
        for name, most in (("guesses", self.num_canaries), ("correct", self.guesses)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise InputError(f"{name} must be a whole number, got {value!r}.")
            if not 0 <= value <= most:
                raise InputError(f"{name} must lie in 0..{most}, got {value}.")


@dataclasses.dataclass(frozen=True)
class LowerBound:
    """A lower bound on epsilon, and the outcome it comes from.

    Attributes:
        epsilon: float, not negative.
        outcome: the `Outcome` with the largest bound.
        confidence: float, of the bound as a whole.
        tried: how many numbers of guesses the confidence was divided among.
    """

    epsilon: float
    outcome: Outcome
    confidence: float
    tried: int


def p_value(outcome: Outcome, epsilon: float, delta: float) -> float:
    """Probability, at most, of as many correct guesses if the training is (epsilon, delta)-private.

    With `f(v)` the probability that a Binomial(guesses, e^epsilon / (1 + e^epsilon)) is at least v:
    `f(v) + 2 m delta max_i (f(v - i) - f(v)) / i` (theorem 5.2). It grows with epsilon.

    Args:
        outcome: an `Outcome`.
        epsilon: float, not negative.
        delta: float, 0 or above and below `1 / (2 num_canaries)`.

    Raises:
        InputError: if an argument is out of range.
    """
    from scipy import special, stats

    _validate.non_negative(epsilon=epsilon)
    _check_delta(delta, outcome.num_canaries)
    correct = int(outcome.correct)
    if correct == 0:
        return 1.0
    binomial = stats.binom(outcome.guesses, special.expit(epsilon))
    as_many = float(binomial.sf(correct - 1))
    fewer = np.arange(1, correct + 1)
    slope = np.max((binomial.sf(correct - 1 - fewer) - as_many) / fewer)
    return min(1.0, as_many + 2 * outcome.num_canaries * delta * float(slope))


def epsilon_lower_bound(outcome: Outcome, delta: float, confidence: float = 0.95) -> float:
    """The epsilon that the training exceeds, by this outcome.

    Guarantee: over the canaries' coins and the training's own randomness, the bound exceeds the
    true epsilon at `delta` with probability at most `1 - confidence`, if coins are fair and
    independent, all other records are fixed, the guesses look at nothing but what the training
    releases, and their number was fixed before. A bound below a claim does not prove the claim.

    Args:
        outcome: an `Outcome`.
        delta: float, see `p_value`.
        confidence: float in (0, 1).

    Returns:
        Epsilon; 0 if the outcome shows nothing.

    Raises:
        InputError: if an argument is out of range.
    """
    _validate.open_unit_interval(confidence=confidence)
    level = 1.0 - confidence
    low, high = 0.0, _WIDEST
    if p_value(outcome, low, delta) > level:
        return 0.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if p_value(outcome, middle, delta) <= level:
            low = middle
        else:
            high = middle
    return low


def audit(
    scores: np.ndarray,
    included: np.ndarray,
    guesses: Sequence[int],
    delta: float,
    confidence: float = 0.95,
) -> LowerBound:
    """The best lower bound over numbers of guesses that were fixed before the scores were seen.

    Guarantee: that of `epsilon_lower_bound`. With several numbers of guesses each is tested at
    `1 - (1 - confidence) / len(guesses)` (Bonferroni), so that the largest bound may be quoted.

    Args:
        scores: float array `(num_canaries,)`; higher means "in".
        included: bool array `(num_canaries,)`, the coins.
        guesses: even whole numbers up to `num_canaries`: half of each are guesses "in".
        delta: float, see `p_value`.
        confidence: float in (0, 1).

    Raises:
        InputError: if an argument is out of range.
    """
    check_guesses(guesses, len(scores))
    each = 1.0 - (1.0 - confidence) / len(guesses)
    bounds = []
    for number in guesses:
        outcome = guess(scores, included, number // 2, number // 2)
        bounds.append((epsilon_lower_bound(outcome, delta, each), outcome))
    epsilon, outcome = max(bounds, key=lambda pair: pair[0])
    return LowerBound(epsilon, outcome, confidence, len(guesses))


def guess(scores: np.ndarray, included: np.ndarray, num_in: int, num_out: int) -> Outcome:
    """Guesses "in" for the highest scores and "out" for the lowest, and counts the correct ones.

    Args:
        scores: float array `(num_canaries,)`. Among equal scores a canary's place decides, which
            its coin knows nothing of.
        included: bool array `(num_canaries,)`.
        num_in: int, guesses "in".
        num_out: int, guesses "out".

    Raises:
        InputError: on scores that are not finite or not one for each coin, or too many guesses.
    """
    scores, included = np.asarray(scores, float), np.asarray(included, bool)
    if scores.ndim != 1 or scores.shape != included.shape:
        raise InputError(
            f"scores must be one for each coin {included.shape}, got shape {scores.shape}."
        )
    if not np.isfinite(scores).all():
        raise InputError("scores must be finite: the training has diverged, lower learning_rate.")
    if min(num_in, num_out) < 0 or num_in + num_out > len(scores):
        raise InputError(
            f"guesses must be 0..{len(scores)} together, got {num_in} in and {num_out} out."
        )
    order = np.argsort(scores, kind="stable")
    right = np.sum(~included[order[:num_out]]) + np.sum(included[order[len(order) - num_in :]])
    return Outcome(len(scores), num_in + num_out, int(right))


def check_guesses(guesses: Sequence[int], num_canaries: int) -> None:
    """Raises `InputError` unless there are guesses, each number even and at most `num_canaries`."""
    if not guesses:
        raise InputError("guesses must name at least one number.")
    for number in guesses:
        if not 2 <= number <= num_canaries or number % 2:
            raise InputError(
                f"guesses must be even numbers from 2 to the number of canaries ({num_canaries}), "
                f"got {number}."
            )


def _check_delta(delta: float, num_canaries: int) -> None:
    _validate.non_negative(delta=delta)
    if 2 * num_canaries * delta >= 1:
        raise InputError(
            f"delta must be below 1/(2 canaries) = {1 / (2 * num_canaries):.3g}, got {delta:g}: "
            "above it every canary may be given away."
        )
