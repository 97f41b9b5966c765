"""Keeping the best of a random number of private runs, at a price that the accountant knows.

To try k settings and keep the best by a look at the results costs up to k runs. If the number of
runs is random instead, from a distribution fixed beforehand, and only the best one is released,
the price hardly depends on how many there were (Papernot and Steinke 2022, arXiv:2110.03620).
"""

import dataclasses
import math
import numbers
import random
from collections.abc import Iterator
from typing import Any

from keras_dpvit import _validate
from keras_dpvit.errors import InputError

_MOST_MEAN = 500.0  # beyond it the first probability of a Poisson count leaves the floats
_LEAST_SHAPE = 1e-200  # below it probabilities are those of shape 0, and products leave the floats


def _shape(**argument: Any) -> float:
    """0 or above, and infinity too."""
    ((_, value),) = argument.items()
    infinite = isinstance(value, numbers.Real) and value == math.inf
    return math.inf if infinite else _validate.non_negative(**argument)


@dataclasses.dataclass(frozen=True)
class TrialCount:
    """The distribution of a number of runs (Papernot and Steinke 2022, definition 1).

    Guarantee: `draw` uses the operating system's entropy and nothing else, so the number depends
    on no record. Its distribution is the one that dp_accounting's `RepeatAndSelectDpEvent` of the
    same mean and shape is about, up to 53-bit uniform numbers; its mean is never above `mean`.

    Args:
        mean: float from 1 to 500.
        shape: float, 0 or above, of the negative binomial distribution truncated to 1 and more: 1
            is the geometric one, 0 the logarithmic one, cheaper and more often a single run.
            `math.inf` is Poisson's, where the number may be 0; cheap where epsilon is small.

    Example:
        >>> count = kd.TrialCount(mean=10)  # runs in the mean; their number must stay random
        >>> count.draw() >= 1
        True
    """

    mean: float
    shape: float = 1.0

    def __post_init__(self) -> None:
        _validate.keep(self, mean=_validate.positive, shape=_shape)
        if not 1 <= self.mean <= _MOST_MEAN:
            raise InputError(f"mean must lie in 1..{_MOST_MEAN:g}, got {self.mean!r}.")

    @property
    def name(self) -> str:
        """The distribution in words."""
        known = {0.0: "logarithmic", 1.0: "geometric", math.inf: "Poisson"}
        return known.get(self.shape, f"truncated negative binomial of shape {self.shape:g}")

    def draw(self) -> int:
        """A number of runs; 0 is possible for Poisson's shape alone."""
        number, probability, ratio = self._first()
        left = random.SystemRandom().random()
        # Inversion; where the probabilities leave the floats, so has what is left to sum up.
        while left >= probability > 0:
            left -= probability
            probability *= ratio(number)
            number += 1
        return number

    def _first(self) -> tuple[int, float, Any]:
        """The least number, its probability, and from k the ratio of k + 1's to k's."""
        mean, shape = self.mean, self.shape
        if math.isinf(shape):
            return 0, math.exp(-mean), lambda k: mean / (k + 1)
        log_gamma = _log_halting_probability(mean, shape)
        if log_gamma == 0:
            return 1, 1.0, lambda k: 0.0
        going_on = -math.expm1(log_gamma)
        if shape < _LEAST_SHAPE:
            first = going_on / -log_gamma
        else:
            power = shape * log_gamma
            first = shape * going_on * math.exp(power) / -math.expm1(power)
        return 1, first, lambda k: going_on * (k + shape) / (k + 1)


def _log_halting_probability(mean: float, shape: float) -> float:
    """log(gamma) of the truncated negative binomial distribution, from its mean.

    By bisection; the end at which the mean is not above the one asked for.
    """

    def mean_at(log_gamma: float) -> float:
        power = shape * log_gamma
        scale = -1 / log_gamma if shape < _LEAST_SHAPE else shape / -math.expm1(power)
        return scale * -math.expm1(log_gamma) / math.exp(log_gamma)

    if mean == 1:
        return 0.0
    low, high = -60.0, -1e-12
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_at(middle) > mean else (low, middle)
    return high


class RandomTrials:
    """A random number of trials, of which the best alone is released.

    Guarantee: the model that `best` gives costs what its ledger says then: one run's event within
    dp_accounting's `RepeatAndSelectDpEvent` (Papernot and Steinke 2022, theorems 2 and 6), for
    which this object sees to it that the number was drawn beforehand, that every trial is run to
    its end and offered, and that all of them cost the same. It rests on what it cannot see:

    * each trial draws its settings by chance, from one distribution that was fixed beforehand; no
      trial looks at another (so no Bayesian search, no grid gone through in order);
    * the score uses the trial's model and no training record (held-out or public images do, and
      the former are not protected);
    * nothing of the trials but the best model leaves: neither their scores nor their number.

    Args:
        count: the `TrialCount`.

    Example:
        ```python
        trials = keras_dpvit.random_trials(mean=10)
        for trial in trials:
            model = build(learning_rate=10 ** random.uniform(-4, -2))
            model.fit(x_train, y_train, epochs=10)
            trials.offer(model, model.evaluate(x_held_out, y_held_out)[1])
        model = trials.best()
        ```
    """

    def __init__(self, count: TrialCount) -> None:
        self.count = count
        self._number = count.draw()
        self._offered = 0
        self._begun: int | None = None
        self._over = False
        self._counted = False
        self._best: Any = None
        self._best_score = -math.inf
        self._costs: Any = None

    def __iter__(self) -> Iterator[int]:
        """The trials' numbers, once.

        Raises:
            InputError: if it was gone through before, or the trial before was not offered.
        """
        if self._begun is not None:
            raise InputError("trials can be gone through once: draw new ones by random_trials.")
        for trial in range(self._number):
            self._begun = trial
            yield trial
            if self._offered <= trial:
                raise InputError(
                    f"trial {trial} must be offered before the next begins, also one that failed."
                )
        self._begun = self._number
        self._over = True

    def offer(self, model: Any, score: float) -> None:
        """Ends a trial.

        Args:
            model: a model that was trained privately in this trial, whose `privacy_ledger` counts
                what the trial has cost.
            score: float, the higher the better; NaN is the worst.

        Raises:
            InputError: if no trial is under way or it was offered before, or if the model's
                training cost something else than the trials before.
        """
        if self._begun is None or self._over or self._offered != self._begun:
            raise InputError("each trial must be offered once, within the loop over the trials.")
        ledger = getattr(model, "privacy_ledger", None)
        if ledger is None or not hasattr(model, "count_selection"):
            raise InputError(
                "model must be a DPViTClassifier or a make_private model, got "
                f"{type(model).__name__}."
            )
        costs = ledger.costs()
        if not costs:
            raise InputError("model must have been trained privately: its ledger is empty.")
        if self._costs not in (None, costs):
            raise InputError(
                "every trial must cost the same (noise multiplier, sampling, steps): the price of "
                "the choice is known for equal runs only."
            )
        self._costs = costs
        self._offered += 1
        score = -math.inf if math.isnan(score) else float(score)
        if self._best is None or score > self._best_score:
            self._best, self._best_score = model, score

    def best(self) -> Any:
        """The model with the highest score, the first of equals; its ledger counts the choice.

        Returns:
            The model; None if the number drawn was 0, as Poisson's may be: then that is all that
            may be told.

        Raises:
            InputError: before the last trial is over; when to stop must not depend on the scores.
        """
        if not self._over:
            raise InputError("best is known after the last trial: go through all of them.")
        if self._best is not None and not self._counted:
            self._best.count_selection(self.count.mean, self.count.shape)
            self._counted = True
        return self._best


def random_trials(mean: float, shape: float = 1.0) -> RandomTrials:
    """Trials in a number drawn now, from the operating system's entropy.

    Args:
        mean: float from 1 to 500, see `TrialCount`.
        shape: float, see `TrialCount`.

    Example:
        >>> def train(rate):
        ...     network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        ...     model = kd.make_private(network)
        ...     plan = kd.PrivacyPlan(60, 20, 1, 1e-3, noise_multiplier=1.0)
        ...     model.compile(kd.DPKerasSGDOptimizer(plan, rate), "mse")
        ...     model.fit(np.ones((60, 4), "float32"), np.ones((60, 2), "float32"), verbose=0)
        ...     return model
        >>> trials = kd.random_trials(mean=2)
        >>> for trial in trials:
        ...     rate = 10 ** np.random.default_rng().uniform(-2, 0)
        ...     trials.offer(train(rate), score=rate)  # a score from public pictures
        >>> best = trials.best()  # its ledger counts the choice
    """
    return RandomTrials(TrialCount(mean, shape))
