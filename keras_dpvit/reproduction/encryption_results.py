"""Rows of the encryption table on disk, and the table that they make."""

import json
import pathlib
from typing import Any

from keras_dpvit import _files
from keras_dpvit.errors import InputError
from keras_dpvit.reproduction.encryption_rows import ROWS, Settings


def write_row(output: pathlib.Path, row: str, result: dict[str, Any], settings: Settings) -> None:
    """Stores a finished row, whole or not at all."""
    _write(_path(output, row), {"row": row, **result, "settings": settings.to_dict()})


def finished(output: pathlib.Path, rows: list[str], settings: Settings) -> dict[str, Any]:
    """The rows that are there already, by name.

    Raises:
        InputError: if one of them was made with other settings, or cannot be read.
    """
    told = json.loads(json.dumps(settings.to_dict()))
    found = {}
    for row in rows:
        path = _path(output, row)
        if not path.exists():
            continue
        try:
            content = json.loads(path.read_text("utf-8"))
            same = content["settings"] == told
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"output: {path} is damaged: delete it, or name another.") from error
        if not same:
            raise InputError(
                f"output: {path} was made with other settings: delete it, or name another folder."
            )
        found[row] = content
    return found


def write_table(
    output: pathlib.Path, rows: list[str], done: dict[str, Any], settings: Settings
) -> pathlib.Path:
    """Stores all rows in one file.

    Returns:
        Its path.
    """
    table = {
        "artifact": "encryption_table",
        "settings": settings.to_dict(),
        "rows": [_without_settings(row, done[row]) for row in rows],
    }
    path = output / f"encryption_table_{settings.scale}.json"
    _write(path, table)
    return path


def _without_settings(row: str, content: dict[str, Any]) -> dict[str, Any]:
    about = ROWS[row]
    paper = dict(zip(("cifar10", "cifar100"), about.published, strict=True))
    rest = {name: value for name, value in content.items() if name not in ("row", "settings")}
    return {
        "row": row,
        "encryption": about.words,
        "network": about.network,
        "published_percent": paper,
        "published_in": about.source,
        **rest,
    }


def as_text(rows: list[str], done: dict[str, Any], settings: Settings) -> str:
    """The table for a terminal: the published figures and ours beside each other."""
    small = settings.scale == "small"
    heads = ["encryption", "network", "paper C10", "paper C100"]
    for dataset in settings.datasets:
        heads += [f"{dataset} val.", "test"]
    lines = [heads]
    for row in rows:
        about = ROWS[row]
        line = [about.words, about.network, *map(_percent, about.published)]
        for dataset in settings.datasets:
            scores = done[row]["accuracy"][dataset]
            line += [_percent(100 * scores["validation"]), _percent(100 * scores["test"])]
        lines.append(line)
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    text = [
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in lines
    ]
    notes = [
        "Accuracy in %. Ours is at the epoch that the validation images choose, those of the "
        "paper's ShakeDrop rows at the best epoch on the test images."
    ]
    if small:
        notes.append(
            "Not the paper's task: small networks, Fashion-MNIST, few epochs. Compare the rows "
            "with each other."
        )
    return "\n".join([*(line.rstrip() for line in text), *notes])


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _path(output: pathlib.Path, row: str) -> pathlib.Path:
    return output / "rows" / f"{row}.json"


def _write(path: pathlib.Path, content: dict[str, Any]) -> None:
    _files.write_json(path, content)
