"""The plan: one frozen object that owns sampling, clipping, sensitivity, noise and their cost."""

import dataclasses
import math
from typing import Any

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import accounting, ledger, sampling
from keras_dpvit.privacy.clipping import (
    LayerClipping,
    MedianLayerClipping,
    clipping_from_dict,
    clipping_to_dict,
)
from keras_dpvit.privacy.sensitivity import (
    DynamicSensitivity,
    Sensitivity,
    sensitivity_from_dict,
    sensitivity_to_dict,
)


@dataclasses.dataclass(frozen=True)
class PrivacyPlan:
    """How a model is trained privately; every field is public.

    Guarantee: training under the plan for its `steps` costs at most `epsilon()` at `delta`, by
    add-or-remove-one adjacency, for the sequence of all noisy sums and counts and anything
    computed from them. It holds for any gradients (NaN and infinite ones count as zero) and any
    number of records actually passed in; `num_examples` and `batch_size` enter as public
    constants. Out of scope: attacks on floating-point noise, and a fixed `seed` that leaks.

    Args:
        num_examples: int, records to train on.
        batch_size: int, records expected in a step; each enters with `batch_size/num_examples`.
        epochs: float, expected passes over the data; the steps are
            `ceil(epochs * num_examples / batch_size)`, as TF Privacy counts them.
        delta: float in (0, 1), should be well below `1/num_examples`.
        noise_multiplier: float, of a step's releases taken as one Gaussian; 0 trains without
            noise and with infinite epsilon.
        clipping: a `LayerClipping`.
        sensitivity: a `Sensitivity`.
        target_epsilon: float or None, what `for_target` was asked for.
        compositions: int, how many trainings of this kind on the same records the target
            covers together.
        seed: None for the operating system's entropy; an int, for tests, makes sampling and
            noise repeatable, and privacy then rests on its secrecy.

    Raises:
        InputError: if an argument is out of range or the batch is larger than the data.
    """

    num_examples: int
    batch_size: int
    epochs: float
    delta: float
    noise_multiplier: float
    clipping: LayerClipping = dataclasses.field(default_factory=MedianLayerClipping)
    sensitivity: Sensitivity = dataclasses.field(default_factory=DynamicSensitivity)
    target_epsilon: float | None = None
    compositions: int = 1
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_schedule(self.num_examples, self.batch_size, self.epochs)
        _validate.open_unit_interval(delta=self.delta)
        _validate.non_negative(noise_multiplier=self.noise_multiplier)
        _validate.positive_int(compositions=self.compositions)
        if not isinstance(self.clipping, LayerClipping):
            raise InputError(f"clipping must be a LayerClipping, got {self.clipping!r}.")
        if not isinstance(self.sensitivity, Sensitivity):
            raise InputError(f"sensitivity must be a Sensitivity, got {self.sensitivity!r}.")
        # Computed here so that an infeasible split is refused when the plan is made.
        self.sensitivity.split(self.noise_multiplier, self.batch_size)

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
            accountant: "rdp" (TF Privacy's) or "pld" (tighter: less noise); the one whose
                epsilon is kept within the target.
            **mechanism: `clipping`, `sensitivity`, `seed` of the class.

        Raises:
            InputError: if an argument is out of range or the batch is larger than the data.
        """
        _validate.positive(epsilon=epsilon)
        _validate.open_unit_interval(delta=delta)
        _check_schedule(num_examples, batch_size, epochs)
        _validate.positive_int(compositions=compositions)
        steps = _num_steps(num_examples, batch_size, epochs)
        noise_multiplier = accounting.calibrate_noise_multiplier(
            epsilon, delta, batch_size / num_examples, steps * compositions, accountant
        )
        return cls(
            num_examples=num_examples,
            batch_size=batch_size,
            epochs=epochs,
            delta=delta,
            noise_multiplier=noise_multiplier,
            target_epsilon=float(epsilon),
            compositions=compositions,
            **mechanism,
        )

    @property
    def sampling_probability(self) -> float:
        """With which each record enters each step."""
        return self.batch_size / self.num_examples

    @property
    def steps(self) -> int:
        """The number of steps the plan pays for."""
        return _num_steps(self.num_examples, self.batch_size, self.epochs)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch as `fit` shows them; the last epoch of the plan may be shorter."""
        return math.ceil(self.num_examples / self.batch_size)

    @property
    def gradient_noise_multiplier(self) -> float:
        """Noise on the sum of gradients over its sensitivity."""
        return self.sensitivity.split(self.noise_multiplier, self.batch_size)[0]

    @property
    def count_noise_stddev(self) -> float:
        """Standard deviation of the noise on the tracked count; 0 if none is released."""
        return self.sensitivity.split(self.noise_multiplier, self.batch_size)[1]

    def noise_stddev(self, state: Any) -> Any:
        """Standard deviation of the noise on the sum, for a state of the sensitivity."""
        return self.gradient_noise_multiplier * self.sensitivity.cap(state)

    def sampler(self, key: bytes) -> sampling.PoissonSampler:
        """The sampler whose amplification the plan's event counts."""
        return sampling.PoissonSampler(self.sampling_probability, key)

    def entry(self, steps: int, not_covered: tuple[str, ...] = ()) -> ledger.LedgerEntry:
        """The ledger's entry for `steps` steps trained under the plan."""
        return ledger.LedgerEntry(
            steps=steps,
            noise_multiplier=self.noise_multiplier,
            sampling_probability=self.sampling_probability,
            details=self.describe(),
            not_covered=not_covered,
        )

    def epsilon(self, delta: float | None = None, accountant: str = "rdp") -> float:
        """Epsilon of all steps of one training under the plan."""
        spent = ledger.PrivacyLedger((self.entry(self.steps),))
        return spent.epsilon(self.delta if delta is None else delta, accountant)

    def describe(self) -> dict[str, Any]:
        """The mechanism in JSON-able words and numbers, for ledgers, cards and statements."""
        return {
            "num_examples": self.num_examples,
            "batch_size": self.batch_size,
            "planned_steps": self.steps,
            "delta": self.delta,
            "gradient_noise_multiplier": self.gradient_noise_multiplier,
            "count_noise_stddev": self.count_noise_stddev,
            "clipping": clipping_to_dict(self.clipping),
            "sensitivity": sensitivity_to_dict(self.sensitivity),
            "seed_fixed": self.seed is not None,
        }

    def get_config(self) -> dict[str, Any]:
        """JSON-able arguments. A fixed seed is left out: files travel, and a seed is a secret."""
        config = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        config["clipping"] = clipping_to_dict(self.clipping)
        config["sensitivity"] = sensitivity_to_dict(self.sensitivity)
        del config["seed"]
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PrivacyPlan":
        """The inverse of `get_config`, with fresh entropy."""
        arguments = dict(config)
        arguments["clipping"] = clipping_from_dict(arguments["clipping"])
        arguments["sensitivity"] = sensitivity_from_dict(arguments["sensitivity"])
        return cls(**arguments)


def _num_steps(num_examples: int, batch_size: int, epochs: float) -> int:
    return math.ceil(epochs * num_examples / batch_size)


def _check_schedule(num_examples: int, batch_size: int, epochs: float) -> None:
    _validate.positive_int(num_examples=num_examples)
    _validate.positive_int(batch_size=batch_size)
    _validate.positive(epochs=epochs)
    if epochs * num_examples / batch_size > 1e9:
        raise InputError(f"epochs must give at most 1e9 steps, got {epochs:g}.")
    if batch_size > num_examples:
        raise InputError(
            f"batch_size must not exceed the number of examples ({num_examples}), got {batch_size}."
        )
