"""Membership inference on a training: a target and reference models, each on its own draw."""

import dataclasses
import math
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import tqdm

from keras_dpvit import _files, _validate
from keras_dpvit._types import Array
from keras_dpvit.auditing.membership import membership_scores, true_class_confidences
from keras_dpvit.auditing.membership_rates import (
    AttackResult,
    attack_result,
    largest_auc,
    most_true_positives,
)
from keras_dpvit.errors import InputError

# Takes records and labels, returns what computes logits of records.
Train = Callable[[Any, Any], Callable[[Any], Any]]

_WORDS = {
    "lira_online": "LiRA online",
    "lira_offline": "LiRA offline",
    "rmia": "RMIA offline",
    "loss_threshold": "loss threshold",
}
_CAVEAT = (
    "Intervals of 95 % over records, taken as independent, with these models as they are. An "
    "attack below what is allowed proves nothing: another may find more."
)


@dataclasses.dataclass(frozen=True)
class MembershipResult:
    """The findings of `attack_training`.

    Attributes:
        attacks: an `AttackResult` for each of `auditing.membership.ATTACKS`.
        scores: float64 `(records,)` of each attack.
        members: bool `(records,)`, True for the records that the target was trained on.
        num_references: int.
        member_accuracy: float, the target's on its members.
        accuracy: float, the target's on the population.
        epsilon, delta: what is claimed of the target's training; epsilon may be infinite.
    """

    attacks: dict[str, AttackResult]
    scores: dict[str, Array]
    members: Array
    num_references: int
    member_accuracy: float
    accuracy: float
    epsilon: float
    delta: float

    @property
    def contradicted(self) -> bool:
        """True if an attack gives away more than is claimed, at 95 % confidence over all of them.

        That holds as far as records may be taken as independent; `auditing.one_run` needs no such
        assumption.
        """
        rates = [rate for attack in self.attacks.values() for rate in attack.rates]
        confidence = 1.0 - 0.05 / max(1, len(rates))
        return any(rate.contradicts(self.epsilon, self.delta, confidence) for rate in rates)

    def text(self) -> str:
        """A table of attacks beside what the claim allows."""
        first = next(iter(self.attacks.values()))
        at = [rate.at for rate in first.rates]
        head = ["attack", "AUC", *(f"TPR at FPR {100 * rate:g} %" for rate in at)]
        rows = [
            [
                _WORDS[name],
                _with_interval(found.auc, found.auc_interval),
                *(
                    _with_interval(rate.true_positive_rate, rate.interval(found.confidence))
                    for rate in found.rates
                ),
            ]
            for name, found in self.attacks.items()
        ]
        most = [most_true_positives(rate, self.epsilon, self.delta) for rate in at]
        rows.append(["chance", *(f"{value:.4f}" for value in (0.5, *at))])
        rows.append(
            [f"allowed, {self._claim()}"]
            + [f"{value:.4f}" for value in (largest_auc(self.epsilon, self.delta), *most)]
        )
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        lines = [
            "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (head, *rows)
        ]
        return "\n".join([self._summary(), "", *lines, "", textwrap.fill(_CAVEAT, 80)])

    def record(self) -> dict[str, Any]:
        """Settings and outcome, JSON-able."""
        return {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "records": len(self.members),
            "members": int(self.members.sum()),
            "num_references": self.num_references,
            "member_accuracy": self.member_accuracy,
            "accuracy": self.accuracy,
            "largest_auc": largest_auc(self.epsilon, self.delta),
            "contradicted": self.contradicted,
            "attacks": {name: self._of_attack(found) for name, found in self.attacks.items()},
        }

    def _of_attack(self, found: AttackResult) -> dict[str, Any]:
        rates = [
            {
                "false_positive_rate": rate.at,
                "true_positive_rate": rate.true_positive_rate,
                "interval": rate.interval(found.confidence),
                "false_positives": rate.false_positives,
                "most_true_positives": most_true_positives(rate.at, self.epsilon, self.delta),
            }
            for rate in found.rates
        ]
        return {"auc": found.auc, "auc_interval": found.auc_interval, "rates": rates}

    def write(self, path: str, **more: Any) -> None:
        """Writes `record()` and more as JSON; the file is there whole or not at all."""
        _files.write_json(path, {**more, **self.record()})

    def _claim(self) -> str:
        if math.isinf(self.epsilon):
            return "nothing claimed"
        return f"epsilon {self.epsilon:g} at delta {self.delta:g}"

    def _summary(self) -> str:
        members = int(self.members.sum())
        return (
            f"{members} members, {len(self.members) - members} others, {self.num_references} "
            f"reference models\naccuracy {self.member_accuracy:.3f} on members, "
            f"{self.accuracy:.3f} on the population"
        )


def attack_training(
    train: Train,
    x: Any,
    y: Any,
    population: tuple[Any, Any],
    num_references: int = 16,
    epsilon: float = math.inf,
    delta: float = 0.0,
    false_positive_rates: tuple[float, ...] = (0.001, 0.01),
    seed: int | None = None,
) -> MembershipResult:
    """Trains a target and reference models by the same rule, and attacks the target.

    A fair coin for each record says whether the target is trained on it; apart from that, each
    record is in a random half of the reference models. So nobody learns from the references what
    the target saw, and the bound for one record added or removed holds for the target's members.
    A private `train` must plan for half of the records, whatever the number that it is given.

    Args:
        train: called `num_references + 1` times with some of the records and their labels;
            returns a function from records to logits `(records, classes)`.
        x: the records, an array or anything that a bool array indexes.
        y: int array `(records,)`, class numbers.
        population: records and labels that no model is trained on, for RMIA and accuracy.
        num_references: int, even, at least 4.
        epsilon: float, claimed of each training for one record added or removed; infinite where
            nothing is.
        delta: float from 0 to 1, likewise.
        false_positive_rates: floats strictly between 0 and 1.
        seed: int or None, of the coins; None draws them from the operating system's entropy.

    Returns:
        a `MembershipResult`.

    Raises:
        InputError: if an argument is out of range, or `train`'s functions return other than finite
            logits.

    Example:
        >>> def train(x, y):
        ...     means = np.stack([x[y == label].mean(axis=0) for label in range(2)])
        ...     return lambda x: -((x[:, None] - means) ** 2).sum(axis=-1)
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.normal(size=(60, 200)), np.arange(60) % 2
        >>> result = kd.auditing.attack_training(train, x[:40], y[:40], (x[40:], y[40:]), seed=0)
        >>> result.attacks["lira_online"].auc > 0.9
        True
    """
    y = np.asarray(y)
    _check(x, y, population, num_references)
    most_true_positives(0.5, epsilon, delta)  # refuses what is out of range before any training
    for rate in false_positive_rates:
        _validate.open_unit_interval(false_positive_rates=rate)
    draws = _draws(len(y), num_references, seed)
    said, of_population, accuracies = [], [], (0.0, 0.0)
    for number, draw in enumerate(tqdm.tqdm(draws, desc="models", unit="model", disable=None)):
        predict = train(x[draw], y[draw])
        logits, others = (np.asarray(predict(records)) for records in (x, population[0]))
        said.append(true_class_confidences(logits, y))
        of_population.append(true_class_confidences(others, population[1]))
        if number == 0:
            accuracies = (_accuracy(logits[draw], y[draw]), _accuracy(others, population[1]))
    members, included = draws[0], draws[1:]
    scores = membership_scores(
        said[0], np.stack(said[1:]), included, (of_population[0], np.stack(of_population[1:]))
    )
    attacks = {
        name: attack_result(of_records, members, false_positive_rates)
        for name, of_records in scores.items()
    }
    return MembershipResult(attacks, scores, members, num_references, *accuracies, epsilon, delta)


def _check(x: Any, y: Array, population: tuple[Any, Any], num_references: int) -> None:
    _validate.positive_int(num_references=num_references)
    if num_references < 4 or num_references % 2:
        raise InputError(f"num_references must be even and at least 4, got {num_references}.")
    if not len(population[0]):
        raise InputError("population must have at least one record.")
    if len(x) != len(y) or y.ndim != 1 or len(population[0]) != len(population[1]):
        raise InputError(
            f"x and y, and the population's, must be of equal length, got {len(x)} and {y.shape}, "
            f"{len(population[0])} and {len(population[1])}."
        )


def _draws(num_records: int, num_references: int, seed: int | None) -> Array:
    """The records of each model, bool `(1 + num_references, num_records)`, the target's first."""
    coins = np.random.default_rng(seed)
    members = coins.random(num_records) < 0.5
    halves = np.arange(num_references)[:, None] < num_references // 2
    included = coins.permuted(np.tile(halves, (1, num_records)), axis=0)
    return np.concatenate([members[None], included])


def _accuracy(logits: Array, labels: Any) -> float:
    return float((logits.argmax(axis=1) == np.asarray(labels)).mean())


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"
