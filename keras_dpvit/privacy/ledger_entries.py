"""Entries of a ledger: releases in a row, and choices among runs of them."""

import dataclasses
import functools
import math
import secrets
from collections.abc import Mapping
from typing import Any, Union

from keras_dpvit import _validate
from keras_dpvit._types import Array
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import accounting
from keras_dpvit.privacy.private_selection import TrialCount

# Noise multiplier, sampling probability and number of equal releases.
Release = tuple[float, float, int]
# What an entry costs, hashable: a release, or (_SELECTION, costs of a run, mean, shape).
Cost = tuple[Any, ...]
_SELECTION = "selection"


SAMPLINGS = ("poisson", "fixed_size")
UNITS = ("record", "client")

# Of an entry's details, those that are reckoned with, where they are given.
_DETAIL_CHECKS: dict[str, Any] = {
    "delta": _validate.open_unit_interval,
    "num_examples": _validate.positive_int,
    "batch_size": _validate.positive_int,
}


def _sampling(**argument: Any) -> str:
    ((_, value),) = argument.items()
    return _validate.one_of(SAMPLINGS, **{"A ledger entry's sampling": value})


def _unit(**argument: Any) -> str:
    ((_, value),) = argument.items()
    return _validate.one_of(UNITS, **{"A ledger entry's unit": value})


def _details(**argument: Any) -> Mapping[str, Any]:
    ((name, value),) = argument.items()
    if not isinstance(value, Mapping):
        raise InputError(f"{name} must be a mapping, got {_validate.shown(value)}.")
    known = {key: check for key, check in _DETAIL_CHECKS.items() if key in value}
    return {**value, **{key: check(**{key: value[key]}) for key, check in known.items()}}


def _text(**argument: Any) -> str:
    ((name, value),) = argument.items()
    if not isinstance(value, str):
        raise InputError(f"{name} must be a text, got {_validate.shown(value)}.")
    return value


def _lines(**argument: Any) -> tuple[str, ...]:
    ((name, value),) = argument.items()
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{name} must be several texts, got {_validate.shown(value)}.")
    return tuple(_text(**{name: line}) for line in value)


@dataclasses.dataclass(frozen=True)
class LedgerEntry:
    """Equal releases in a row: `steps` Gaussian releases over samples of one data set.

    Attributes:
        steps: int, noisy sums released.
        noise_multiplier: float, standard deviation of the noise over the L2 sensitivity, of
            all that a step releases taken as one Gaussian (docs/privacy.md, item 7).
        sampling_probability: float, with which each record entered each step.
        sampling: str, how records were drawn. "poisson", or "fixed_size": batches in which a
            record enters once a pass at most, which amplify nothing.
        passes: int, for "fixed_size" the passes over the records that the steps belong to.
        certified: bool, whether the mechanism bounds what one record adds. If not, the entry
            costs an infinite epsilon, whatever its noise.
        details: JSON-able mapping, the mechanism in words and numbers, for the statement.
        not_covered: what the run did with private data that epsilon does not count.
        invalidated_by: what happened to the model that its guarantee does not survive: the first
            line of the statement names it.
        unit: str, what the releases protect, one of `UNITS`: "record", or "client", which is one
            member of a federation with all its records.
        release_id: str, drawn from the operating system's entropy by the training that made the
            releases; "" where nobody knows. Two entries that are equal, id and all, are one and
            the same release.

    Raises:
        InputError: if a field is none that such releases can have.
    """

    steps: int
    noise_multiplier: float
    sampling_probability: float
    sampling: str = "poisson"
    passes: int = 0
    certified: bool = True
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    not_covered: tuple[str, ...] = ()
    release_id: str = ""
    invalidated_by: tuple[str, ...] = ()
    unit: str = "record"

    def __post_init__(self) -> None:
        _validate.keep(
            self,
            steps=_validate.non_negative_int,
            noise_multiplier=_validate.noise,
            sampling_probability=_validate.probability,
            sampling=_sampling,
            passes=_validate.non_negative_int,
            certified=_validate.true_or_false,
            details=_details,
            not_covered=_lines,
            release_id=_text,
            invalidated_by=_lines,
            unit=_unit,
        )
        if self.sampling == "fixed_size" and not min(self.steps, 1) <= self.passes <= self.steps:
            raise InputError(
                f"A ledger entry's passes must be from 1 to its steps ({self.steps}), got "
                f"{self.passes}."
            )

    @property
    def release(self) -> Release:
        """Noise multiplier, sampling probability and number of equal releases."""
        noise_multiplier = self.noise_multiplier if self.certified else 0.0
        if self.sampling == "fixed_size":
            return noise_multiplier, 1.0, self.passes
        return noise_multiplier, self.sampling_probability, self.steps

    @property
    def cost(self) -> Cost:
        """The fields that decide the event, hashable."""
        return self.release

    def event(self) -> Any:
        """The dp_accounting event of all the steps."""
        return _event(self.cost)

    def first(self, steps: int) -> "LedgerEntry":
        """The entry after its first `steps`; its passes at most, if it began within one.

        Passes over batches made elsewhere are taken to be equally long.
        """
        passes = math.ceil(self.passes * steps / self.steps)
        if self.details.get("sampling") == "shuffled":
            each = self.details["num_examples"] // self.details["batch_size"]
            missed = min(each - 1, self.passes * each - self.steps)  # of the first pass, at most
            passes = math.ceil((missed + steps) / each)
        return dataclasses.replace(self, steps=steps, passes=passes)

    def all_entries(self) -> tuple["LedgerEntry", ...]:
        """The entry itself, as a tuple."""
        return (self,)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; without a unit it is a record, as in files from before there were two."""
        found = {
            **dataclasses.asdict(self),
            "details": dict(self.details),
            "not_covered": [*self.not_covered],
            "invalidated_by": [*self.invalidated_by],
        }
        if self.unit == "record":
            del found["unit"]
        return found


def mean_entry(
    noise_multiplier: float, num_examples: int, delta: float, seeded: bool = False
) -> LedgerEntry:
    """The entry for one mean released with noise, to plan with before it is released.

    Args:
        noise_multiplier: float, standard deviation of the noise over the clipping norm.
        num_examples: int, the public number of records.
        delta: float in (0, 1), at which the statement is to be made.
        seeded: bool, whether the noise comes from a fixed seed.
    """
    details = {"num_examples": num_examples, "delta": delta, "seed_fixed": seeded}
    return _release_once("mean", noise_multiplier, details)


def head_entry(noise_multiplier: float, details: Mapping[str, Any]) -> LedgerEntry:
    """The entry for a linear head solved from noisy sums over all records.

    Args:
        noise_multiplier: float, of all the sums taken as one Gaussian, see `HeadPlan`.
        details: JSON-able, for the statement.
    """
    return _release_once("head", noise_multiplier, details)


def _release_once(kind: str, noise_multiplier: float, details: Mapping[str, Any]) -> LedgerEntry:
    return LedgerEntry(
        steps=1,
        noise_multiplier=noise_multiplier,
        sampling_probability=1.0,
        details={"release": kind, **details},
        release_id=secrets.token_hex(16),
    )


def uncounted(reason: str) -> LedgerEntry:
    """An entry for what nobody counted: it adds nothing, and the statement opens with it.

    Args:
        reason: a sentence, for the statement.
    """
    return LedgerEntry(
        steps=0,
        noise_multiplier=0.0,
        sampling_probability=1.0,
        invalidated_by=(reason,),
        release_id="uncounted",  # said once, however many variables say it
    )


@dataclasses.dataclass(frozen=True)
class SelectionEntry:
    """The best of a random number of runs like the one on record, the others kept to oneself.

    Guarantee: costs `event()`, dp_accounting's repeat-and-select (Papernot and Steinke 2022,
    arXiv:2110.03620, theorems 2 and 6), if the number of runs was drawn from the distribution
    beforehand, each run was drawn and scored alike, independently, at no more than the cost on
    record, and nothing but the best run is released (see `RandomTrials`). Counted by RDP;
    dp_accounting's PLD does not know it.

    Attributes:
        entries: what one run released.
        mean: float, the mean number of runs.
        shape: float, of its distribution, see `TrialCount`.
        release_id: as in `LedgerEntry`.
    """

    entries: tuple[Union[LedgerEntry, "SelectionEntry"], ...]
    mean: float
    shape: float
    release_id: str = ""

    def __post_init__(self) -> None:
        count = TrialCount(self.mean, self.shape)
        object.__setattr__(self, "mean", count.mean)
        object.__setattr__(self, "shape", count.shape)
        _validate.keep(self, release_id=_text)

    @property
    def steps(self) -> int:
        """Steps of the run that was released."""
        return sum(entry.steps for entry in self.entries)

    @property
    def cost(self) -> Cost:
        """The fields that decide the event, hashable."""
        return _SELECTION, tuple(entry.cost for entry in self.entries), self.mean, self.shape

    def event(self) -> Any:
        """The dp_accounting event of the choice and of what was chosen."""
        return _event(self.cost)

    def all_entries(self) -> tuple[LedgerEntry, ...]:
        """The entries of the run that was released."""
        return tuple(e for entry in self.entries for e in entry.all_entries())

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "kind": _SELECTION,
            "entries": [entry.to_dict() for entry in self.entries],
            "mean": self.mean,
            "shape": "infinite" if math.isinf(self.shape) else self.shape,
            "release_id": self.release_id,
        }


Entry = LedgerEntry | SelectionEntry


def _event(cost: Cost) -> Any:
    if cost[0] == _SELECTION:
        _, costs, mean, shape = cost
        return accounting.repeat_and_select_event(event_of_costs(costs), mean, shape)
    return accounting.subsampled_gaussian_event(*cost)


def is_release(cost: Cost) -> bool:
    """True if a cost is that of at least one step."""
    return any(map(is_release, cost[1])) if cost[0] == _SELECTION else bool(cost[2])


def event_of_costs(costs: tuple[Cost, ...]) -> Any:
    """The dp_accounting event of costs that compose."""
    import dp_accounting

    return dp_accounting.ComposedDpEvent([_event(cost) for cost in costs])


@functools.lru_cache(maxsize=1024)
def rdp_of_cost(cost: Cost) -> Array:
    """Renyi divergence bounds, as `accounting.rdp_of_event` has them; the caller must not write."""
    if cost[0] == _SELECTION or cost[2] == 0:
        return accounting.rdp_of_event(_event(cost))
    noise_multiplier, sampling_probability, steps = cost
    total: Array = steps * accounting.rdp_of_step(noise_multiplier, sampling_probability)
    return total


def entry_from_dict(data: Mapping[str, Any]) -> Entry:
    """The inverse of an entry's `to_dict`; raises as the mapping lets it."""
    if data.get("kind") != _SELECTION:
        return LedgerEntry(**data)
    shape = data["shape"]
    count = TrialCount(data["mean"], math.inf if shape == "infinite" else shape)
    entries = tuple(entry_from_dict(entry) for entry in data["entries"])
    return SelectionEntry(entries, count.mean, count.shape, data["release_id"])
