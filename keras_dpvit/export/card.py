"""privacy_card.json: what an export may claim, machine-readable."""

import json
import math
import os
import pathlib
from typing import Any

import keras

from keras_dpvit.privacy import statement
from keras_dpvit.version import __version__

CARD_NAME = "privacy_card.json"
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
    delta = model.privacy_delta(delta)
    ledger = model.privacy_ledger
    entries = ledger.all_entries()
    return {
        "format": _CARD_FORMAT,
        "model": type(model).__name__,
        "package": f"keras_dpvit {__version__}",
        "keras": keras.__version__,
        "dataset": dataset or {},
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


def write_privacy_card(card: dict[str, Any], directory: str | os.PathLike[str]) -> pathlib.Path:
    """Writes `privacy_card.json` into a directory; an infinite epsilon becomes "infinite"."""
    path = pathlib.Path(directory, CARD_NAME)
    path.write_text(json.dumps(_without_infinity(card), indent=2, allow_nan=False) + "\n")
    return path


def _without_infinity(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinity(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_infinity(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "infinite"
    return value
