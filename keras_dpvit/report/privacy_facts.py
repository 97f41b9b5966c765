"""Facts from a run's ledgers: epsilon over the steps, and the mechanism of each training."""

import dataclasses
from typing import Any

from keras_dpvit.privacy import statement
from keras_dpvit.privacy.ledger import PrivacyLedger, epsilon_curve, epsilon_curves
from keras_dpvit.privacy.ledger_entries import LedgerEntry
from keras_dpvit.report.run_files import Run

# What a noise schedule changes from one entry to the next within one training.
_SCHEDULED = (
    "noise_multiplier",
    "gradient_noise_multiplier",
    "count_noise_stddev",
    "metrics_noise_multiplier",
)
_POINTS = {"rdp": 40, "pld": 10}  # of a curve; PLD takes a second for each


def privacy_facts(run: Run) -> dict[str, Any]:
    """The statement as data, with curves, budget and trainings.

    Returns:
        what `statement.to_dict` gives, and "statement"; "budget", see `budget`; "curves", see
        `curves`; "members", each with "name" and "epsilon" by accountant; "trainings", see
        `trainings`.
    """
    delta = run.delta
    members = zip(run.member_names, run.members, strict=True)
    return {
        **statement.to_dict(run.ledger, delta),
        "statement": statement.statement(run.ledger, delta),
        "budget": budget(run),
        "curves": curves(run),
        "members": [
            {"name": name, "epsilon": statement.epsilons(member.privacy_ledger, delta)}
            for name, member in members
        ],
        "trainings": trainings(run),
    }


def budget(run: Run) -> dict[str, Any] | None:
    """The run's own --epsilon and whose epsilon it bounds; None if it was for another delta."""
    epsilon, delta = run.flags.get("epsilon"), run.flags.get("delta")
    if not isinstance(epsilon, (int, float)) or delta != run.delta:
        return None
    return {"epsilon": float(epsilon), "accountant": run.flags.get("accountant", "rdp")}


def curves(run: Run) -> list[dict[str, Any]]:
    """Epsilon as the steps went by: of the members, by their own steps, and of all together.

    It is by the budget's accountant, RDP where there is no budget. Members on disjoint records
    have no curve together: the largest counts. Members with one and the same curve share it.

    Returns:
        for each curve "name", "members" (names; empty for all together), and "points" as
        [step, epsilon].
    """
    found: list[dict[str, Any]] = []
    accountant = (budget(run) or {}).get("accountant", "rdp")
    how = {"delta": run.delta, "points": _POINTS[accountant], "accountant": accountant}
    for name, member in zip(run.member_names, run.members, strict=True):
        for points in epsilon_curves(member.privacy_ledger, **how):
            same = [curve for curve in found if curve["points"] == [list(p) for p in points]]
            if same:
                same[0]["members"].append(name)
            else:
                found.append({"members": [name], "points": [list(p) for p in points]})
    for curve in found:
        curve["name"] = _names_together(curve["members"], len(run.members))
    if len(run.members) > 1 and isinstance(run.ledger, PrivacyLedger):
        points = epsilon_curve(run.ledger, **how)
        found.append({"members": [], "points": [list(p) for p in points], "name": "together"})
    return found


def _names_together(names: list[str], total: int) -> str:
    if len(names) == 1:
        return names[0]
    if len(names) == total:
        return "each member"
    return "members " + ", ".join(name.removeprefix("member ") for name in names)


def trainings(run: Run) -> list[dict[str, Any]]:
    """The mechanism of each training; members with the same one share an item.

    Returns:
        for each "members", names; "entry", the ledger's entry (of a noise schedule the first, with
        the steps of all); and "last", of a noise schedule the last entry, else None.
    """
    found: list[dict[str, Any]] = []
    for name, member in zip(run.member_names, run.members, strict=True):
        for entries in _by_training(member.privacy_ledger.all_entries()):
            steps = sum(entry.steps for entry in entries)
            item = {
                "entry": _mechanism(dataclasses.replace(entries[0], steps=steps)),
                "last": _mechanism(entries[-1]) if len(entries) > 1 else None,
            }
            same = [other for other in found if {**item, "members": other["members"]} == other]
            if same and name not in same[0]["members"]:
                same[0]["members"].append(name)
            else:
                found.append({"members": [name], **item})
    return found


def _by_training(entries: tuple[LedgerEntry, ...]) -> list[list[LedgerEntry]]:
    """Entries of one noise schedule together, every other one alone."""
    found: list[list[LedgerEntry]] = []
    for entry in entries:
        schedule = entry.details.get("noise_schedule", {}).get("name", "constant")
        if schedule != "constant" and found and _unscheduled(found[-1][-1]) == _unscheduled(entry):
            found[-1].append(entry)
        else:
            found.append([entry])
    return found


def _unscheduled(entry: LedgerEntry) -> dict[str, Any]:
    plain = entry.to_dict()
    details = {k: 0 if k in _SCHEDULED else v for k, v in plain["details"].items()}
    return {**plain, "steps": 0, "passes": 0, "noise_multiplier": 0, "details": details}


def _mechanism(entry: LedgerEntry) -> dict[str, Any]:
    """The entry without the id that no other training has."""
    return {key: value for key, value in entry.to_dict().items() if key != "release_id"}
