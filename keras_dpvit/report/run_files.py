"""Files that trainers.train wrote into a version directory, read and checked."""

import dataclasses
import json
import numbers
import os
import pathlib
from typing import Any

from keras_dpvit import _reasons
from keras_dpvit._files import CARD_NAME, KERAS_NAME, RUN_NAME
from keras_dpvit.datasets.image_data import ImageData
from keras_dpvit.errors import InputError
from keras_dpvit.privacy.ledger import Ledger, ledger_from_dict

# Named here once more: the export room, which writes these, loads TensorFlow.
PROVENANCE_NAME = "assets.extra/provenance.json"


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """The readable part of a run: all but the model.

    Attributes:
        directory: the version directory; of a model by itself, its file.
        record: run.json.
        card: privacy_card.json.
        provenance: that of the SavedModel; empty where there is none.
    """

    directory: pathlib.Path
    record: dict[str, Any]
    card: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def flags(self) -> dict[str, Any]:
        """The training program's flags, but for those that stay on its machine."""
        flags: dict[str, Any] = self.record["flags"]
        return flags

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names, in the order of the model's classes."""
        return tuple(self.card["dataset"]["class_names"])


@dataclasses.dataclass(frozen=True)
class Run(RunFiles):
    """A run with its model.

    Attributes:
        model: a `FusedClassifier`, or a single classifier that returns logits.
    """

    model: Any

    @property
    def members(self) -> list[Any]:
        """The classifiers, in order; a single model is its own only member."""
        return list(getattr(self.model, "members", [self.model]))

    @property
    def member_names(self) -> list[str]:
        """The members' names on the page."""
        if len(self.members) == 1:
            return ["model"]
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        return [
            f"member {letters[i] if i < len(letters) else i + 1}" for i in range(len(self.members))
        ]

    @property
    def ledger(self) -> Ledger:
        """The ledger of the model; the card's is the same."""
        ledger: Ledger = self.model.privacy_ledger
        return ledger

    @property
    def delta(self) -> float:
        """The delta that the card states epsilon at."""
        return float(self.card["delta"])


def read_files(directory: str | os.PathLike[str]) -> RunFiles:
    """Reads a run's JSON files.

    Args:
        directory: a version directory of trainers.train, or a base directory whose newest version
            is taken.

    Raises:
        InputError: if there is no run, or one of its files is missing or damaged.
    """
    path = _version_directory(pathlib.Path(directory))
    record, card = _read_json(path / RUN_NAME), _read_json(path / CARD_NAME)
    if not (path / KERAS_NAME).is_file():
        raise InputError(f"run must hold {KERAS_NAME}; {str(path)!r} does not.")
    if not isinstance(record.get("flags"), dict) or not _are_histories(record.get("histories")):
        raise InputError(
            f"{path / RUN_NAME} must hold flags, and histories as lists of numbers by name."
        )
    try:
        names = card["dataset"]["class_names"]
        sound = all(isinstance(name, str) for name in names) and 0 < float(card["delta"]) < 1
        ledger_from_dict(card["ledger"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path / CARD_NAME} is damaged: {error!r}.") from error
    if not sound:
        raise InputError(f"{path / CARD_NAME} is damaged: its class names or delta cannot be.")
    has_provenance = (path / PROVENANCE_NAME).is_file()
    provenance = _read_json(path / PROVENANCE_NAME) if has_provenance else {}
    return RunFiles(path, record, card, provenance)


def check_classes(files: RunFiles, class_names: tuple[str, ...]) -> None:
    """Raises `InputError` unless these are the classes that the run was trained on, in order."""
    if class_names != files.class_names:
        raise InputError(
            "data_dir must hold the classes that the run was trained on "
            f"({_few(files.class_names)}), got {_few(class_names)}."
        )


def load(files: RunFiles) -> Run:
    """Loads the model of a run.

    Raises:
        InputError: if it cannot be loaded, is not of this package, or its ledger is not the
            one on the card: then one of the files belongs to another run.
    """
    from keras_dpvit.loading import load_model

    path = files.directory / KERAS_NAME
    try:
        model = load_model(path)
    except Exception as error:
        raise InputError(f"{path} cannot be loaded: {_reasons.reason(error)}.") from error
    if not hasattr(model, "privacy_ledger"):
        raise InputError(f"{path} must hold a model of this package, not {type(model).__name__}.")
    if model.output_shape[-1] != len(files.class_names):
        raise InputError(f"{path} and {CARD_NAME} beside it disagree on the number of classes.")
    if _costs(model.privacy_ledger) != _costs(ledger_from_dict(files.card["ledger"])):
        raise InputError(f"{path} and {CARD_NAME} beside it disagree on what the training cost.")
    return Run(files.directory, files.record, files.card, files.provenance, model)


def of_model(path: str | os.PathLike[str], model: Any, data: ImageData, delta: float | None) -> Run:
    """A model that no program of ours trained, with what its ledger says, as a run.

    Args:
        path: its `.keras` file.
        model: as loaded from it; it has a ledger and returns logits.
        data: what it was trained on; whoever calls this says so, and the page shows it.
        delta: float in (0, 1), or None for the one that the model was planned for.

    Raises:
        InputError: if the model has no ledger, or not as many classes as the data.
    """
    if not hasattr(model, "privacy_ledger"):
        raise InputError(
            f"model must have a privacy ledger; {str(path)!r} holds a {type(model).__name__}: "
            "kd.make_private gives it one."
        )
    if model.output_shape[-1] != len(data.class_names):
        raise InputError(
            f"model must have the classes of the data ({len(data.class_names)}), "
            f"{str(path)!r} has {model.output_shape[-1]}."
        )
    dataset = {"class_names": list(data.class_names)}
    card = {"dataset": dataset, "delta": model.privacy_delta(delta)}
    record: dict[str, Any] = {"flags": {}, "histories": []}
    return Run(pathlib.Path(path), record, card, {}, model)


def _few(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown}, ... {len(names)} in all" if len(names) > 5 else shown


def _costs(ledger: Ledger) -> list[Any]:
    return [type(ledger).__name__, ledger.costs()]


def _version_directory(path: pathlib.Path) -> pathlib.Path:
    if not path.is_dir():
        state = "is not a directory" if path.exists() else "does not exist"
        raise InputError(
            f"run must be a directory written by trainers.train; {str(path)!r} {state}."
        )
    if (path / RUN_NAME).is_file():
        return path
    versions = [p for p in path.glob("*") if p.name.isdecimal() and (p / RUN_NAME).is_file()]
    if not versions:
        raise InputError(
            f"run must hold {RUN_NAME}, or versions that do, as trainers.train writes them; "
            f"{str(path)!r} does not."
        )
    return max(versions, key=lambda version: int(version.name))


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"run must hold {path.name}; {str(path.parent)!r} does not.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {_reasons.reason(error)}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, got a {type(content).__name__}.")
    return content


def _are_histories(histories: Any) -> bool:
    """True if these are, for each member, lists of numbers by name."""

    def is_curve(values: Any) -> bool:
        return isinstance(values, list) and all(isinstance(v, numbers.Real) for v in values)

    return isinstance(histories, list) and all(
        isinstance(history, dict) and all(is_curve(values) for values in history.values())
        for history in histories
    )
