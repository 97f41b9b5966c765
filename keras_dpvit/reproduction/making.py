"""Makes an artifact: runs what is missing and writes figures, a table and a picture."""

import pathlib
from collections.abc import Callable
from typing import Any

from keras_dpvit import _files
from keras_dpvit.models.presets import PRESETS
from keras_dpvit.reproduction.artifacts import ARTIFACTS, Row, Scale
from keras_dpvit.reproduction.finished import Finished
from keras_dpvit.reproduction.trainings import Bench, Training


def make(
    name: str,
    scale: Scale,
    bench: Callable[[], Bench],
    images: dict[str, Any],
    trainings_dir: pathlib.Path,
    output: pathlib.Path,
) -> dict[str, Any]:
    """Trains what is not finished yet; each training is kept when it is done.

    Args:
        name: of `ARTIFACTS`.
        scale: what it is made with.
        bench: gives the images; asked once something has to be trained.
        images: what is trained on and scored, as JSON can hold it: part of a training's name.
        trainings_dir: folder of finished trainings, which artifacts share.
        output: folder of NAME_SCALE.json, .md and .png.

    Returns:
        The content of the JSON file.
    """
    from keras_dpvit.reproduction import drawing, tables

    artifact, finished = ARTIFACTS[name], Finished(trainings_dir)
    rows = artifact.rows(scale)
    total, done = sum(len(row.trainings) for row in rows), 0
    content: dict[str, Any] = {
        "artifact": name,
        "title": artifact.title,
        "scale": scale.name,
        "images": images,
        "rows": [],
    }
    for row in rows:
        found = []
        for training in row.trainings:
            key = {**training.key(), "images": images}
            result = finished.result(key)
            if result is None:
                result = bench().run(training)
                finished.keep(key, result)
            done += 1
            print(f"{done} of {total}: {_told(row, training, result)}", flush=True)
            found.append({"made_with": training.key(), **result})
        content["rows"].append({**_about(row), "trainings": found})
    stem = f"{name}_{scale.name}"
    _files.write_json(output / f"{stem}.json", content)
    picture = drawing.picture(artifact, content)
    _files.write_whole(output / f"{stem}.png", picture)
    _files.write_whole(output / f"{stem}.md", tables.page(name, content, f"{stem}.png"))
    return content


def _told(row: Row, training: Training, result: dict[str, Any]) -> str:
    privacy = f"epsilon {training.settings.epsilon:g}" if training.private else "no privacy"
    return (
        f"{row.name}, {privacy}, draw {training.draw + 1}: {result['accuracy'][-1]:.4f}, "
        f"{result['seconds']:.0f} s"
    )


def _about(row: Row) -> dict[str, Any]:
    about = {"name": row.name, "panel": row.panel, "x": row.x, "paper": dict(row.paper)}
    if row.counted is not None:
        about |= _counted(row.counted)
    return about


def _counted(preset: str) -> dict[str, int]:
    """Parameters and multiply-accumulates of a preset, with its own number of classes."""
    from keras_dpvit.models.classifier import DPViTClassifier
    from keras_dpvit.models.description import describe

    found = describe(DPViTClassifier.from_preset(preset, PRESETS[preset]["num_classes"]))
    return {"counted_parameters": found["parameters"], "counted_macs": found["macs"]}
