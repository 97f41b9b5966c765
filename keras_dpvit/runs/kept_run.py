"""A run of several trainings on disk, so that the same command resumes it."""

import csv
import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_dpvit import _files
from keras_dpvit._types import Array
from keras_dpvit.errors import InputError
from keras_dpvit.training.initial_weights import load_initial_weights

_SETTINGS = "run_settings.json"
_PARTS = "members_of_records.npy"
_CURVES = "curves.csv"
_CENTRED = "centred.weights.h5"
_ABSENT = "NA"  # as CSVLogger writes it


class KeptRun:
    """The directory that a run is kept in while it lasts.

    Each member has a sub-directory with its training's checkpoint (see `Checkpoint`) and its
    training curves. The files hold weights and, where members have disjoint records, whose record
    is whose; no key and no picture.

    Args:
        directory: made if missing.
        flags: JSON-able, what the run was started with.

    Raises:
        InputError: if the directory cannot be written, or holds a run with other flags.
    """

    def __init__(self, directory: str, flags: dict[str, Any]) -> None:
        self._directory = _files.make_directory(directory, "checkpoint_dir")
        path = self._directory / _SETTINGS
        if not path.exists():
            _files.write_json(path, flags)
            return
        kept = json.loads(path.read_text("utf-8"))
        other = [name for name, value in flags.items() if kept.get(name) != value]
        if other:
            name = other[0]
            raise InputError(
                f"checkpoint_dir={directory!r} holds a run with --{name}={kept.get(name)}, not "
                f"{flags[name]}: give the same flags to resume it, or another directory."
            )

    def parts(self, draw: Callable[[], Array], num_records: int) -> Array:
        """The member of each record: as drawn by `draw` at first, as kept from then on.

        Raises:
            InputError: if the records are not as many as they were.
        """
        path = self._directory / _PARTS
        if not path.exists():
            content = io.BytesIO()
            np.save(content, draw())
            _files.write_whole(path, content.getvalue())
        parts: Array = np.load(path)
        if len(parts) != num_records:
            raise InputError("checkpoint_dir holds a run over other records.")
        return parts

    def member(self, index: int) -> "KeptMember":
        """The place of one member."""
        directory = self._directory / f"member_{index + 1}"
        directory.mkdir(exist_ok=True)
        return KeptMember(directory)


@dataclasses.dataclass(frozen=True)
class KeptMember:
    """The place of one member's training.

    Attributes:
        directory: for `fit(..., checkpoint_dir=)`.
    """

    directory: pathlib.Path

    def centred(self, model: Any, center: Callable[[], None]) -> None:
        """Centres a new model's features, or takes them as they were when the run began.

        Args:
            model: a `DPViTClassifier`.
            center: releases means of its features and puts them into it.
        """
        path = self.directory / _CENTRED
        if path.exists():
            load_initial_weights(model, path)
            return
        center()
        work = path.with_name(f"{_files.partial_prefix()}{path.name}")
        model.save_weights(work)
        os.replace(work, path)

    def recorder(self) -> Any:
        """The callback that keeps the training's curves while it lasts."""
        return keras.callbacks.CSVLogger(str(self.directory / _CURVES), append=True)

    def curves(self) -> dict[str, list[float]]:
        """Lists of values by name, one value an epoch, of earlier parts of the run too."""
        path = self.directory / _CURVES
        if not path.exists():
            return {}
        with open(path, newline="", encoding="utf-8") as file:
            # An epoch that was cut off before its checkpoint was trained again: the last counts.
            rows = {int(row.pop("epoch")): row for row in csv.DictReader(file)}
        in_order = [rows[epoch] for epoch in sorted(rows)]
        names = [name for name in in_order[0] if in_order[0][name] != _ABSENT] if in_order else []
        return {name: [float(row[name]) for row in in_order] for name in names}
