"""Panels beside the drawing of a deep network: its stages in numbers, and their tokens."""

from typing import Any

from keras_dpvit.models.description import short_number
from keras_dpvit.plots.block import WIDTH
from keras_dpvit.plots.canvas import COLOURS, FAINT, Canvas
from keras_dpvit.plots.tokens import centres

_GAP = 0.3  # inches


def draw_panels(
    canvas: Canvas, left: float, top: float, bottom: float, model: Any, facts: dict[str, Any]
) -> None:
    """Draws as many of the panels as there is room for.

    Args:
        canvas: where to.
        left: float, inches; the width is that of a block's drawing.
        top: float, inches.
        bottom: float, inches.
        model: a `DPViTClassifier` or a `DPViTBackbone`.
        facts: what `describe` says of it.
    """
    panels = (
        (1.25 + 0.46 * len(facts["stages"]), _draw_shares, facts),
        (2.05, _draw_tokens, model),
    )
    for height, draw, of in panels:
        if top + height > bottom:
            return
        canvas.panel(left, top, WIDTH, height)
        draw(canvas, left, top, of)
        top += height + _GAP


def _draw_shares(canvas: Canvas, left: float, top: float, facts: dict[str, Any]) -> None:
    """Draws the shares of parameters and work among the stages, as bars."""
    y = top + 0.28
    canvas.text(left + 0.2, y, "What the stages hold and do", 10, ha="left", weight="bold")
    for name, words in (("parameters", "Parameters"), ("macs", "Multiply-accumulates")):
        y += 0.36
        canvas.text(left + 0.2, y, words, 8.5, ha="left")
        for stage in facts["stages"]:
            y += 0.23
            share = stage[name] / facts[name]
            width = 2.9 * share
            canvas.text(left + 0.3, y, f"Stage {stage['stage']}", 8, ha="left", color=FAINT)
            canvas.bar(left + 0.95, y - 0.075, width, 0.15)
            numbers = f"{short_number(stage[name])}, {100 * share:.0f} %"
            canvas.text(left + 1.03 + width, y, numbers, 8, ha="left", color=FAINT)


def _draw_tokens(canvas: Canvas, left: float, top: float, model: Any) -> None:
    """The tokens that each stage's last block sees, on the grid of patches."""
    canvas.text(
        left + 0.2, top + 0.28, "Where the stages' tokens lie", 10, ha="left", weight="bold"
    )
    footprints = model.token_footprints()
    stages = [footprints[name] for name in _last_blocks(list(footprints))]
    cell = (WIDTH - 0.3) / max(4, len(stages))
    for i, tokens in enumerate(stages):
        rows, columns = tokens.shape[1:]
        unit = min(1.05, cell - 0.2) / max(rows, columns)
        x, y = left + 0.15 + (i + 0.5) * cell - unit * columns / 2, top + 0.5
        canvas.panel(x, y, unit * columns, unit * rows, fill="white")
        across, down = centres(tokens).T
        canvas.axes.plot(
            x + unit * (across + 0.5),
            y + unit * (down + 0.5),
            linestyle="",
            marker="o",
            markersize=2.2,
            color=COLOURS["threshold"][1],
        )
        words = f"Stage {i + 1}: {len(tokens)}"
        canvas.text(left + 0.15 + (i + 0.5) * cell, top + 1.75, words, 8, color=FAINT)


def _last_blocks(names: list[str]) -> list[str]:
    """The last block of each stage, by the names that `models.stages` gives."""
    return list({name.split("_")[1]: name for name in names}.values())
