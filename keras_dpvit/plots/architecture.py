"""The network as a drawing: its parts from top to bottom, and one of its blocks from inside."""

import dataclasses
import os
import re
from typing import Any

import keras

from keras_dpvit.layers.attention import ThresholdAttention
from keras_dpvit.layers.convolution import ConvBranch, ConvStem, TokenDepthwiseConv
from keras_dpvit.layers.embedding import PatchEmbedding, PositionTable
from keras_dpvit.layers.transformer import TransformerBlock
from keras_dpvit.models.description import describe, layers_in_order, short_number
from keras_dpvit.plots.block import HEIGHT as BLOCK_HEIGHT
from keras_dpvit.plots.block import WIDTH as BLOCK_WIDTH
from keras_dpvit.plots.block import BlockDrawing
from keras_dpvit.plots.canvas import COLOURS, FAINT, Canvas
from keras_dpvit.plots.panels import draw_panels

# Inches.
_BOX_WIDTH, _BOX_HEIGHT, _GAP, _SUM_HEIGHT = 3.25, 0.34, 0.26, 0.22
_TOP, _MARGIN, _LANE, _NUMBERS = 1.0, 0.3, 1.85, 1.65

_LEGEND = (
    ("threshold", "threshold attention (first block of a stage)"),
    ("self", "self-attention"),
    ("learned", "other learned weights"),
    ("conv", "CONV module"),
    ("fixed", "nothing learned"),
    ("noise", "noise while training, if asked for"),
)


@dataclasses.dataclass
class _Row:
    """One line of the drawing: a part, or several equal ones after each other."""

    layer: Any
    part: dict[str, Any]
    count: int = 1
    y: float = 0.0

    @property
    def kind(self) -> str:
        if isinstance(self.layer, TransformerBlock):
            local = isinstance(self.layer.attention, ThresholdAttention)
            return "threshold" if local else "self"
        if isinstance(self.layer, (ConvStem, TokenDepthwiseConv)):
            return "conv"
        return "learned" if self.layer.weights else "fixed"

    @property
    def is_sum(self) -> bool:
        return isinstance(self.layer, (PositionTable, keras.layers.Add))

    @property
    def height(self) -> float:
        return _SUM_HEIGHT if self.is_sum else _BOX_HEIGHT


def plot_architecture(model: Any, path: str | os.PathLike[str]) -> None:
    """Draws a model into a file.

    Args:
        model: a `DPViTClassifier` or a `DPViTBackbone`.
        path: of the picture; the ending says the format (".png").

    Raises:
        InputError: if the model is another one.
    """
    architecture_figure(model).savefig(path, dpi=160)


def architecture_figure(model: Any) -> Any:
    """The drawing of a model: every part with its cost, tokens on the arrows, one block inside.

    Args:
        model: a `DPViTClassifier` or a `DPViTBackbone`.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        InputError: if the model is another one.
    """
    facts = describe(model)
    layers = layers_in_order(model)
    rows = _rows(layers, facts["parts"])
    pairs = zip(layers, facts["parts"], strict=True)
    branch = next((part for layer, part in pairs if isinstance(layer, ConvBranch)), None)
    left = _MARGIN + (_LANE if branch is not None else 0.45)
    bottom = _place(rows) + 0.35
    block_left = left + _BOX_WIDTH + _NUMBERS + 0.35
    height = max(bottom, _TOP + BLOCK_HEIGHT) + 0.62
    canvas = Canvas(block_left + BLOCK_WIDTH + _MARGIN, height)

    _draw_head(canvas, facts)
    _draw_stages(canvas, rows, left)
    _draw_chain(canvas, rows, left, facts["image_shape"])
    if branch is not None:
        _draw_branch(canvas, rows, left, branch)
    local = next((row.layer for row in rows if row.kind == "threshold"), None)
    if local is not None:
        BlockDrawing(canvas, block_left, _TOP - 0.3, local)
    draw_panels(canvas, block_left, _TOP + BLOCK_HEIGHT, bottom, model, facts)
    kinds = {row.kind for row in rows} | {"noise"} | ({"conv"} if branch is not None else set())
    _draw_legend(canvas, height - 0.36, kinds)
    return canvas.figure


def _rows(layers: list[Any], parts: list[dict[str, Any]]) -> list[_Row]:
    """Rows of the main path, equal neighbours joined."""
    rows: list[_Row] = []
    for layer, part in zip(layers, parts, strict=True):
        if isinstance(layer, ConvBranch):
            continue
        row = _Row(layer, part)
        if rows and row.kind == "self" and _same(rows[-1].part, part):
            rows[-1].count += 1
        else:
            rows.append(row)
    return rows


def _same(part: dict[str, Any], other: dict[str, Any]) -> bool:
    return {**part, "name": None} == {**other, "name": None}


def _place(rows: list[_Row]) -> float:
    """Gives each row its height on the sheet; returns where the last one ends."""
    y, stage = _TOP + _BOX_HEIGHT + _GAP, None
    for row in rows:
        if row.part["stage"] != stage:
            y, stage = y + 0.14, row.part["stage"]
        row.y = y
        y += row.height + _GAP
    return y


def _draw_head(canvas: Canvas, facts: dict[str, Any]) -> None:
    width = canvas.axes.get_xlim()[1]
    canvas.text(_MARGIN, 0.3, "DP-ViT", size=15, ha="left", weight="bold")
    shape = "×".join(str(side) for side in facts["image_shape"])
    classes = f", {facts['num_classes']} classes" if facts["num_classes"] else ""
    canvas.text(
        width - _MARGIN,
        0.3,
        f"{shape} images{classes}   ·   {facts['parameters']:,} parameters   ·   "
        f"{short_number(facts['macs'])} multiply-accumulates an image",
        size=10,
        ha="right",
        color=FAINT,
    )
    canvas.axes.plot([_MARGIN, width - _MARGIN], [0.52, 0.52], color="#D3D8DE", linewidth=1)


def _draw_stages(canvas: Canvas, rows: list[_Row], left: float) -> None:
    for stage in sorted({row.part["stage"] for row in rows if row.part["stage"] is not None}):
        inside = [row for row in rows if row.part["stage"] == stage]
        top, end = inside[0].y - 0.1, inside[-1].y + inside[-1].height + 0.1
        canvas.panel(left - 0.42, top, _BOX_WIDTH + 0.55, end - top)
        canvas.text(
            left - 0.24,
            (top + end) / 2,
            f"Stage {stage}",
            size=9 if end - top > 0.7 else 7,
            rotation=90,
            weight="bold",
            color=FAINT,
        )


def _draw_chain(canvas: Canvas, rows: list[_Row], left: float, image_shape: list[int]) -> None:
    middle = left + _BOX_WIDTH / 2
    columns = (left + _BOX_WIDTH + 0.88, left + _BOX_WIDTH + _NUMBERS - 0.05)
    for x, words in zip(columns, ("parameters", "MACs"), strict=True):
        canvas.text(x, _TOP - 0.14, words, size=8, ha="right", color=FAINT)
    canvas.box(left, _TOP, _BOX_WIDTH, _BOX_HEIGHT, "Image, pixels 0..255", "fixed")
    y, output, stage = _TOP + _BOX_HEIGHT, image_shape, None
    shown: list[int] | None = None
    for row in rows:
        words = _shape_words(output) if (output, row.part["stage"]) != (shown, stage) else ""
        canvas.arrow((middle, y), (middle, row.y), words=words)
        shown, stage = output, row.part["stage"]
        _draw_row(canvas, row, left, middle)
        for x, name in zip(columns, ("parameters", "macs"), strict=True):
            number = row.count * row.part[name]
            words = short_number(number) if number else "–"
            canvas.text(x, row.y + row.height / 2, words, size=8, ha="right")
        y, output = row.y + row.height, row.part["output"]
    canvas.arrow((middle, y), (middle, y + _GAP + 0.04), words=_shape_words(output))


def _draw_row(canvas: Canvas, row: _Row, left: float, middle: float) -> None:
    if row.is_sum:
        canvas.plus(middle, row.y + row.height / 2)
        words = "learned positions" if row.kind == "learned" else "CONV(x) + ViT(x)"
        canvas.text(middle + 0.2, row.y + row.height / 2, words, size=8, ha="left")
        return
    for shift in range(min(row.count, 3) - 1, 0, -1):
        offset = 0.045 * shift
        canvas.box(left + offset, row.y + offset, _BOX_WIDTH, row.height, "", row.kind)
    words = _printed(row.part["what"])
    words = words[0].upper() + words[1:] + (f"   × {row.count}" if row.count > 1 else "")
    canvas.box(left, row.y, _BOX_WIDTH, row.height, words, row.kind)


def _printed(words: str) -> str:
    """The words with a printer's multiplication sign."""
    return re.sub(r"(\d)x(\d)", r"\1×\2", words)


def _shape_words(output: list[int]) -> str:
    if len(output) == 2:
        return f"{output[0]} tokens × {output[1]}"
    if len(output) == 1:
        return f"{output[0]} numbers"
    return " × ".join(str(side) for side in output)


def _draw_branch(canvas: Canvas, rows: list[_Row], left: float, part: dict[str, Any]) -> None:
    """The parallel branch in a lane to the left: from the features to the sum of the logits."""
    middle, lane = left + _BOX_WIDTH / 2, left - _LANE / 2 - 0.25
    start = next(row for row in rows if isinstance(row.layer, PatchEmbedding)).y - _GAP + 0.05
    last = next(row for row in rows if isinstance(row.layer, keras.layers.Add))
    end = last.y + last.height / 2
    lines = _printed(part["what"]).split(", ")
    lines += ["", f"{short_number(part['parameters'])} parameters"]
    lines += [f"{short_number(part['macs'])} MACs"]
    height = 0.4 + 0.155 * len(lines)
    y = (start + end - height) / 2
    canvas.arrow((middle, start), (lane, start), (lane, y))
    canvas.box(lane - 0.7, y, 1.4, height, "", "conv")
    canvas.text(lane, y + 0.18, "CONV branch", zorder=3)
    for i, line in enumerate(lines):
        canvas.text(lane, y + 0.4 + 0.155 * i, line, size=7.5, color=FAINT, zorder=3)
    canvas.arrow((lane, y + height), (lane, end), (middle - 0.11, end))


def _draw_legend(canvas: Canvas, y: float, kinds: set[str]) -> None:
    x = _MARGIN
    for kind, words in _LEGEND:
        if kind in kinds:
            fill, edge = COLOURS[kind]
            square: dict[str, Any] = {
                "marker": "s",
                "markersize": 9,
                "color": fill,
                "markeredgecolor": edge,
            }
            canvas.axes.plot([x + 0.08], [y], **square)
            x += 0.6 + canvas.text(x + 0.22, y, words, size=8, ha="left", color=FAINT)
