"""Ledgers of what was released at what cost: every epsilon is computed from one."""

import dataclasses
import functools
import json
import math
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Union

import numpy as np

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import accounting
from keras_dpvit.privacy.ledger_entries import (
    UNITS,
    Cost,
    Entry,
    LedgerEntry,
    SelectionEntry,
    entry_from_dict,
    event_of_costs,
    is_release,
    rdp_of_cost,
)
from keras_dpvit.privacy.private_selection import TrialCount

# A bound stays one when it is raised; this much is printed as 0.001.
_LEAST_EPSILON = 1e-9


@dataclasses.dataclass(frozen=True)
class PrivacyLedger:
    """Releases from the same records, one after another: their events compose.

    Guarantee: `epsilon(delta)` bounds the whole sequence, every intermediate model included,
    for data sets that differ as `adjacency` says, given that each entry says truly how its
    records were sampled and noised.

    Example:
        >>> plan = kd.PrivacyPlan(1000, 100, epochs=2, delta=1e-4, noise_multiplier=1.0)
        >>> ledger = kd.PrivacyLedger(plan.entries(10))  # ten of its twenty steps
        >>> ledger.epsilon(1e-4) < plan.epsilon()
        True
    """

    entries: tuple[Entry, ...] = ()

    def event(self) -> Any:
        """The composed dp_accounting event."""
        return event_of_costs(self.costs())

    def epsilon(self, delta: float, accountant: str = "rdp") -> float:
        """Epsilon at `delta` by the named accountant; 0 for an empty ledger.

        Raises:
            InputError: if the accountant cannot count the ledger, see `accountants`, or `delta`
                is out of range.
        """
        if not self.entries:
            return 0.0
        _check_accountant(self, accountant)
        return _epsilon(self.costs(), _validate.open_unit_interval(delta=delta), accountant)

    def delta(self, epsilon: float, accountant: str = "rdp") -> float:
        """Delta at `epsilon` by the named accountant; 0 for an empty ledger.

        Raises:
            InputError: if the accountant cannot count the ledger, see `accountants`.
        """
        if not self.entries:
            return 0.0
        _check_accountant(self, accountant)
        return accounting.delta_of_event(self.event(), epsilon, accountant)

    def costs(self) -> tuple[Cost, ...]:
        """The cost of each entry; ledgers of equal costs have equal epsilons."""
        return tuple(entry.cost for entry in self.entries)

    def compose_selection(self, mean: float, shape: float = 1.0) -> "PrivacyLedger":
        """The ledger of the best of a random number of runs, each like the one on this ledger.

        Guarantee: see `SelectionEntry`. `random_trials` draws the number and sees to most
        of what the guarantee asks for.

        Args:
            mean: float, the mean number of runs, see `TrialCount`.
            shape: float, of the number's distribution.
        """
        count = TrialCount(mean, shape)
        if not self.entries:
            return self
        chosen = SelectionEntry(self.entries, count.mean, count.shape, secrets.token_hex(16))
        return PrivacyLedger((chosen,))

    def all_entries(self) -> tuple[LedgerEntry, ...]:
        """Every entry, in order; of a choice among runs those of the run that was chosen."""
        return tuple(e for entry in self.entries for e in entry.all_entries())

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"kind": "sequential", "entries": [entry.to_dict() for entry in self.entries]}


@functools.lru_cache(maxsize=1024)
def _epsilon(costs: tuple[Cost, ...], delta: float, accountant: str) -> float:
    # Statement, card and table ask for the same number, and an accountant takes its time.
    if accountant == "rdp":  # Renyi bounds add up: a curve needs those of a step once
        rdp = np.sum([rdp_of_cost(cost) for cost in costs], axis=0)
        epsilon = accounting.epsilon_of_rdp(rdp, delta)
    else:
        epsilon = accounting.epsilon_of_event(event_of_costs(costs), delta, accountant)
    # What was released costs something: 0 would be read as "nothing was".
    return max(epsilon, _LEAST_EPSILON) if any(map(is_release, costs)) else epsilon


def accountants(ledger: "Ledger") -> tuple[str, ...]:
    """The accountants that can count a ledger: PLD cannot count a choice among runs."""
    return tuple(a for a in accounting.ACCOUNTANTS if a == "rdp" or not selections(ledger))


def epsilon_by(ledger: "Ledger", delta: float, accountant: str) -> float:
    """Epsilon by the wanted accountant where it can count the ledger, else by RDP.

    PLD's work grows with epsilon; where RDP finds more than 100 there is hardly a guarantee, and
    PLD is spared.
    """
    by_rdp = ledger.epsilon(delta, "rdp")
    if accountant not in accountants(ledger) or 100 < by_rdp < math.inf:
        return by_rdp
    return ledger.epsilon(delta, accountant)


def _check_accountant(ledger: "Ledger", accountant: str) -> None:
    if accountant in accounting.ACCOUNTANTS and accountant not in accountants(ledger):
        raise InputError(
            f"accountant must be rdp where a choice among runs is counted: {accountant} is not "
            "available for it."
        )


def selections(ledger: "Ledger") -> list[tuple[int, SelectionEntry]]:
    """Every choice among runs, with the number in `all_entries` of the first entry it holds."""
    found: list[tuple[int, SelectionEntry]] = []

    def look(part: Any, begin: int) -> None:
        if isinstance(part, LedgerEntry):
            return
        if isinstance(part, SelectionEntry):
            found.append((begin, part))
        for child in part.parts if isinstance(part, ParallelLedger) else part.entries:
            look(child, begin)
            begin += len(child.all_entries())

    look(ledger, 0)
    return found


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

    def costs(self) -> tuple[Cost, ...]:
        """The costs of each part; ledgers of equal costs have equal epsilons."""
        return tuple(part.costs() for part in self.parts)

    def compose_selection(self, mean: float, shape: float = 1.0) -> "ParallelLedger":
        """As `PrivacyLedger.compose_selection`: a record is in one part of each run."""
        return ParallelLedger(tuple(part.compose_selection(mean, shape) for part in self.parts))

    def all_entries(self) -> tuple[LedgerEntry, ...]:
        """Every entry of every part, in order."""
        return tuple(entry for part in self.parts for entry in part.all_entries())

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"kind": "parallel", "parts": [part.to_dict() for part in self.parts]}


Ledger = PrivacyLedger | ParallelLedger

_DAMAGED = "The ledger is damaged: "


def ledger_from_dict(data: Mapping[str, Any]) -> Ledger:
    """The inverse of `to_dict`.

    Raises:
        InputError: if the mapping is not a ledger.
    """
    try:
        if data["kind"] == "parallel":
            return ParallelLedger(tuple(ledger_from_dict(part) for part in data["parts"]))
        if data["kind"] == "sequential":
            return PrivacyLedger(tuple(entry_from_dict(entry) for entry in data["entries"]))
    except InputError as error:
        told = str(error).removeprefix(_DAMAGED).rstrip(".")
        raise InputError(f"{_DAMAGED}{told}.") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{_DAMAGED}{error!r}.") from error
    raise InputError(f"The ledger's kind must be sequential or parallel, got {data['kind']!r}.")


def compose(ledgers: list[Ledger], members_data: str) -> Ledger:
    """The ledger of several models together.

    Guarantee: of shared records, every release counts once. Entries that are equal with a release
    id and all, as those of members that started from one trained model are, record one release,
    which costs nothing when it is told again; whatever differs in anything, or has no id, counts.
    One of the ledgers may be over disjoint parts: what the others released counts for each part.

    Args:
        ledgers: one for each model.
        members_data: "shared" if the models saw the same records (events compose), "disjoint"
            if each record was given to one model by a rule that looks at no other record.

    Raises:
        InputError: on another `members_data`, or "shared" over several parallel ledgers.
    """
    if members_data == "disjoint":
        return ParallelLedger(tuple(ledgers))
    if members_data != "shared":
        raise InputError(f"members_data must be shared or disjoint, got {members_data!r}.")
    entries: list[Entry] = []
    over_parts: list[ParallelLedger] = []
    for ledger in ledgers:
        if isinstance(ledger, PrivacyLedger):
            entries.extend(ledger.entries)
        elif ledger not in over_parts:
            over_parts.append(ledger)
    together = PrivacyLedger(_distinct(entries))
    if not over_parts:
        return together
    if len(over_parts) > 1:
        raise InputError(
            "members_data=shared needs members trained one by one: several members that are "
            "fusions over disjoint parts have no single sequence of releases."
        )
    parts = over_parts[0].parts
    return ParallelLedger(tuple(compose([part, together], "shared") for part in parts))


def _distinct(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """The entries without the second mention of a release that has an id."""
    kept: dict[str, Entry] = {}
    for index, entry in enumerate(entries):
        key = json.dumps(entry.to_dict(), sort_keys=True) if entry.release_id else str(index)
        kept.setdefault(key, entry)
    return tuple(kept.values())


def adjacency(ledger: Ledger) -> str:
    """The relation under which data sets are neighbours, by dp_accounting's name.

    Batches of fixed size do not survive a record added or removed, which would shift them; their
    guarantee is for a record replaced by a blank one that adds nothing. Poisson samples cost the
    same by either, so a ledger that holds both is stated by the latter.
    """
    fixed = any(entry.sampling == "fixed_size" for entry in ledger.all_entries())
    return accounting.BLANK_ADJACENCY if fixed else accounting.ADJACENCY


def units(ledger: Ledger) -> tuple[str, ...]:
    """The units that a ledger's trainings protect, in the order of `ledger_entries.UNITS`.

    Where both are on record, epsilon is of a person who is one client, with all its records, of
    the trainings that count clients, and one record of the others: both costs compose.
    """
    found = {entry.unit for entry in ledger.all_entries() if entry.steps}
    return tuple(unit for unit in UNITS if unit in found) or ("record",)


def epsilon_curve(
    ledger: PrivacyLedger, delta: float, points: int = 40, accountant: str = "rdp"
) -> list[tuple[int, float]]:
    """Epsilon as the steps went by.

    A choice among runs has its whole cost from its first step on.

    Args:
        ledger: a `PrivacyLedger`.
        delta: float in (0, 1).
        points: int, number of steps looked at, at even distances.
        accountant: "rdp" or "pld"; the latter takes seconds for each point.

    Returns:
        Pairs (steps so far, epsilon), from (0, 0) to the end.
    """
    total, points = sum(entry.steps for entry in ledger.entries), max(1, points)
    grid = sorted({math.ceil(total * point / points) for point in range(points + 1)})
    return [(step, epsilon_by(_until(ledger, step), delta, accountant)) for step in grid]


def _until(ledger: PrivacyLedger, step: int) -> PrivacyLedger:
    """The ledger after `step` steps."""
    past: list[Entry] = []
    for entry in ledger.entries:
        if step <= 0:
            break
        if isinstance(entry, LedgerEntry) and step < entry.steps:
            past.append(entry.first(step))
        else:
            past.append(entry)
        step -= entry.steps
    return PrivacyLedger(tuple(past))


def epsilon_curves(
    ledger: Ledger, delta: float, points: int = 40, accountant: str = "rdp"
) -> list[list[tuple[int, float]]]:
    """An `epsilon_curve` for each sequence of releases: several where parts are disjoint."""
    if isinstance(ledger, ParallelLedger):
        parts = (epsilon_curves(part, delta, points, accountant) for part in ledger.parts)
        return [curve for part in parts for curve in part]
    return [epsilon_curve(ledger, delta, points, accountant)]
