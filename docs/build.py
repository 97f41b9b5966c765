"""Writes tables of docs/model.md and docs/reproduction.md, draws a picture; `make docs` runs it."""

import json
import pathlib
import re
from typing import Any

from keras_dpvit.errors import InputError
from keras_dpvit.models.classifier import DPViTClassifier
from keras_dpvit.models.description import PUBLISHED, describe, printed
from keras_dpvit.models.presets import PRESETS
from keras_dpvit.plots import plot_architecture
from keras_dpvit.reproduction import tables
from keras_dpvit.reproduction.artifacts import ARTIFACTS

HERE = pathlib.Path(__file__).parent
PAGE = HERE / "model.md"
REPRODUCTION = HERE / "reproduction.md"
KEPT = HERE / "results" / "reproduction"
PICTURE = HERE / "figures" / "architecture.png"
DRAWN = "dpvit_paper_h6"


def preset_model(name: str) -> DPViTClassifier:
    """A named size with its own number of classes."""
    return DPViTClassifier.from_preset(name, num_classes=PRESETS[name]["num_classes"])


def presets_table(facts: dict[str, dict[str, Any]]) -> str:
    """Every named size, as Markdown.

    Args:
        facts: preset name to what `describe` says of it.
    """
    head = "preset|image|classes|patch|width|heads|blocks by stage|tokens by stage|parameters|MACs"
    rows = []
    for name, found in facts.items():
        arguments = PRESETS[name]["arguments"]
        rows.append(
            [
                f"`{name}`",
                " x ".join(str(side) for side in found["image_shape"]),
                found["num_classes"],
                arguments["patch_size"],
                found["stages"][0]["width"],
                arguments["num_heads"],
                " / ".join(str(stage["blocks"]) for stage in found["stages"]),
                " / ".join(str(stage["tokens"]) for stage in found["stages"]),
                f"{found['parameters']:,}",
                f"{found['macs']:,}",
            ]
        )
    return _table(head.split("|"), rows)


def paper_table(facts: dict[str, dict[str, Any]]) -> str:
    """The paper's sizes beside ours, as Markdown."""
    rows = []
    for name, figures in PUBLISHED.items():
        row = [f"`{name}`"]
        for what, figure in figures.items():
            difference = 100 * (facts[name][what] / figure - 1)
            row += [f"{facts[name][what]:,}", printed(what, figure), f"{difference:+.2f} %"]
        rows.append(row)
    head = ["preset", "parameters", "paper", "difference", "MACs", "paper", "difference"]
    return _table(head, rows)


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def model_tables(facts: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The tables of docs/model.md by name.

    Args:
        facts: preset name to what `describe` says of it.
    """
    return {"presets": presets_table(facts), "paper": paper_table(facts)}


def reproduction_tables() -> dict[str, str]:
    """The tables of docs/reproduction.md by name, from the files that were kept."""
    return {
        name: tables.table(name, json.loads((KEPT / f"{name}_small.json").read_text("utf-8")))
        for name in ARTIFACTS
    }


def with_tables(page: str, by_name: dict[str, str]) -> str:
    """The page with its tables written anew between their markers.

    Args:
        page: Markdown.
        by_name: the tables as Markdown.

    Raises:
        InputError: if the page lacks a marker.
    """
    for name, table in by_name.items():
        start, end = f"<!-- {name}: written by make docs -->", f"<!-- end of {name} -->"
        pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
        page, found = pattern.subn(f"{start}\n\n{table}\n\n{end}", page)
        if found != 1:
            raise InputError(
                f"page must have the markers {start!r} and {end!r} once, in this order."
            )
    return page


def main() -> None:
    """Rewrites pages and picture."""
    facts = {name: describe(preset_model(name)) for name in PRESETS}
    pages = {PAGE: model_tables(facts), REPRODUCTION: reproduction_tables()}
    for page, found in pages.items():
        page.write_text(with_tables(page.read_text("utf-8"), found), "utf-8")
    PICTURE.parent.mkdir(exist_ok=True)
    plot_architecture(preset_model(DRAWN), PICTURE)


if __name__ == "__main__":
    main()
