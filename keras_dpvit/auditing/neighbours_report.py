"""One record more or less through a model file's own loss and plan, for `trainers.audit`."""

import dataclasses
import os
from typing import Any

import numpy as np
import tqdm

from keras_dpvit import _files, _reasons
from keras_dpvit.datasets import ImageData
from keras_dpvit.errors import InputError

_RECORDS = 24  # in both data sets


@dataclasses.dataclass(frozen=True)
class NeighboursReport:
    """The findings of the trial.

    Attributes:
        path: str, the model file.
        ratios: by record, how far it moved the step, over the declared sensitivity.
        sensitivity: float, the declared one.
        holds: bool.
    """

    path: str
    ratios: dict[str, float]
    sensitivity: float
    holds: bool

    @property
    def contradicted(self) -> bool:
        """True if a record moved the step by more than declared."""
        return not self.holds

    def text(self) -> str:
        """The table, the worst record last, and the verdict."""
        rows = sorted(self.ratios.items(), key=lambda item: item[1])
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:{width}}  {ratio:.4f}" for name, ratio in rows]
        verdict = (
            "No record moved the step by more than the declared sensitivity."
            if self.holds
            else f"VIOLATION: {rows[-1][0]} moved the step by more than the declared sensitivity, "
            "so the plan's epsilon is false for this model, loss and data."
        )
        return "\n".join([f"{'record':{width}}  ratio", *lines, "", verdict])

    def write(self, path: str) -> None:
        """Writes the outcome as JSON; the file is there whole or not at all."""
        _files.write_json(path, dataclasses.asdict(self))


def run(path: str, data: ImageData) -> NeighboursReport:
    """Tries a `.keras` file's model under its own loss and plan.

    Args:
        path: of a model compiled with a private optimizer.
        data: images of the model's input shape.

    Raises:
        InputError: if the file holds no such model, or the images do not fit it.
    """
    import keras_dpvit as kd
    from keras_dpvit.auditing import adversarial_records, neighbours

    if not path.endswith(".keras") or not os.path.isfile(path):
        raise InputError(f"model must be a .keras file with --attack=neighbours, got {path!r}.")
    try:
        model = kd.load_model(path)
    except (ValueError, OSError, TypeError) as error:
        raise InputError(
            f"model must be a file that can be loaded: {_reasons.reason(error)}."
        ) from error
    plan = getattr(getattr(model, "optimizer", None), "plan", None)
    if plan is None:
        raise InputError(
            f"model must be compiled with a private optimizer, {path!r} is not: its plan is tried."
        )
    x = np.asarray(data.x_train[:_RECORDS], "float32")
    y = np.asarray(data.y_train[:_RECORDS])
    if x.shape[1:] != tuple(model.input_shape[1:]):
        raise InputError(
            f"dataset must have images of the model's input {model.input_shape[1:]}, it has "
            f"{x.shape[1:]}."
        )
    records = adversarial_records(x, y)
    with tqdm.tqdm(total=len(records), desc="records", disable=None) as bar:
        found = neighbours(model, model.loss, x, y, plan, records, lambda name: bar.update())
    return NeighboursReport(path, found.ratios, found.sensitivity, found.holds)


def check_flags(options: Any) -> None:
    """Refuses flags that have no use here, before anything is read."""
    for name in ("batch_size", "epochs", "canaries", "guesses", "score", "learning_rate", "trials"):
        if options[name].present:
            raise InputError(
                f"{name} must be left out with --attack=neighbours: it has no use there."
            )
