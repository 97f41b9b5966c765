"""The plan: one frozen object that owns sampling, clipping, sensitivity, noise and their cost."""

import dataclasses
import math
from typing import Any

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import accounting, ledger
from keras_dpvit.privacy import sampling as samplers
from keras_dpvit.privacy.batch_sizes import check_schedule, microbatch_size_of, num_steps
from keras_dpvit.privacy.clipping import (
    Clipping,
    MedianLayerClipping,
    clipping_from_dict,
    clipping_to_dict,
)
from keras_dpvit.privacy.ledger_entries import LedgerEntry
from keras_dpvit.privacy.mechanism import StepMechanism
from keras_dpvit.privacy.noise_schedules import (
    ConstantNoise,
    NoiseSchedule,
    schedule_from_dict,
    schedule_to_dict,
)
from keras_dpvit.privacy.sensitivity import (
    DynamicSensitivity,
    PublishedSensitivity,
    Sensitivity,
    sensitivity_from_dict,
    sensitivity_to_dict,
)

SAMPLINGS = ("poisson", "shuffled", "external")
_PARTS: dict[str, tuple[type[Any], Any, Any]] = {
    "clipping": (Clipping, clipping_to_dict, clipping_from_dict),
    "sensitivity": (Sensitivity, sensitivity_to_dict, sensitivity_from_dict),
    "noise_schedule": (NoiseSchedule, schedule_to_dict, schedule_from_dict),
}


@dataclasses.dataclass(frozen=True)
class PrivacyPlan:
    """The settings of a private training; every field is public.

    Guarantee: training under the plan for its `steps` costs at most `epsilon()` at `delta`, for
    the sequence of all noisy sums and counts and anything computed from them: for one record added
    or removed under Poisson sampling, for one record against a blank one that adds nothing
    under batches of fixed size. It holds for any gradients (NaN and infinite ones count as zero);
    under Poisson sampling for any number of records actually passed in: `num_examples` and
    `batch_size` enter as public constants. Out of scope: attacks on floating-point noise, and a
    fixed `seed` that leaks. A plan `as_published` guarantees nothing.

    Args:
        num_examples: int, records to train on.
        batch_size: int, records expected in a step.
        epochs: float, expected passes over the data; under Poisson sampling the steps are
            `ceil(epochs * num_examples / batch_size)`, as TF Privacy counts them.
        delta: float in (0, 1), should be well below `1/num_examples`.
        noise_multiplier: float, noise of a step over its clipping norm, all that the step releases
            taken as one Gaussian; 0 trains without noise and with infinite epsilon.
        clipping: a `Clipping`.
        sensitivity: a `Sensitivity`.
        noise_schedule: a `NoiseSchedule`, factors on the noise multiplier.
        microbatch_size: int, divides `batch_size`. Above 1 the mean gradient of about that
            many records, drawn together at random, is clipped: a record then moves the
            sum by twice the clipping norm, which the cost counts.
        sampling: "poisson": each record enters each step with `batch_size/num_examples`.
            "shuffled": batches of `batch_size` over a fresh shuffle in each pass, without
            amplification. "external": `fit` is given batches by somebody else, who takes no
            record twice in a pass and looks at none for it; without amplification.
        target_epsilon: float or None, what `for_target` was asked for.
        compositions: int, how many trainings of this kind on the same records the target
            covers together.
        seed: None for the operating system's entropy; an int, for tests, makes sampling and
            noise repeatable, and privacy then rests on its secrecy. A second training with the
            same noise in one process is refused (see `randomness.repeatable`).
        accountant: "rdp" (TF Privacy's) or "pld" (tighter), whose epsilon `fit` shows.

    Raises:
        InputError: if an argument is out of range or the batch is larger than the data.

    Example:
        >>> plan = kd.PrivacyPlan.for_target(
        ...     epsilon=3, delta=1e-5, num_examples=60_000, batch_size=1024, epochs=10
        ... )
        >>> plan.steps, round(plan.epsilon(), 2)
        (586, 3.0)
    """

    num_examples: int
    batch_size: int
    epochs: float
    delta: float
    noise_multiplier: float
    clipping: Clipping = dataclasses.field(default_factory=MedianLayerClipping)
    sensitivity: Sensitivity = dataclasses.field(default_factory=DynamicSensitivity)
    noise_schedule: NoiseSchedule = dataclasses.field(default_factory=ConstantNoise)
    microbatch_size: int = 1
    sampling: str = "poisson"
    target_epsilon: float | None = None
    compositions: int = 1
    seed: int | None = None
    accountant: str = "rdp"

    def __post_init__(self) -> None:
        _validate.keep(
            self,
            num_examples=_validate.positive_int,
            batch_size=_validate.positive_int,
            epochs=_validate.positive,
            delta=_validate.open_unit_interval,
            noise_multiplier=_validate.noise,
            microbatch_size=_validate.positive_int,
            target_epsilon=_validate.optional(_validate.positive),
            compositions=_validate.positive_int,
            seed=_validate.optional(_validate.whole),
        )
        check_schedule(self.num_examples, self.batch_size, self.epochs)
        _validate.one_of(SAMPLINGS, sampling=self.sampling)
        _validate.one_of(accounting.ACCOUNTANTS, accountant=self.accountant)
        if self.batch_size % self.microbatch_size:
            raise InputError(
                f"microbatch_size must divide batch_size={self.batch_size}, got "
                f"{self.microbatch_size}."
            )
        for name, (kind, _, _) in _PARTS.items():
            if not isinstance(getattr(self, name), kind):
                raise InputError(
                    f"{name} must be a {kind.__name__}, got {_validate.shown(getattr(self, name))}."
                )
        if self.sampling != "poisson" and not isinstance(self.noise_schedule, ConstantNoise):
            raise InputError(
                "noise_schedule must be constant with batches of fixed size: a record's cost would "
                "depend on where in a pass it falls."
            )
        if self.sampling == "external" and self.microbatch_size > 1:
            raise InputError(
                "microbatch_size must be 1 with sampling='external': microbatches are drawn with "
                "the sample."
            )
        if not self.sensitivity.certified and not isinstance(self.clipping, MedianLayerClipping):
            raise InputError("clipping must be median_layer in a plan as published.")
        if self.steps <= 0:
            raise InputError(f"epochs must give at least one step, got {self.epochs:g}.")
        # Computed here so that an infeasible split is refused when the plan is made.
        for factor, _ in self.noise_schedule.segments(self.steps):
            mechanism = self.mechanism_at(factor)
            _validate.noise(noise_multiplier=mechanism.event_noise_multiplier)
            mechanism.split_noise()

    @classmethod
    def for_target(
        cls,
        *,
        epsilon: float,
        delta: float,
        num_examples: int,
        batch_size: int,
        epochs: float,
        compositions: int = 1,
        accountant: str = "rdp",
        num_microbatches: int | None = None,
        prior: "ledger.PrivacyLedger | None" = None,
        **mechanism: Any,
    ) -> "PrivacyPlan":
        """The plan with the least noise whose cost does not exceed a target.

        Args:
            epsilon: float above 0.
            delta: float in (0, 1).
            num_examples: int, as in the class.
            batch_size: int, as in the class.
            epochs: float, as in the class.
            compositions: int; how many models will be trained like this on the same records,
                all of them together within the target.
            accountant: as in the class; "pld" needs less noise.
            num_microbatches: int, TF Privacy's way to say `batch_size / microbatch_size`.
            prior: a `PrivacyLedger` of what each of those models costs before its training (a
                `private_mean`, say), which the target covers too.
            **mechanism: `clipping`, `sensitivity`, `noise_schedule`, `microbatch_size`,
                `sampling`, `seed` of the class.

        Raises:
            InputError: if an argument is out of range or the batch is larger than the data.
        """
        _validate.positive(epsilon=epsilon)
        _validate.open_unit_interval(delta=delta)
        check_schedule(num_examples, batch_size, epochs)
        _validate.positive_int(compositions=compositions)
        # Plain numbers from here on: NumPy's would wrap around in what is multiplied.
        num_examples, batch_size, epochs = int(num_examples), int(batch_size), float(epochs)
        compositions = int(compositions)
        if num_microbatches is not None:
            mechanism["microbatch_size"] = microbatch_size_of(batch_size, num_microbatches)
        # An event asks nothing of the split, so that calibration may pass through small noise.
        template = cls(num_examples, batch_size, epochs, delta, 0.0, **mechanism)
        if not template.sensitivity.certified:
            raise InputError("sensitivity must be a certified one: as published it has no epsilon.")

        def event(noise_multiplier: float) -> Any:
            return _event_of_runs(template, noise_multiplier, compositions, prior)

        calibrated = accounting.calibrate_noise_multiplier(epsilon, delta, event, accountant)
        return dataclasses.replace(
            template,
            noise_multiplier=calibrated,
            target_epsilon=float(epsilon),
            compositions=compositions,
            accountant=accountant,
        )

    @classmethod
    def as_published(
        cls,
        *,
        num_examples: int,
        batch_size: int,
        epochs: float,
        delta: float,
        noise_multiplier: float,
        floor: float = 1e-3,
        **arguments: Any,
    ) -> "PrivacyPlan":
        """Equations 9 to 13 as the paper prints them, for reproduction: gives no privacy.

        Guarantee: none; the ledger says infinite epsilon (see `PublishedSensitivity`).

        Args:
            num_examples: int, as in the class.
            batch_size: int, as in the class.
            epochs: float, as in the class.
            delta: float, for the nominal epsilon that the statement shows beside "infinite".
            noise_multiplier: float, the paper's.
            floor: float above 0, `alpha` of eq 12.
            **arguments: `seed` of the class.
        """
        return cls(
            num_examples=num_examples,
            batch_size=batch_size,
            epochs=epochs,
            delta=delta,
            noise_multiplier=noise_multiplier,
            sensitivity=PublishedSensitivity(floor),
            **arguments,
        )

    @property
    def sampling_probability(self) -> float:
        """The probability with which each record enters each step."""
        return self.batch_size / self.num_examples

    @property
    def num_microbatches(self) -> int:
        """The expected number of gradients that a step clips and sums: its public divisor."""
        return self.batch_size // self.microbatch_size

    @property
    def steps(self) -> int:
        """The number of steps the plan pays for."""
        if self.sampling == "poisson":
            return num_steps(self.num_examples, self.batch_size, self.epochs)
        return math.ceil(self.epochs * self.steps_per_epoch)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch as `fit` shows them; the last epoch of the plan may be shorter."""
        if self.sampling == "poisson":
            return math.ceil(self.num_examples / self.batch_size)
        return self.num_examples // self.batch_size

    def mechanism(self, step: int = 0) -> StepMechanism:
        """The release of a step: its sensitivity, noise and event."""
        return self.mechanism_at(self.noise_schedule.factor(step, self.steps))

    def mechanism_at(
        self, factor: float, metrics_noise_ratio: float | None = None
    ) -> StepMechanism:
        """The mechanism of a step whose noise is the plan's times a factor of the schedule."""
        return StepMechanism(
            noise_multiplier=self.noise_multiplier * factor,
            rule=self.sensitivity,
            num_units=self.num_microbatches,
            records_share_units=self.microbatch_size > 1,
            sampling_probability=self.sampling_probability if self.sampling == "poisson" else 1.0,
            metrics_noise_ratio=metrics_noise_ratio,
        )

    def noise_segments(
        self, metrics_noise_ratio: float | None = None
    ) -> list[tuple[StepMechanism, int]]:
        """The run as pairs (mechanism, number of steps in a row)."""
        levels = self.noise_schedule.segments(self.steps)
        return [(self.mechanism_at(factor, metrics_noise_ratio), steps) for factor, steps in levels]

    def sampler(self, key: bytes) -> samplers.Sampler | None:
        """The sampler that the plan's event counts; None where somebody else makes the batches."""
        if self.sampling == "external":
            return None
        if self.sampling == "shuffled":
            return samplers.ShuffledSampler(self.batch_size, key)
        return samplers.PoissonSampler(self.sampling_probability, key)

    def entries(
        self,
        steps: int,
        first_step: int = 0,
        not_covered: tuple[str, ...] = (),
        passes: int | None = None,
        invalidated_by: tuple[str, ...] = (),
        metrics_noise_ratio: float | None = None,
    ) -> tuple[LedgerEntry, ...]:
        """The ledger's entries for steps trained under the plan.

        Args:
            steps: int, how many.
            first_step: int, the steps before these, entered elsewhere.
            not_covered: see `LedgerEntry`.
            passes: int, for batches made elsewhere: the passes over the records so far.
            invalidated_by: see `LedgerEntry`.
            metrics_noise_ratio: see `StepMechanism`; changes no cost.
        """
        if self.sampling != "poisson" and passes is None:
            last, each = first_step + steps, self.steps_per_epoch
            passes = math.ceil(last / each) - first_step // each if steps else 0
        runs = self.noise_schedule.runs(self.steps, first_step, first_step + steps)
        if self.sampling != "poisson":  # made elsewhere, a pass may have more steps than planned
            runs = [(1.0, steps)] if steps else []
            passes = min(passes or 0, steps)  # one that was begun and took no step released nothing
        return tuple(
            LedgerEntry(
                steps=count,
                noise_multiplier=self.mechanism_at(factor).event_noise_multiplier,
                sampling_probability=self.sampling_probability,
                sampling="poisson" if self.sampling == "poisson" else "fixed_size",
                passes=passes or 0,
                certified=self.sensitivity.certified,
                details=self.describe(factor, metrics_noise_ratio),
                not_covered=not_covered,
                invalidated_by=invalidated_by,
            )
            for factor, count in runs
        )

    def epsilon(self, delta: float | None = None, accountant: str | None = None) -> float:
        """Epsilon of all steps of one training under the plan, by its own accountant or another."""
        spent = ledger.PrivacyLedger(self.entries(self.steps))
        return spent.epsilon(self.delta if delta is None else delta, accountant or self.accountant)

    def describe(
        self, factor: float = 1.0, metrics_noise_ratio: float | None = None
    ) -> dict[str, Any]:
        """The mechanism in JSON-able words and numbers, for ledgers, cards and statements."""
        mechanism = self.mechanism_at(factor, metrics_noise_ratio)
        gradient, count = mechanism.split_noise()
        metrics = {"metrics_noise_multiplier": mechanism.metrics_noise_multiplier}
        return {
            "num_examples": self.num_examples,
            "batch_size": self.batch_size,
            "planned_steps": self.steps,
            "delta": self.delta,
            "noise_multiplier": self.noise_multiplier * factor,
            "gradient_noise_multiplier": gradient,
            "count_noise_stddev": count,
            "microbatch_size": self.microbatch_size,
            "sampling": self.sampling,
            **{name: write(getattr(self, name)) for name, (_, write, _) in _PARTS.items()},
            "seed_fixed": self.seed is not None,
            **({} if metrics_noise_ratio is None else metrics),
        }

    def get_config(self) -> dict[str, Any]:
        """JSON-able arguments. A fixed seed is left out: files travel, and a seed is a secret."""
        config = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name, (_, write, _) in _PARTS.items():
            config[name] = write(config[name])
        del config["seed"]
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PrivacyPlan":
        """The inverse of `get_config`, with fresh entropy."""
        arguments = dict(config)
        for name, (_, _, read) in _PARTS.items():
            if name in arguments:
                arguments[name] = read(arguments[name])
        return cls(**arguments)


def _event_of_runs(
    plan: PrivacyPlan,
    noise_multiplier: float,
    compositions: int,
    prior: "ledger.PrivacyLedger | None",
) -> Any:
    """The event of `compositions` trainings under a plan with another noise multiplier."""
    import dp_accounting

    entries = (
        dataclasses.replace(
            entry, noise_multiplier=factor * noise_multiplier / plan.mechanism_at(1.0).units_moved
        )
        for entry, (factor, _) in zip(
            plan.entries(plan.steps), plan.noise_schedule.segments(plan.steps), strict=True
        )
    )
    before = [] if prior is None else [prior.event()]
    once = dp_accounting.ComposedDpEvent([*before, *(entry.event() for entry in entries)])
    return dp_accounting.SelfComposedDpEvent(once, compositions)
