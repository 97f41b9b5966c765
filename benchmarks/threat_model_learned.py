"""The learned attacks of benchmarks.threat_model: one training for each scheme and attack.

Each row is stored when it is done, and each training after each epoch, so that an interrupted run
goes on where it was.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np

from benchmarks.reports import machine
from keras_dpvit import _files
from keras_dpvit.attacks import trained_settings
from trainers import _attack_output

SCHEMES = ("le", "ele", "etc", "pe", "vit_block")
ATTACKS = ("fr", "fr_advanced", "itn", "itn_paired", "dcgan", "sia_gan")
SHAPE = (32, 32, 3)
SEED = 2026
# The adversary's own images, the victim's ciphertexts, scored images.
AMOUNTS = (4000, 4000, 1000)

_PICTURED = 2
_SCALE = 2
_GAP = 4


def options_of(scheme: str) -> dict[str, Any]:
    """What is not the scheme's default: the ViT cipher has small blocks in small images."""
    return {"block_size": 4} if scheme == "vit_block" else {}


def settings_of(scheme: str, attack: str) -> Any:
    """Networks and training, None for attacks without any."""
    if attack not in trained_settings.ATTACKERS:
        return None
    return trained_settings.settings_for(attack, scheme, options_of(scheme), seed=SEED)


def measure(path: pathlib.Path, work: pathlib.Path) -> None:
    """Adds the rows that the file has not yet.

    Args:
        path: the file of results; rows in it stay.
        work: folder of trainings and of recovered pictures.
    """
    import tqdm

    from keras_dpvit import datasets
    from keras_dpvit.attacks import trained_attacks

    result = _started(path)
    done = {(row["scheme"], row["attack"]) for row in result["rows"]}
    wanted = [(s, a) for a in ATTACKS for s in SCHEMES if (s, a) not in done]
    if not wanted:
        return
    data = datasets.load("fashion_mnist")
    parts = trained_attacks.make_parts(data, SHAPE, *AMOUNTS, SEED)
    judge = trained_attacks.train_judge(parts.own, parts.own_labels, data.num_classes, SEED)
    for scheme, attack in tqdm.tqdm(wanted, desc="learned", disable=None):
        folder = work / f"{scheme}_{attack}"
        settings = settings_of(scheme, attack)
        outcome = trained_attacks.attack_test_images(
            attack,
            scheme,
            options_of(scheme),
            parts,
            judge,
            settings,
            SEED,
            folder if settings else None,
        )
        folder.mkdir(parents=True, exist_ok=True)
        shown = (outcome.plain, outcome.encrypted, outcome.recovered)
        np.savez(folder / "pictures.npz", *(images[:16] for images in shown))
        row = dict(outcome.summary)
        if "history" in row:
            row["last_losses"] = row.pop("history")[-1]
        result["rows"].append(row)
        order = [(s, a) for s in SCHEMES for a in ATTACKS]
        result["rows"].sort(key=lambda r: order.index((r["scheme"], r["attack"])))
        _files.write_json(path, result, indent=2)


def _started(path: pathlib.Path) -> dict[str, Any]:
    """What the file holds of rows that would be measured the same way again."""
    fresh: dict[str, Any] = {
        "command": "python -m benchmarks.threat_model --measure=learned",
        "machine": machine(),
        "images": dict(zip(("own", "victim", "test"), AMOUNTS, strict=True)),
        "rows": [],
    }
    if not path.is_file():
        return fresh
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    # Told on the page, never measured again.
    fresh["earlier_runs"] = found.get("earlier_runs", [])
    if found["images"] == fresh["images"]:
        fresh["rows"] = [row for row in found["rows"] if _told_settings(row) == row.get("settings")]
    return fresh


def _told_settings(row: dict[str, Any]) -> Any:
    """The settings of today, as JSON would give them back."""
    settings = settings_of(row["scheme"], row["attack"])
    return settings and json.loads(json.dumps(dataclasses.asdict(settings)))


def picture(path: pathlib.Path, work: pathlib.Path) -> None:
    """Test images in rows, two for each scheme: plain, ciphertext, then every attack's.

    Args:
        path: PNG file to write.
        work: as `measure` filled it.
    """
    import PIL.Image

    lines = []
    for scheme in SCHEMES:
        files = [work / f"{scheme}_{attack}" / "pictures.npz" for attack in ATTACKS]
        loaded = [np.load(file) if file.is_file() else None for file in files]
        first = next(one for one in loaded if one is not None)
        blank = np.full_like(first["arr_0"], 255)  # where nothing was measured yet
        columns = [first["arr_0"], first["arr_1"]]
        columns += [blank if one is None else one["arr_2"] for one in loaded]
        for row in range(_PICTURED):
            parts = [images[row].repeat(_SCALE, 0).repeat(_SCALE, 1) for images in columns]
            line = _attack_output.side_by_side(parts)
            lines += [line, np.full((_GAP, line.shape[1], 3), 255, np.uint8)]
    sheet = PIL.Image.fromarray(np.concatenate(lines[:-1]))
    part = path.with_name(f".part-{path.name}")
    sheet.quantize(128).save(part, "PNG", optimize=True)
    os.replace(part, path)
