"""An audit from its settings: the plan under test, the attack, the report."""

import dataclasses
import math
import os
import pathlib
import sys
import textwrap
import time
from typing import Any

import numpy as np

from keras_dpvit import _files
from keras_dpvit.auditing.canaries import Canaries, make_canaries, plant, public_num_examples
from keras_dpvit.auditing.one_run import audit
from keras_dpvit.datasets import ImageData
from keras_dpvit.errors import InputError
from keras_dpvit.models.presets import preset_for
from keras_dpvit.privacy import accounting, statement
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.privacy.sensitivity import FixedSensitivity

MECHANISMS = ("certified", "as_published", "no_noise")
_MOST_EXAMPLES = 1000
_STEP_EXAMPLES = 20
_LEARNING_RATES = {"gradient": 0.05, "loss": 3e-3}
_CAVEAT = (
    "A lower bound below the epsilon under test proves nothing: another attack may find more. One "
    "above it proves it wrong; a true one is contradicted in 5 % of audits at the most."
)


@dataclasses.dataclass(frozen=True)
class Claim:
    """The epsilon that the audit puts to the test.

    Attributes:
        name: "claimed", or "nominal" for what the paper's formulas would be said to cost.
        epsilons: by accountant; infinite where nothing is claimed.
    """

    name: str
    epsilons: dict[str, float]

    @property
    def least(self) -> float:
        """The strictest of the epsilons: each is a separate claim."""
        return min(self.epsilons.values())


def plan_under_test(
    mechanism: str, epsilon: float, accountant: str, seed: int | None, **schedule: Any
) -> tuple[PrivacyPlan, Claim]:
    """The plan of a mechanism, and what is claimed of it.

    Args:
        mechanism: one of `MECHANISMS`.
        epsilon: float, the target; for the paper's formulas, of the plan whose noise they get.
        accountant: whose epsilon the target is.
        seed: of the plan.
        **schedule: `num_examples`, `batch_size`, `epochs`, `delta` of a `PrivacyPlan`.
    """
    if mechanism == "as_published":
        twin = PrivacyPlan.for_target(
            epsilon=epsilon, accountant=accountant, sensitivity=FixedSensitivity(), **schedule
        )
        noise = twin.noise_multiplier
        plan = PrivacyPlan.as_published(noise_multiplier=noise, seed=seed, **schedule)
        return plan, Claim("nominal", _epsilons(twin))
    plan = PrivacyPlan.for_target(epsilon=epsilon, accountant=accountant, **schedule)
    plan = dataclasses.replace(plan, seed=seed)
    if mechanism == "no_noise":
        plan = dataclasses.replace(plan, noise_multiplier=0.0)
    return plan, Claim("claimed", _epsilons(plan))


def _epsilons(plan: PrivacyPlan) -> dict[str, float]:
    return {name: plan.epsilon(accountant=name) for name in accounting.ACCOUNTANTS}


def check_output(path: str) -> None:
    """Checks where the report goes before any time is spent; an older one is overwritten.

    Raises:
        InputError: unless it names a JSON file in a directory that can be written.
    """
    folder = pathlib.Path(path).absolute().parent
    if not path.endswith(".json") or not _files.is_writable(folder) or os.path.isdir(path):
        raise InputError(
            f"output must be a file ending in .json in a directory that can be written, got "
            f"{path!r}."
        )


@dataclasses.dataclass(frozen=True)
class AuditSettings:
    """Settings of an audit, as `trainers.audit` has them as flags.

    Attributes:
        dataset: str, what the records are called in words.
        model: "vit" or "linear".
        attack: "one_run" or "step".
        mechanism: one of `MECHANISMS`.
        epsilon: float, put to the test.
        delta: float in (0, 1).
        accountant: "rdp" or "pld", whose epsilon it is.
        batch_size: int or None for a sixth of the records, expected in a step.
        epochs: float, expected passes over the records.
        canaries: int, even, records that have a coin.
        canary: one of `auditing.canaries.KINDS`.
        score: "gradient" (white box) or "loss" (black box).
        num_examples: int or None, other records.
        trials: int, even, releases on each side of the attack on a step.
        learning_rate: float or None for the score's own default.
        seed: int or None.
    """

    dataset: str
    model: str = "vit"
    attack: str = "one_run"
    mechanism: str = "certified"
    epsilon: float = 2.0
    delta: float = 1e-5
    accountant: str = "rdp"
    batch_size: int | None = None
    epochs: float = 10.0
    canaries: int = 1000
    canary: str = "noise"
    score: str = "gradient"
    num_examples: int | None = None
    trials: int = 20000
    learning_rate: float | None = None
    seed: int | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """The findings of an audit.

    Attributes:
        claim: the `Claim`.
        epsilon: float, the lower bound.
        rows: what the table shows beside claim and bound, words by name.
        record: JSON-able, settings and outcome.
    """

    claim: Claim
    epsilon: float
    rows: dict[str, str]
    record: dict[str, Any]

    @property
    def contradicted(self) -> bool:
        """True if the bound exceeds what is claimed."""
        return self.epsilon > self.claim.least

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        whose = "claim" if self.claim.name == "claimed" else "nominal epsilon"
        return (
            f"CONTRADICTS the {whose}" if self.contradicted else f"does not contradict the {whose}"
        )

    def text(self) -> str:
        """The table, and what it can and cannot show."""
        rows = {
            f"{self.claim.name} epsilon, {name.upper()}": statement.format_epsilon(value)
            for name, value in self.claim.epsilons.items()
        }
        # Rounded down: a printed lower bound must still be one.
        rows["lower bound (95 %)"] = f"{math.floor(1000 * self.epsilon) / 1000:.3f}"
        rows |= self.rows
        rows["verdict"] = self.verdict
        width = max(map(len, rows))
        lines = [f"{name:{width}}  {value}" for name, value in rows.items()]
        return "\n".join([*lines, "", textwrap.fill(_CAVEAT, 80)])

    def write(self, path: str) -> None:
        """Writes settings and outcome as JSON; the file is there whole or not at all."""
        content = {
            "what": "empirical lower bound on epsilon, 95 % confidence",
            "command": "python -m trainers.audit " + " ".join(sys.argv[1:]),
            f"{self.claim.name}_epsilon": self.claim.epsilons,
            "lower_bound": self.epsilon,
            "verdict": self.verdict,
            **self.record,
        }
        _files.write_json(path, content)


@dataclasses.dataclass(frozen=True)
class Job:
    """One audit, its data and plan chosen.

    Attributes:
        settings: the `AuditSettings`.
        image_shape, num_classes: of the data set.
        x, y: the records that are in the training data for certain.
        canaries: the `Canaries`; a single one for the attack on a step.
        guesses: numbers of guesses.
        plan: the plan under test.
        claim: what is claimed of it.
    """

    settings: AuditSettings
    image_shape: tuple[int, int, int]
    num_classes: int
    x: np.ndarray
    y: np.ndarray
    canaries: Canaries
    guesses: list[int]
    plan: PrivacyPlan
    claim: Claim

    @classmethod
    def prepare(cls, settings: AuditSettings, data: ImageData, guesses: list[int]) -> "Job":
        """Sets canaries' records aside, flips the coins and makes the plan.

        Raises:
            InputError: if there are too few records, or no plan meets the target epsilon.
        """
        step = settings.attack == "step"
        number = 1 if step else settings.canaries
        left = len(data.x_train) - number
        if left < 1:
            raise InputError(
                f"canaries must be below the number of records ({len(data.x_train)}), got {number}."
            )
        others = settings.num_examples
        if others is None:
            others = min(_STEP_EXAMPLES if step else _MOST_EXAMPLES, left)
        if others > left:
            raise InputError(
                f"num_examples must be at most {left}, which the canaries leave, got {others}."
            )
        # By row number alone, so that the cut tells nothing about the records.
        order = np.random.RandomState(0).permutation(len(data.x_train))
        aside, rest = order[:number], order[number : number + others]
        canaries = make_canaries(
            settings.canary,
            data.x_train[aside],
            data.y_train[aside],
            data.num_classes,
            settings.seed,
        )
        plan, claim = plan_under_test(
            settings.mechanism,
            settings.epsilon,
            settings.accountant,
            settings.seed,
            delta=settings.delta,
            **_schedule(settings, others, number),
        )
        x, y = data.x_train[rest], data.y_train[rest]
        classes = data.num_classes
        return cls(settings, data.image_shape, classes, x, y, canaries, guesses, plan, claim)

    def run(self) -> Report:
        """Builds the model and attacks it."""
        start = time.monotonic()
        model = self._model()
        print(self._words(model), flush=True)
        attack = self._step if self.settings.attack == "step" else self._one_run
        epsilon, rows, record = attack(model)
        settings = {
            "settings": {
                "dataset": self.settings.dataset,
                "model": self.settings.model,
                "parameters": int(model.count_params()),
                "attack": self.settings.attack,
                "mechanism": self.settings.mechanism,
                "canary": self.settings.canary,
                "other_records": len(self.x),
                "delta": self.plan.delta,
                "noise_multiplier": self.plan.noise_multiplier,
                "sampling_probability": self.plan.sampling_probability,
                "steps": self.plan.steps,
            },
            "seconds": round(time.monotonic() - start, 1),
        }
        return Report(self.claim, epsilon, rows, {**record, **settings})

    def _model(self) -> Any:
        import keras

        import keras_dpvit as kd

        if self.settings.seed is not None:
            keras.utils.set_random_seed(self.settings.seed)
        model: Any
        if self.settings.model == "vit":
            model = kd.DPViTClassifier.from_preset(
                preset_for(self.image_shape), num_classes=self.num_classes
            )
        else:
            layers = [
                keras.Input(self.image_shape),
                keras.layers.Rescaling(1 / 127.5, -1.0),
                keras.layers.Flatten(),
                keras.layers.Dense(self.num_classes),
            ]
            model = kd.make_private(keras.Sequential(layers))
        make = kd.DPKerasSGDOptimizer
        if self.settings.attack == "one_run" and self.settings.score == "loss":
            make = kd.DPKerasAdamOptimizer
        rate = self.settings.learning_rate or _LEARNING_RATES[self.settings.score]
        model.compile(
            make(self.plan, learning_rate=rate),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        return model

    def _words(self, model: Any) -> str:
        """The audited training in a few lines."""
        plan = self.plan
        what = (
            f"one step, {self.settings.trials} times with and without one record"
            if self.settings.attack == "step"
            else f"{len(self.canaries)} canaries, each in by a fair coin"
        )
        return (
            f"{self.settings.dataset}: {len(self.x)} other records; "
            f"{what} ({self.settings.canary})\n"
            f"model {self.settings.model} with {model.count_params():,} parameters; mechanism "
            f"{self.settings.mechanism}, noise multiplier {plan.noise_multiplier:.4g}\n"
            f"{plan.steps} step{'s' if plan.steps > 1 else ''}, each record in each with "
            f"probability {plan.sampling_probability:.4g} whatever the coins"
        )

    def _one_run(self, model: Any) -> tuple[float, dict[str, str], dict[str, Any]]:
        from keras_dpvit.auditing.canary_scores import GradientScores, LossScores

        scores: Any = (
            LossScores(self.canaries)
            if self.settings.score == "loss"
            else GradientScores(self.canaries, self.x, self.y)
        )
        model.fit(
            *plant(self.x, self.y, self.canaries),
            epochs=math.ceil(self.settings.epochs),
            callbacks=[scores],
            # A bar on a terminal, a line an epoch in a log.
            verbose=1 if sys.stdout.isatty() else 2,
        )
        bound = audit(scores.scores, self.canaries.included, self.guesses, self.plan.delta)
        outcome = bound.outcome
        tried = " or ".join(map(str, self.guesses))
        corrected = ", corrected for the choice" if bound.tried > 1 else ""
        rows = {
            "guesses": f"{outcome.guesses} of {outcome.num_canaries} canaries ({tried}{corrected})",
            "correct": str(outcome.correct),
        }
        record = {
            "score": self.settings.score,
            "canaries": outcome.num_canaries,
            "guesses_fixed_before": self.guesses,
            "guesses": outcome.guesses,
            "correct": outcome.correct,
        }
        return bound.epsilon, rows, record

    def _step(self, model: Any) -> tuple[float, dict[str, str], dict[str, Any]]:
        from keras_dpvit.auditing.one_step import attack_step

        record = self.canaries.x, self.canaries.y
        bound = attack_step(
            model, (self.x, self.y), record, self.settings.trials, progress=self._progress
        )
        result = bound.result
        rows = {
            "looked at": bound.statistic,
            "'with' said of": f"{result.hits} of {result.trials} releases with the record, "
            f"{result.false_alarms} of {result.trials} without it",
        }
        return bound.epsilon, rows, {"statistic": bound.statistic, **dataclasses.asdict(result)}

    def _progress(self, done: int) -> None:
        total = 2 * self.settings.trials
        end = "\n" if done == total else "\r"
        if sys.stdout.isatty() or done % max(1, total // 4) == 0:
            print(
                f"released {done} of {total}", end=end if sys.stdout.isatty() else "\n", flush=True
            )


def _schedule(settings: AuditSettings, others: int, canaries: int) -> dict[str, Any]:
    """Public sizes of the plan: they look at no coin."""
    if settings.attack == "step":  # one step over everybody
        return {"num_examples": others, "batch_size": others, "epochs": 1}
    records = public_num_examples(others, canaries)
    batch_size = settings.batch_size or max(1, records // 6)
    return {"num_examples": records, "batch_size": batch_size, "epochs": settings.epochs}
