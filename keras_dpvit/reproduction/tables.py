"""Artifacts as Markdown."""

import math
import statistics
from typing import Any

from keras_dpvit.reproduction.artifacts import ARTIFACTS

_PERCENT = (
    "accuracy",
    "top_5",
    "precision",
    "recall",
    "mean_accuracy",
    "members_accuracy",
)


def page(name: str, content: dict[str, Any], picture: str) -> str:
    """A page on an artifact: title, picture, table, and why it differs from the paper.

    Args:
        name: of `ARTIFACTS`.
        content: what `making.make` wrote.
        picture: the picture's place beside the page.
    """
    artifact = ARTIFACTS[name]
    images = content["images"]
    trained = ", ".join(f"{name} {value}" for name, value in images.items())
    return "\n\n".join(
        [
            f"# {artifact.title}",
            f"Scale {content['scale']}: {trained}.",
            f"![{artifact.title}]({picture})",
            table(name, content),
            f"Beside the paper: {artifact.why}",
            "",
        ]
    )


def table(name: str, content: dict[str, Any]) -> str:
    """The table of an artifact as Markdown: mean of the trainings, and half the 95 % interval.

    Args:
        name: of `ARTIFACTS`.
        content: what `making.make` wrote.
    """
    artifact = ARTIFACTS[name]
    heads = ["", "trainings", *(heading for heading, _ in artifact.columns)]
    heads += [f"paper: {heading}" for heading, _ in artifact.paper_columns]
    lines = [heads, ["---"] * len(heads)]
    for row in content["rows"]:
        line = [row["name"], str(len(row["trainings"])) if row["trainings"] else "-"]
        line += [cell(row, what) for _, what in artifact.columns]
        printed = [row["paper"].get(what) for _, what in artifact.paper_columns]
        lines.append([*line, *("-" if value is None else str(value) for value in printed)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(row: dict[str, Any], what: str) -> str:
    """One value of a row for readers."""
    if what == "panel":
        return str(row[what]) or "-"
    if what == "x":
        return "-" if row[what] is None else f"{row[what]:g}"
    if what.startswith("counted_"):
        return _large(row[what])
    found = [value(training, what) for training in row["trainings"]]
    present = [number for number in found if number is not None]
    if not present:
        return "-"
    if what in ("parameters", "macs", "trained_parameters"):
        return _large(present[0])
    if what == "epsilon":
        return f"{present[0]:.2f}"
    unit, digits = (100, 1) if what.rpartition("_")[0] in _PERCENT or what in _PERCENT else (1, 3)
    mean, half = interval([unit * number for number in present])
    return f"{mean:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def value(training: dict[str, Any], what: str) -> float | None:
    """One value of a training: the last of a list, that of an epoch, a mean, or a number."""
    name, _, epoch = what.rpartition("_")
    if epoch.isdigit() and isinstance(training.get(name), list):
        values = training[name]
        return float(values[int(epoch) - 1]) if int(epoch) <= len(values) else None
    found = training.get(what)
    if what == "epsilon" and found is not None:
        return float(found["pld"])
    if what == "members_accuracy" and found is not None:
        return statistics.fmean(found)
    if isinstance(found, list):
        return float(found[-1])
    return None if found is None else float(found)


def interval(values: list[float]) -> tuple[float, float | None]:
    """Mean, and half the 95 % interval of Student's t; None for a single value."""
    from scipy import stats

    mean, number = statistics.fmean(values), len(values)
    if number < 2:
        return mean, None
    spread = statistics.stdev(values) / math.sqrt(number)
    return mean, float(stats.t.ppf(0.975, number - 1)) * spread


def _large(number: float) -> str:
    unit, name = next(
        (u, n) for u, n in ((1e9, " G"), (1e6, " M"), (1e3, " k"), (0, "")) if number >= u
    )
    return f"{number / (unit or 1):.3g}{name}"
