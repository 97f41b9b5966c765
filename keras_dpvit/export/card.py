"""privacy_card.json: what an export may claim, machine-readable."""

import json
import logging
import math
import os
import pathlib
import re
from typing import Any

import keras

from keras_dpvit import _files
from keras_dpvit._files import CARD_NAME
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import statement
from keras_dpvit.privacy.ledger import Ledger, ledger_from_dict
from keras_dpvit.version import __version__

_CARD_FORMAT = 1


def privacy_card(
    model: Any, *, dataset: dict[str, Any] | None = None, delta: float | None = None
) -> dict[str, Any]:
    """The privacy card of a model.

    Args:
        model: a classifier or `FusedClassifier` with a privacy ledger.
        dataset: name and size of the training data, as the card shall show them.
        delta: float in (0, 1); None takes the plan's.

    Returns:
        A JSON-able dict: epsilon by each accountant, delta, adjacency, sampling, mechanism (the
        ledger), accountant and version, data set, statement, and what is not covered.
    """
    return {
        "format": _CARD_FORMAT,
        "model": type(model).__name__,
        "package": f"keras_dpvit {__version__}",
        "keras": keras.__version__,
        "dataset": dataset or {},
        **claims(model.privacy_ledger, model.privacy_delta(delta)),
    }


def lack_of_protection(model: Any) -> str | None:
    """A line on why an export of the model protects nobody, or None.

    A model that was never trained has nothing to protect; one without a ledger claims nothing.
    """
    ledger = getattr(model, "privacy_ledger", None)
    if ledger is None or not math.isinf(ledger.epsilon(model.privacy_delta(None))):
        return None
    return (
        "The model's epsilon is infinite: nothing protects the records that it was trained on from "
        "those who get this file. A training compiled with kd.DPKerasAdamOptimizer(plan) is "
        "private; its card says so."
    )


def warn_if_unprotected(model: Any) -> None:
    """Logs `lack_of_protection` as a warning."""
    line = lack_of_protection(model)
    if line is not None:
        logging.getLogger("keras_dpvit").warning(line)


def claims(ledger: Ledger, delta: float) -> dict[str, Any]:
    """The part of a card that follows from the ledger alone: all that it claims."""
    entries = ledger.all_entries()
    return {
        **statement.to_dict(ledger, delta),
        "sampling": sorted({entry.sampling for entry in entries}),
        "mechanism": [
            {
                "steps": entry.steps,
                "noise_multiplier": entry.noise_multiplier,
                "sampling_probability": entry.sampling_probability,
                **entry.details,
            }
            for entry in entries
        ],
        "statement": statement.statement(ledger, delta),
    }


def contradictions(card: dict[str, Any]) -> list[str]:
    """The entries of a card that are missing or do not follow from the ledger it holds.

    The numbers that the card claims are worked out again from its ledger by dp_accounting; epsilon
    may differ by 1e-6 of its size, as between versions. Of the texts, which change from version to
    version, the numbers and the run's own limits are compared.

    Args:
        card: a card as read from its file.

    Returns:
        Names of entries, none if the card is consistent.
    """
    try:
        ledger = ledger_from_dict(_files.from_jsonable(card["ledger"]))
        expected = claims(ledger, card["delta"])
    except (InputError, KeyError, TypeError, ValueError):
        return ["ledger"]
    written = json.loads(json.dumps(_files.jsonable(expected)))
    if not _close(card.get("epsilon"), written["epsilon"]):
        return ["epsilon"]
    exact = ("mechanism", "adjacency", "sampling")
    wrong = [name for name in exact if card.get(name) != written[name]]
    own = {line for entry in ledger.all_entries() for line in entry.not_covered}
    if not isinstance(card.get("not_covered"), list) or not own <= set(card["not_covered"]):
        wrong.append("not_covered")
    if _printed(card.get("statement")) != _printed(expected["statement"]):
        wrong.append("statement")
    return wrong


def is_ledger_of(card: dict[str, Any], ledger: Ledger) -> bool:
    """True if a card, as read from its file, holds this ledger."""
    return bool(card.get("ledger") == json.loads(json.dumps(_files.jsonable(ledger.to_dict()))))


def write_privacy_card(card: dict[str, Any], directory: str | os.PathLike[str]) -> pathlib.Path:
    """Writes `privacy_card.json` into a directory; an infinite epsilon becomes "infinite"."""
    path = pathlib.Path(directory, CARD_NAME)
    _files.write_json(path, card, indent=2, nan_as_none=False)
    return path


def _close(found: Any, expected: dict[str, Any]) -> bool:
    """True if epsilons agree, each a number or "infinite"."""
    if not isinstance(found, dict) or set(found) != set(expected):
        return False
    for name, value in expected.items():
        numbers = [isinstance(x, (int, float)) for x in (found[name], value)]
        if all(numbers) and not math.isclose(found[name], value, rel_tol=1e-6, abs_tol=1e-12):
            return False
        if not all(numbers) and found[name] != value:
            return False
    return True


def _printed(text: Any) -> list[str]:
    """The numbers and names that a statement's heading prints."""
    line = " ".join(str(text).split())
    heading = re.findall(r"differential privacy, (\w+) adjacency, delta ([\d.e+-]+),", line)
    epsilons = re.findall(r"epsilon by \w+: \S+", line)
    return [*(part for found in heading for part in found), *epsilons]
