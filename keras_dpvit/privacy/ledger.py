"""What was released, and what it cost: the record that every epsilon is computed from."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Union

from keras_dpvit.errors import InputError
from keras_dpvit.privacy import accounting

# Noise multiplier, sampling probability and number of equal releases.
Release = tuple[float, float, int]


SAMPLINGS = ("poisson", "fixed_size")


@dataclasses.dataclass(frozen=True)
class LedgerEntry:
    """Equal releases in a row: `steps` Gaussian releases over samples of one data set.

    Attributes:
        steps: int, noisy sums released.
        noise_multiplier: float, standard deviation of the noise over the L2 sensitivity, of
            all that a step releases taken as one Gaussian (design section 3, item 7).
        sampling_probability: float, with which each record entered each step.
        sampling: str, how records were drawn. "poisson", or "fixed_size": batches in which a
            record enters once a pass at most, which amplify nothing.
        passes: int, for "fixed_size" the passes over the records that the steps belong to.
        certified: bool, whether the mechanism bounds what one record adds. If not, the entry
            costs an infinite epsilon, whatever its noise.
        details: JSON-able mapping, the mechanism in words and numbers, for the statement.
        not_covered: what the run did with private data that epsilon does not count.
    """

    steps: int
    noise_multiplier: float
    sampling_probability: float
    sampling: str = "poisson"
    passes: int = 0
    certified: bool = True
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    not_covered: tuple[str, ...] = ()

    @property
    def release(self) -> Release:
        """Noise multiplier, sampling probability and number of equal releases."""
        if self.sampling not in SAMPLINGS:
            raise InputError(
                f"A ledger entry's sampling must be one of {', '.join(SAMPLINGS)}, got "
                f"{self.sampling!r}."
            )
        noise_multiplier = self.noise_multiplier if self.certified else 0.0
        if self.sampling == "fixed_size":
            return noise_multiplier, 1.0, self.passes
        return noise_multiplier, self.sampling_probability, self.steps

    def event(self) -> Any:
        """The dp_accounting event of all the steps."""
        return accounting.subsampled_gaussian_event(*self.release)


@dataclasses.dataclass(frozen=True)
class PrivacyLedger:
    """Releases from the same records, one after another: their events compose.

    Guarantee: `epsilon(delta)` bounds the whole sequence, every intermediate model included,
    for data sets that differ as `adjacency` says, given that each entry says truly how its
    records were sampled and noised.
    """

    entries: tuple[LedgerEntry, ...] = ()

    def event(self) -> Any:
        """The composed dp_accounting event."""
        import dp_accounting

        return dp_accounting.ComposedDpEvent([entry.event() for entry in self.entries])

    def epsilon(self, delta: float, accountant: str = "rdp") -> float:
        """Epsilon at `delta` by the named accountant; 0 for an empty ledger."""
        return _epsilon(self._releases(), delta, accountant) if self.entries else 0.0

    def delta(self, epsilon: float, accountant: str = "rdp") -> float:
        """Delta at `epsilon` by the named accountant; 0 for an empty ledger."""
        if not self.entries:
            return 0.0
        return accounting.delta_of_event(self.event(), epsilon, accountant)

    def _releases(self) -> tuple[Release, ...]:
        return tuple(entry.release for entry in self.entries)

    def all_entries(self) -> tuple[LedgerEntry, ...]:
        """Every entry, in order."""
        return self.entries

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        entries = [
            {**dataclasses.asdict(e), "details": dict(e.details), "not_covered": [*e.not_covered]}
            for e in self.entries
        ]
        return {"kind": "sequential", "entries": entries}


@functools.lru_cache(maxsize=256)
def _epsilon(releases: tuple[Release, ...], delta: float, accountant: str) -> float:
    # Statement, card and table ask for the same number, and an accountant takes its time.
    import dp_accounting

    events = [accounting.subsampled_gaussian_event(*release) for release in releases]
    return accounting.epsilon_of_event(dp_accounting.ComposedDpEvent(events), delta, accountant)


@dataclasses.dataclass(frozen=True)
class ParallelLedger:
    """Releases from disjoint parts of the records: the largest epsilon counts, not the sum.

    Guarantee: holds if each record was put into its part by a rule that looks at no other
    record (`sampling.independent_parts`); then adding or removing one record changes the input
    of one part only.
    """

    parts: tuple[Union[PrivacyLedger, "ParallelLedger"], ...]

    def epsilon(self, delta: float, accountant: str = "rdp") -> float:
        """The largest epsilon of the parts at `delta`."""
        return max((part.epsilon(delta, accountant) for part in self.parts), default=0.0)

    def delta(self, epsilon: float, accountant: str = "rdp") -> float:
        """The largest delta of the parts at `epsilon`."""
        return max((part.delta(epsilon, accountant) for part in self.parts), default=0.0)

    def all_entries(self) -> tuple[LedgerEntry, ...]:
        """Every entry of every part, in order."""
        return tuple(entry for part in self.parts for entry in part.all_entries())

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"kind": "parallel", "parts": [part.to_dict() for part in self.parts]}


Ledger = PrivacyLedger | ParallelLedger


def ledger_from_dict(data: Mapping[str, Any]) -> Ledger:
    """The inverse of `to_dict`.

    Raises:
        InputError: if the mapping is not a ledger.
    """
    try:
        if data["kind"] == "parallel":
            return ParallelLedger(tuple(ledger_from_dict(part) for part in data["parts"]))
        if data["kind"] == "sequential":
            entries = (
                LedgerEntry(**{**e, "not_covered": tuple(e["not_covered"])})
                for e in data["entries"]
            )
            return PrivacyLedger(tuple(entries))
    except (KeyError, TypeError) as error:
        raise InputError(f"The ledger is damaged: {error!r}.") from error
    raise InputError(f"The ledger's kind must be sequential or parallel, got {data['kind']!r}.")


def compose(ledgers: list[Ledger], members_data: str) -> Ledger:
    """The ledger of several models together.

    Args:
        ledgers: one for each model.
        members_data: "shared" if the models saw the same records (events compose), "disjoint"
            if each record was given to one model by a rule that looks at no other record.

    Raises:
        InputError: on another `members_data`, or "shared" over parallel ledgers.
    """
    if members_data == "disjoint":
        return ParallelLedger(tuple(ledgers))
    if members_data != "shared":
        raise InputError(f"members_data must be shared or disjoint, got {members_data!r}.")
    entries: list[LedgerEntry] = []
    for ledger in ledgers:
        if isinstance(ledger, ParallelLedger):
            raise InputError(
                "members_data=shared needs members trained one by one: a member that is itself "
                "a fusion over disjoint parts has no single sequence of releases."
            )
        entries.extend(ledger.entries)
    return PrivacyLedger(tuple(entries))


def adjacency(ledger: Ledger) -> str:
    """Which data sets count as neighbours: by dp_accounting's names.

    Batches of fixed size do not survive a record added or removed, which would shift them; their
    guarantee is for a record replaced by a blank one that adds nothing. Poisson samples cost the
    same by either, so a ledger that holds both is stated by the latter.
    """
    fixed = any(entry.sampling == "fixed_size" for entry in ledger.all_entries())
    return accounting.BLANK_ADJACENCY if fixed else accounting.ADJACENCY


def epsilon_curve(
    ledger: PrivacyLedger, delta: float, points: int = 40, accountant: str = "rdp"
) -> list[tuple[int, float]]:
    """Epsilon as the steps went by.

    Args:
        ledger: a `PrivacyLedger`.
        delta: float in (0, 1).
        points: int, about as many steps are looked at.
        accountant: "rdp" or "pld".

    Returns:
        Pairs (steps so far, epsilon), from (0, 0) to the end.
    """
    total = sum(entry.steps for entry in ledger.entries)
    curve, done = [(0, 0.0)], 0
    past: list[LedgerEntry] = []
    stride = max(1, total // max(1, points))
    for entry in ledger.entries:
        for steps in [*range(stride, entry.steps, stride), entry.steps]:
            passes = -(-entry.passes * steps // max(1, entry.steps))
            part = dataclasses.replace(entry, steps=steps, passes=passes)
            epsilon = PrivacyLedger((*past, part)).epsilon(delta, accountant)
            curve.append((done + steps, epsilon))
        past.append(entry)
        done += entry.steps
    return curve
