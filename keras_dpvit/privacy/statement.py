"""The privacy statement of a trained model, generated from its ledger."""

import dataclasses
import math
import textwrap
from typing import Any

from keras_dpvit.privacy import accounting
from keras_dpvit.privacy.ledger import (
    Ledger,
    ParallelLedger,
    PrivacyLedger,
    accountants,
    adjacency,
    epsilon_curves,
    selections,
    units,
)
from keras_dpvit.privacy.ledger_entries import LedgerEntry, SelectionEntry
from keras_dpvit.privacy.private_selection import TrialCount

_TUNING_LIMIT = "Hyper-parameters chosen by looking at results on these records: not counted."
_TUNING_REST = (
    "Hyper-parameters chosen by looking at results on these records: not counted, but for the "
    "choice among runs named above."
)

_INVALID = "Not covered by the epsilon below: "

# The unit as the first line names it, and as its adjacency is told, by the ledger's `units`.
_LEVELS = {
    ("record",): ("Example-level", ""),
    ("client",): ("Client-level", " of one client with all its records"),
    ("record", "client"): (
        "Mixed-level",
        " of one person, who is one client with all its records where clients are counted, and "
        "one example where examples are",
    ),
}
_SEVERAL_RECORDS = "Several records about one person: the guarantee is for one record."
_SEVERAL_CLIENTS = "Several clients of one person: the guarantee is for one client."

# True of every training here, whatever the run did.
STANDING_LIMITS = (
    "Held-out images used for validation or testing, and every figure computed from them.",
    _TUNING_LIMIT,
    "Attacks on the rounding of floating-point noise; the generators (Philox) are not "
    "cryptographic.",
    _SEVERAL_RECORDS,
)


def statement(ledger: Ledger, delta: float) -> str:
    """The privacy statement of a ledger, as text of 80 columns."""
    entries = ledger.all_entries()
    if not entries:
        return "No private training is on record: nothing is claimed about this model."
    invalid = invalidations(ledger)
    parts = [_INVALID + " ".join(invalid)] if invalid else []
    parts.append(_heading(ledger, delta))
    parts += [
        _training(i, entry, len(entries)) for i, entry in enumerate(entries, 1) if entry.steps
    ]
    parts += [_selection(begin, chosen, len(entries)) for begin, chosen in selections(ledger)]
    if invalid:
        parts.append(
            "What is protected: the noisy sums that the trainings released; not the final model, "
            "for the reason given first."
        )
    elif math.isfinite(ledger.epsilon(delta)):
        parts.append(
            "What is protected: the final model, every intermediate model, and all that is "
            "computed from them without looking at the records again."
        )
    else:
        parts.append("Nothing is protected: an infinite epsilon promises nothing.")
    limits = "".join(_bullet(line) for line in uncovered(ledger))
    return "\n\n".join(textwrap.fill(p, 80) if "\n" not in p else p for p in parts) + (
        f"\n\nNot covered by epsilon:{limits}\n"
    )


def headline(ledger: Ledger, delta: float) -> str:
    """The statement in two or three lines: what it costs, and what voids that."""
    if not ledger.all_entries():
        return statement(ledger, delta)
    found = epsilons(ledger, delta)
    if math.isinf(found["rdp"]):
        costs = "Epsilon is infinite: nothing is protected."
    else:
        each = ", ".join(f"{format_epsilon(v)} by {name.upper()}" for name, v in found.items())
        costs = f"Epsilon {each} at delta {delta:g}, {_adjacency(ledger)}."
    invalid = invalidations(ledger)
    words = [_INVALID + " ".join(invalid)] if invalid else []
    words += [costs, _large_delta(ledger, delta)]
    return "\n".join(textwrap.fill(part, 80) for part in words if part)


def invalidations(ledger: Ledger) -> list[str]:
    """Lines on what voids the guarantee for the final model; the statement opens with them."""
    return list(
        dict.fromkeys(line for entry in ledger.all_entries() for line in entry.invalidated_by)
    )


def uncovered(ledger: Ledger) -> list[str]:
    """Lines on what epsilon does not count: first what the runs did, then the standing limits."""
    lines = [line for entry in ledger.all_entries() for line in entry.not_covered]
    chosen = bool(selections(ledger))
    standing = [_TUNING_REST if chosen and x == _TUNING_LIMIT else x for x in STANDING_LIMITS]
    if "client" in units(ledger):
        alone = units(ledger) == ("client",)
        standing[-1:] = [*([] if alone else [_SEVERAL_RECORDS]), _SEVERAL_CLIENTS]
    return list(dict.fromkeys([*lines, *standing]))


def epsilons(ledger: Ledger, delta: float) -> dict[str, float]:
    """Epsilon at `delta` by each accountant.

    Where RDP finds more than 100 there is hardly a guarantee, and PLD, whose work grows with
    epsilon, is left out, as it is where it cannot count a choice among runs; an infinite epsilon
    is infinite by both.
    """
    by_rdp = ledger.epsilon(delta, "rdp")
    if 100 < by_rdp < math.inf:
        return {"rdp": by_rdp}
    return {name: ledger.epsilon(delta, name) for name in accountants(ledger)}


def format_epsilon(epsilon: float) -> str:
    """Epsilon rounded up in the third decimal: a printed bound must still be a bound."""
    return "infinite" if math.isinf(epsilon) else f"{math.ceil(epsilon * 1000 - 1e-9) / 1000:.3f}"


def _heading(ledger: Ledger, delta: float) -> str:
    values = epsilons(ledger, delta)
    rows = "".join(
        f"\n    epsilon by {name.upper()}: {format_epsilon(values[name])}" for name in values
    )
    if "pld" not in accountants(ledger):
        rows += "\n    epsilon by PLD: not available, it cannot count a choice among runs"
    lines = (
        f"{_LEVELS[units(ledger)][0]} differential privacy, {_adjacency(ledger)}, delta "
        f"{delta:g}, by {accounting.accountant_version()}:"
    )
    head = textwrap.fill(lines, 80) + rows
    large = _large_delta(ledger, delta)
    if large:
        head += "\n" + textwrap.fill(large, 80)
    if isinstance(ledger, ParallelLedger):
        head += "\n" + textwrap.fill(
            "The models were trained on disjoint parts of the records, each record assigned "
            "independently, so the larger of their epsilons counts.",
            80,
        )
    elif len(ledger.all_entries()) > 1:
        head += "\n" + textwrap.fill(
            f"This is the composition of {len(ledger.all_entries())} trainings on the same "
            "records.",
            80,
        )
    return head


def _adjacency(ledger: Ledger) -> str:
    return f"{adjacency(ledger)} adjacency{_LEVELS[units(ledger)][1]}"


def _large_delta(ledger: Ledger, delta: float) -> str:
    """A warning if delta is so large that a record may be published whole; else empty."""
    counts = [
        e.details["num_examples"] for e in ledger.all_entries() if "num_examples" in e.details
    ]
    if not counts or delta * max(counts) < 1:
        return ""
    counted = "clients" if units(ledger) == ("client",) else "examples"
    return (
        f"Delta {delta:g} is not below 1 over the number of {counted} ({max(counts)}): a mechanism "
        "that publishes one record as it is may have it. State epsilon at a smaller delta."
    )


def _training(number: int, entry: LedgerEntry, total: int) -> str:
    which = f"Training {number} of {total}: " if total > 1 else ""
    if entry.noise_multiplier == 0:
        return f"{which}Training without noise, and so without any guarantee."
    if entry.details.get("release") == "mean":
        return which + _mean(entry)
    if entry.details.get("release") == "head":
        return which + _head(entry)
    if entry.unit == "client":
        return which + _federated(entry)
    text = f"{which}DP-SGD, {entry.steps} steps, {_sampling(entry)}, "
    if not entry.certified:
        return text + _as_published(entry)
    text += f"noise multiplier {entry.noise_multiplier:.6g} for all that a step releases."
    d = entry.details
    if d:
        text += (
            f" Layer clipping: {d['clipping']['name']}. Sensitivity: {d['sensitivity']['name']}; "
            f"gradient noise multiplier {d['gradient_noise_multiplier']:.6g}"
        )
        if d["count_noise_stddev"]:
            text += f", noise of {d['count_noise_stddev']:.6g} on the count that moves it"
        if d.get("metrics_noise_multiplier"):
            text += (
                f", {d['metrics_noise_multiplier']:.6g} on the sums of losses and right answers "
                "that each step releases too"
            )
        text += f". Planned for {d['num_examples']} records in batches of {d['batch_size']}."
        if d.get("microbatch_size", 1) > 1:
            text += (
                f" Mean gradients of about {d['microbatch_size']} records are clipped together, "
                "which doubles the sensitivity; the noise multiplier above is net of that."
            )
    return text + _seed(entry)


def _federated(entry: LedgerEntry) -> str:
    """A training whose every step sums clipped updates of clients."""
    text = (
        f"DP-FedAvg, {entry.steps} rounds, each client in each round with probability "
        f"{entry.sampling_probability:.6g} independently (Poisson sampling by this package), noise "
        f"multiplier {entry.noise_multiplier:.6g} for all that a round releases."
    )
    d = entry.details
    if d:
        text += (
            f" Clipping of updates: {d['clipping']['name']}. Sensitivity: "
            f"{d['sensitivity']['name']}; noise multiplier of updates "
            f"{d['gradient_noise_multiplier']:.6g}"
        )
        if d["count_noise_stddev"]:
            text += f", noise of {d['count_noise_stddev']:.6g} on the count that moves it"
        text += (
            f". Planned for {d['num_examples']} clients, of whom {d['batch_size']} are expected "
            "in a round."
        )
        if d["seed_fixed"]:
            text += " The noise came from a fixed seed: privacy rests on its secrecy."
    return text


def _mean(entry: LedgerEntry) -> str:
    text = (
        "the mean of a feature vector over all records, each of bounded length, released once with "
        f"noise multiplier {entry.noise_multiplier:.6g}, over the public number of records "
        f"{entry.details['num_examples']}."
    )
    return text + _seed(entry)


def _head(entry: LedgerEntry) -> str:
    d = entry.details
    sums = "one sum" if d["residual_sums"] == 1 else f"{d['residual_sums']} sums"
    text = (
        f"a linear head over frozen features ({d['solver']}, Mehta et al. 2023), solved from the "
        f"features' covariance matrix and {sums} of residuals over all records, what each record "
        f"adds being bounded, noise multiplier {entry.noise_multiplier:.6g} for all of them "
        f"together: {d['covariance_noise_multiplier']:.6g} on the matrix, "
        f"{d['residual_noise_multiplier']:.6g} on each sum. Planned for {d['num_examples']} "
        "records."
    )
    return text + _seed(entry)


def _seed(entry: LedgerEntry) -> str:
    if not entry.details.get("seed_fixed"):
        return ""
    return " The noise came from a fixed seed: privacy rests on its secrecy."


def _selection(begin: int, chosen: SelectionEntry, total: int) -> str:
    last = begin + len(chosen.all_entries())
    which = f"Training {last}" if last == begin + 1 else f"Trainings {begin + 1} to {last}"
    count = TrialCount(chosen.mean, chosen.shape)
    return (
        f"{which if total > 1 else 'This training'} was chosen as the best of a random number of "
        f"runs ({count.name}, mean {count.mean:g}), and epsilon counts the choice by repeat and "
        "select (Papernot and Steinke 2022). Assumed: the number was drawn beforehand; each run's "
        "settings were drawn by chance, whatever the other runs gave, at the same cost; no run was "
        "scored on the records; nothing of the other runs is released."
    )


def _sampling(entry: LedgerEntry) -> str:
    if entry.sampling == "poisson":
        return (
            f"each record in each step with probability {entry.sampling_probability:.6g} "
            "independently (Poisson sampling by this package)"
        )
    if entry.details.get("sampling") == "external":
        return (
            f"{entry.passes} passes over batches made outside of this package, not amplified; "
            "assumed: a pass holds a record once at most, and no record decides where others go"
        )
    return f"{entry.passes} passes in shuffled batches of fixed size, not amplified"


def _as_published(entry: LedgerEntry) -> str:
    text = (
        "by equations 9 to 13 as published: the threshold is computed from the record that it "
        "should bound, so nothing bounds what a record adds and epsilon is infinite."
    )
    if not entry.details:
        return text
    delta = entry.details["delta"]
    nominal = PrivacyLedger((dataclasses.replace(entry, certified=True),)).epsilon(delta)
    return text + (
        f" The usual accounting of its noise multiplier {entry.noise_multiplier:.6g} would print "
        f"epsilon {format_epsilon(nominal)} at delta {delta:g}: nominal, not a guarantee."
    )


def _bullet(line: str) -> str:
    return "\n" + textwrap.fill(line, 80, initial_indent="  * ", subsequent_indent="    ")


def to_dict(ledger: Ledger, delta: float) -> dict[str, Any]:
    """The statement as JSON-able data.

    Returns:
        epsilon by accountant, delta, adjacency, the accounting library, the ledger, what is not
        covered; "epsilon_curves", epsilon by RDP as the steps went by, as [step, epsilon], for each
        sequence of trainings (several where they were on disjoint parts of the records).
    """
    return {
        "epsilon": epsilons(ledger, delta),
        "epsilon_curves": [[list(p) for p in curve] for curve in epsilon_curves(ledger, delta)],
        "delta": delta,
        "adjacency": adjacency(ledger),
        "unit": " and ".join(units(ledger)),
        "accountant": accounting.accountant_version(),
        "ledger": ledger.to_dict(),
        "invalidated_by": invalidations(ledger),
        "not_covered": uncovered(ledger),
    }
