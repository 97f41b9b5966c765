"""Pictures of artifacts, as PNG."""

import io
from typing import Any

import numpy as np

from keras_dpvit.plots.canvas import COLOURS, FAINT, INK
from keras_dpvit.reproduction.artifacts import Artifact
from keras_dpvit.reproduction.tables import interval, value

_LINES = [COLOURS[kind][1] for kind in ("self", "threshold", "conv", "noise", "learned", "fixed")]
_NAMES = {
    "loss": "cross-entropy",
    "accuracy": "accuracy",
    "precision": "precision (mean of classes)",
    "recall": "recall (mean of classes)",
}


def picture(artifact: Artifact, content: dict[str, Any]) -> bytes:
    """A PNG of an artifact: of values that were measured, on images that were not trained on.

    Args:
        artifact: of `ARTIFACTS`.
        content: what `making.make` wrote.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in content["rows"] if row["trainings"]]
    panels = _panels(artifact, rows)
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(
        figsize=(1 + 4.6 * across, 0.6 + 3.3 * down), facecolor="white", layout="constrained"
    )
    FigureCanvasAgg(figure)
    for number, (title, metric, members) in enumerate(panels):
        axes = figure.add_subplot(down, across, number + 1)
        {"curves": _curves, "points": _points, "dots": _dots}[artifact.picture](
            axes, members, metric
        )
        axes.set_title(title, fontsize=10, color=INK)
        axes.tick_params(labelsize=8, colors=FAINT)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.suptitle(artifact.title, fontsize=11, color=INK)
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=110, metadata={"Software": None})
    return written.getvalue()


def _panels(artifact: Artifact, rows: list[dict[str, Any]]) -> list[tuple[str, str, list[Any]]]:
    """Title, metric and rows of each part of the picture."""
    metric = artifact.metrics[0]
    if artifact.picture == "curves" and any(row["panel"] for row in rows):
        titles = dict.fromkeys(row["panel"] for row in rows)
        return [(t, metric, [row for row in rows if row["panel"] == t]) for t in titles]
    return [(_NAMES[metric], metric, rows) for metric in artifact.metrics]


def _curves(axes: Any, rows: list[dict[str, Any]], metric: str) -> None:
    """Means over the trainings by step, and from the least to the greatest."""
    for colour, row in zip(_LINES, rows, strict=False):
        length = min(len(training[metric]) for training in row["trainings"])
        values = np.array([training[metric][:length] for training in row["trainings"]])
        steps = row["trainings"][0]["steps"][:length]
        axes.plot(steps, values.mean(axis=0), color=colour, label=row["name"], linewidth=1.6)
        axes.fill_between(
            steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0
        )
    axes.set_xlabel("step", fontsize=8, color=FAINT)
    axes.legend(fontsize=7, frameon=False)


def _points(axes: Any, rows: list[dict[str, Any]], metric: str) -> None:
    """Means with 95 % intervals over epsilon; rows without an epsilon as level lines."""
    series = dict.fromkeys(row["panel"] for row in rows if row["x"] is not None)
    for colour, name in zip(_LINES, series, strict=False):
        members = [row for row in rows if row["panel"] == name]
        means, halves = zip(*(_interval(row, metric) for row in members), strict=True)
        axes.errorbar(
            [row["x"] for row in members],
            means,
            yerr=halves,
            color=colour,
            label=name,
            marker="o",
            markersize=4,
            capsize=3,
            linewidth=1.4,
        )
    level = [row for row in rows if row["x"] is None]
    for colour, row in zip(_LINES[len(series) :], level, strict=False):
        axes.axhline(
            _interval(row, metric)[0],
            color=colour,
            linestyle="--",
            label=row["name"],
            linewidth=1.2,
        )
    axes.set_xscale("log", base=2)
    ticks = sorted({row["x"] for row in rows if row["x"] is not None})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("epsilon", fontsize=8, color=FAINT)
    axes.legend(fontsize=7, frameon=False)


def _dots(axes: Any, rows: list[dict[str, Any]], metric: str) -> None:
    """Each training a ring, the mean with its 95 % interval a dot."""
    for place, row in enumerate(rows):
        colour = _LINES[place % len(_LINES)]
        found = [value(training, metric) for training in row["trainings"]]
        axes.plot(found, [place] * len(found), "o", markerfacecolor="none", color=colour, alpha=0.6)
        mean, half = _interval(row, metric)
        axes.errorbar(mean, place, xerr=half, color=colour, marker="o", capsize=4)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _interval(row: dict[str, Any], metric: str) -> tuple[float, float]:
    found = [value(training, metric) for training in row["trainings"]]
    mean, half = interval([number for number in found if number is not None])
    return mean, half or 0.0
