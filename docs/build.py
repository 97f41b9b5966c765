"""Writes the tables of docs/model.md and draws its architecture; `make docs` runs it."""

import pathlib
import re
from typing import Any

from keras_dpvit.errors import InputError
from keras_dpvit.models.classifier import DPViTClassifier
from keras_dpvit.models.description import PUBLISHED, describe, printed
from keras_dpvit.models.presets import PRESETS
from keras_dpvit.plots import plot_architecture

HERE = pathlib.Path(__file__).parent
PAGE = HERE / "model.md"
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


def with_tables(page: str, facts: dict[str, dict[str, Any]]) -> str:
    """The page with its tables written anew between their markers.

    Raises:
        InputError: if the page lacks a marker.
    """
    for name, table in (("presets", presets_table(facts)), ("paper", paper_table(facts))):
        start, end = f"<!-- {name}: written by make docs -->", f"<!-- end of {name} -->"
        pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
        page, found = pattern.subn(f"{start}\n\n{table}\n\n{end}", page)
        if found != 1:
            raise InputError(
                f"page must have the markers {start!r} and {end!r} once, in this order."
            )
    return page


def main() -> None:
    """Rewrites page and picture."""
    facts = {name: describe(preset_model(name)) for name in PRESETS}
    PAGE.write_text(with_tables(PAGE.read_text("utf-8"), facts), "utf-8")
    PICTURE.parent.mkdir(exist_ok=True)
    plot_architecture(preset_model(DRAWN), PICTURE)


if __name__ == "__main__":
    main()
