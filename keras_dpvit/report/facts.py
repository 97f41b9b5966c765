"""Everything a report says in figures, as one JSON-able dict; the page is drawn from it."""

from typing import Any

import numpy as np

from keras_dpvit.report.predictions import HeldOut
from keras_dpvit.report.privacy_facts import privacy_facts
from keras_dpvit.report.run_files import Run
from keras_dpvit.report.scores import (
    calibration,
    class_scores,
    confusion_matrix,
    wilson_interval,
)
from keras_dpvit.version import __version__

_FORMAT = 1


def facts(run: Run, held_out: HeldOut) -> dict[str, Any]:
    """The figures of a run.

    Args:
        run: with its model.
        held_out: predictions on held-out images.

    Returns:
        a dict: "model", "data", "privacy" (see `privacy_facts`), "accuracy", "classes",
        "confusion" (rows are right classes), "calibration", "histories" and "provenance".
    """
    confusion = confusion_matrix(held_out.truth, held_out.predicted, len(held_out.class_names))
    return {
        "format": _FORMAT,
        "package": f"keras_dpvit {__version__}",
        "model": _model_facts(run),
        "data": _data_facts(run, held_out),
        "privacy": privacy_facts(run),
        "accuracy": _accuracies(run, held_out),
        "classes": _class_facts(run, held_out, confusion),
        "confusion": confusion.tolist(),
        "calibration": calibration(held_out.probabilities, held_out.truth),
        "histories": [
            {"name": name, **history}
            for name, history in zip(run.member_names, run.record["histories"], strict=False)
        ],
        "provenance": _provenance(run),
    }


def _model_facts(run: Run) -> dict[str, Any]:
    from keras_dpvit.models.presets import preset_for

    height, width, channels = (int(side) for side in run.model.input_shape[1:])
    shape = (height, width, channels)
    preset = run.flags.get("preset")
    if preset is None and not run.flags:  # a model by itself
        preset = type(run.members[0]).__name__
    return {
        "class": type(run.model).__name__,
        "members": run.member_names,
        "members_data": getattr(run.model, "members_data", None),
        "preset": preset or preset_for(shape),  # as trainers.train chooses where none was named
        "image_shape": list(shape),
        "parameters": int(sum(member.count_params() for member in run.members)),
        "trainable": run.flags.get("trainable", "all") if run.flags else None,
    }


def _data_facts(run: Run, held_out: HeldOut) -> dict[str, Any]:
    recorded = run.card["dataset"]
    return {
        "name": held_out.name,
        "class_names": list(held_out.class_names),
        "num_training_examples": recorded.get("num_training_examples"),
        "num_held_out_in_training": recorded.get("num_test_examples"),
        "num_held_out": held_out.total,
        "num_scored": len(held_out.truth),
    }


def _accuracies(run: Run, held_out: HeldOut) -> list[dict[str, Any]]:
    """Accuracies of each member and of the whole, with 95 % intervals; the run's model is last."""
    guesses = {
        name: held_out.member_probabilities[:, i].argmax(axis=1)
        for i, name in enumerate(run.member_names)
    }
    if len(run.members) > 1:
        guesses["fused"] = held_out.predicted
    total, found = len(held_out.truth), []
    for name, guess in guesses.items():
        right = int(np.sum(guess == held_out.truth))
        low, high = wilson_interval(right, total)
        found.append(
            {"name": name, "right": right, "accuracy": right / total, "low": low, "high": high}
        )
    return found


def _class_facts(run: Run, held_out: HeldOut, confusion: np.ndarray) -> list[dict[str, Any]]:
    by_member = []
    if len(run.members) > 1:
        for i in range(len(run.members)):
            guess = held_out.member_probabilities[:, i].argmax(axis=1)
            member = confusion_matrix(held_out.truth, guess, len(held_out.class_names))
            by_member.append([score["recall"] for score in class_scores(member)])
    return [
        {"name": name, **score, "member_recall": [recalls[i] for recalls in by_member]}
        for i, (name, score) in enumerate(
            zip(held_out.class_names, class_scores(confusion), strict=True)
        )
    ]


def _provenance(run: Run) -> dict[str, Any]:
    """Versions, the program's flags, and the files by size and digest."""
    import hashlib

    files, base = [run.directory], run.directory.parent
    if run.directory.is_dir():
        files, base = sorted(p for p in run.directory.rglob("*") if p.is_file()), run.directory
    return {
        "version_directory": run.directory.name,
        "trained_at": run.record.get("trained_at"),
        "package": run.card.get("package"),
        "keras": run.card.get("keras"),
        "accountant": run.card.get("accountant"),
        **{key: value for key, value in run.provenance.items() if isinstance(value, str)},
        "flags": run.flags,
        "accuracy_when_exported": run.record.get("accuracy_on_held_out_images", {}),
        "files": [
            {
                "name": path.relative_to(base).as_posix(),
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in files
        ],
    }
