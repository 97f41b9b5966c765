"""The sheet of attention maps: columns of blocks and heads, rows of images and of places."""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_dpvit.layers.attention import ThresholdAttention
from keras_dpvit.layers.position_gate import PositionGate
from keras_dpvit.plots.canvas import COLOURS, FAINT, INK, Canvas
from keras_dpvit.plots.tokens import centres

# Inches.
CELL, GAP, GROUP_GAP, MARGIN = 0.98, 0.06, 0.24, 0.3
_HEADER = 1.5

_COLORMAP = "inferno"


@dataclasses.dataclass
class Column:
    """One column of maps: a block, and one head of it or the mean of all.

    Attributes:
        block: a `TransformerBlock`.
        footprints: float `(tokens, rows, columns)`, see `DPViTBackbone.token_footprints`.
        query: int, the token asked.
        head: int, or None for the mean.
        x: float, inches from the left.
    """

    block: Any
    footprints: np.ndarray
    query: int
    head: int | None
    x: float

    def heat(self, weights: np.ndarray) -> np.ndarray:
        """Attention to patches, `(rows, columns)`, from weights of tokens `(heads, tokens)`.

        In units of what each patch would have if the tokens had all the same; 0 for a patch that
        no window of the pooling covers.
        """
        chosen = weights.mean(axis=0) if self.head is None else weights[self.head]
        alike = self.footprints.mean(axis=0)
        heat = np.tensordot(chosen, self.footprints, axes=1)
        return np.divide(heat, alike, out=np.zeros_like(heat), where=alike > 0)

    def of_head(self, values: np.ndarray) -> float:
        """A number of the head, or the mean over heads."""
        return float(values.mean() if self.head is None else values[self.head])


class Sheet:
    """The picture: rows of images, then the rows of places.

    Args:
        images: `(images, height, width, channels)`.
        labels: words beside each, or None.
        maps: block name to `(images, heads, tokens, tokens)`.
        by_head, means: columns, at the query and averaged over queries.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: list[str] | None,
        maps: dict[str, np.ndarray],
        by_head: list[Column],
        means: list[Column],
    ) -> None:
        self.images, self.labels = images, labels
        self.by_head, self.means = by_head, means
        self.left = by_head[0].x - GROUP_GAP - CELL
        self.height = CELL * images.shape[1] / images.shape[2]
        self.places_top = _HEADER + len(images) * (self.height + GAP) + 0.5
        bottom = self.places_top + 2 * (self.height + GAP) + 0.75
        self.canvas = Canvas(means[-1].x + CELL + MARGIN, bottom)

        every = range(len(images))
        self.at_query = [
            [c.heat(maps[c.block.name][i, :, c.query]) for c in by_head] for i in every
        ]
        self.on_average = [
            [c.heat(maps[c.block.name][i].mean(axis=1)) for c in means] for i in every
        ]
        self.places = [_place_heats(column) for column in by_head]
        self.top_at_query = _top([*self.at_query, *filter(None, self.places)])
        self.top_on_average = _top(self.on_average)

    def draw(self) -> Any:
        """Returns the figure."""
        self._draw_headers()
        for i, image in enumerate(self.images):
            y = _HEADER + i * (self.height + GAP)
            grey = _grey(image)
            self.canvas.image(self.left, y, CELL, self.height, _colours(image), framed=True)
            if self.labels is not None:
                words = self.labels[i]
                self.canvas.text(self.left - 0.12, y + self.height / 2, words, 8, ha="right")
            for column, heat in zip(self.by_head, self.at_query[i], strict=True):
                self._draw_heat(column, y, heat / self.top_at_query, grey)
                self._mark(column, y)
            for column, heat in zip(self.means, self.on_average[i], strict=True):
                self._draw_heat(column, y, heat / self.top_on_average, grey)
        self._draw_places()
        self._draw_scales()
        return self.canvas.figure

    def _draw_headers(self) -> None:
        canvas, right = self.canvas, self.canvas.axes.get_xlim()[1] - MARGIN
        canvas.text(MARGIN, 0.28, "What the tokens attend to", 14, ha="left", weight="bold")
        canvas.text(self.left + CELL / 2, _HEADER - 0.16, "image", 8, color=FAINT)
        canvas.axes.plot([MARGIN, right], [0.5, 0.5], color="#D3D8DE", linewidth=1)
        self._draw_group(self.by_head, "At the query token")
        self._draw_group(self.means, "Mean over\nqueries and heads")
        for column in self.by_head:
            words = "mean of heads" if column.head is None else f"head {column.head + 1}"
            if column.head is not None:
                canvas.text(column.x + CELL / 2, _HEADER - 0.16, words, 8, color=FAINT)
        for columns in (self.by_head, self.means):
            for name in dict.fromkeys(column.block.name for column in columns):
                self._draw_block_name([c for c in columns if c.block.name == name])

    def _draw_group(self, columns: list[Column], words: str) -> None:
        middle = (columns[0].x + columns[-1].x + CELL) / 2
        if columns[0].head is None and columns is self.by_head:
            words += ", mean over heads"
        self.canvas.text(middle, 0.88, words, 9.5, weight="bold", va="bottom", linespacing=1.1)

    def _draw_block_name(self, columns: list[Column]) -> None:
        block, tokens = columns[0].block, len(columns[0].footprints)
        start, end = columns[0].x, columns[-1].x + CELL
        _, stage, _, index = block.name.split("_")
        local = isinstance(block.attention, ThresholdAttention)
        colour = COLOURS["threshold" if local else "self"][1]
        self.canvas.axes.plot(
            [start, end], [1.17, 1.17], color=colour, linewidth=2.5, solid_capstyle="butt"
        )
        short = f"stage {stage}, block {index}"
        words = f"{short}: {'threshold' if local else 'self'}-attention, {tokens} tokens"
        if len(columns) == 1:
            words = f"block {stage}.{index}\n{tokens} tokens"
        self.canvas.text((start + end) / 2, 1.03 if len(columns) > 1 else 1.34, words, 8)

    def _draw_heat(self, column: Column, y: float, heat: np.ndarray, grey: Any) -> None:
        """A map, 1 its hottest, over a grey image or alone where there is none."""
        from matplotlib import colormaps

        share = np.clip(heat, 0, 1)
        colours = colormaps[_COLORMAP](share)
        if grey is not None:
            self.canvas.image(column.x, y, CELL, self.height, grey)
            colours[..., 3] = 0.3 + 0.5 * share
        self.canvas.image(column.x, y, CELL, self.height, colours, framed=True)

    def _mark(self, column: Column, y: float) -> None:
        """A dot where the query token lies."""
        rows, columns = column.footprints.shape[1:]
        across, down = centres(column.footprints)[column.query]
        x = column.x + CELL * (across + 0.5) / columns
        y = y + self.height * (down + 0.5) / rows
        dot: dict[str, Any] = {
            "markerfacecolor": "white",
            "markeredgecolor": INK,
            "markeredgewidth": 1.2,
        }
        self.canvas.axes.plot([x], [y], marker="o", markersize=5, zorder=4, **dot)

    def _draw_places(self) -> None:
        """Draws, for threshold attention, maps by place alone and shares, at the start and now."""
        tops = [self.places_top + i * (self.height + GAP) for i in range(2)]
        self.canvas.text(
            self.by_head[0].x,
            self.places_top - 0.2,
            "Attention by place alone",
            9.5,
            ha="left",
            weight="bold",
        )
        for y, words in zip(tops, ("at the start", "now"), strict=True):
            x = self.by_head[0].x - 0.12
            self.canvas.text(x, y + self.height / 2, words, 8, ha="right", color=FAINT)
        y = tops[1] + self.height + 0.22
        x = self.by_head[0].x - 0.12
        self.canvas.text(x, y, "share of place", 8, ha="right", color=FAINT)
        for column, heats in zip(self.by_head, self.places, strict=True):
            if heats is None:
                continue
            for top, heat in zip(tops, heats, strict=True):
                self._draw_heat(column, top, heat / self.top_at_query, None)
                self._mark(column, top)
            self._draw_share(column, y)

    def _draw_share(self, column: Column, y: float) -> None:
        """A line from 0 to 1 with a ring at the starting share and a dot at the present one."""
        gate = column.block.attention.position_gate
        start, now = (column.of_head(_share(g)) for g in (_fresh(gate), gate))
        at = [column.x + 0.06 + (CELL - 0.12) * share for share in (start, now)]
        colour = COLOURS["threshold"][1]
        plot = self.canvas.axes.plot
        plot([column.x + 0.06, column.x + CELL - 0.06], [y, y], color="#D3D8DE", linewidth=2)
        plot(at[:1], [y], "o", markersize=6, markerfacecolor="white", markeredgecolor=FAINT)
        plot(at[1:], [y], "o", markersize=6, color=colour, markeredgecolor="white")
        words = f"{start:.2f} → {now:.2f}"
        self.canvas.text(column.x + CELL / 2, y + 0.18, words, 7.5, color=FAINT)

    def _draw_scales(self) -> None:
        """Draws the scales of colours, under the columns of means."""
        from matplotlib import colormaps

        width = max(1.7, self.means[-1].x + CELL - self.means[0].x)
        x = self.canvas.axes.get_xlim()[1] - MARGIN - width
        ramp = colormaps[_COLORMAP](np.linspace(0, 1, 256))[None]
        scales = (("at the query, and by place", self.top_at_query), ("mean", self.top_on_average))
        for i, (name, top) in enumerate(scales):
            y = self.places_top + 0.1 + 0.68 * i
            self.canvas.text(x, y, name, 8, ha="left", color=FAINT)
            self.canvas.image(x, y + 0.14, width, 0.13, ramp, framed=True)
            ticks = (("0", 0.0, "left"), ("1×", 1 / top, "center"), (f"≥ {top:.1f}×", 1.0, "right"))
            for words, at, side in ticks:
                self.canvas.text(x + width * at, y + 0.4, words, 8, ha=side)
        words = "1×: as much as if all tokens\nhad the same.   ○ the query"
        self.canvas.text(x, self.places_top + 1.6, words, 8, ha="left", color=FAINT)


def _top(heats: list[list[np.ndarray]]) -> float:
    """The end of a scale of colours: nearly the highest value, and 2 at least."""
    values = np.concatenate([heat.ravel() for row in heats for heat in row])
    return max(2.0, float(np.quantile(values, 0.99)))


def _place_heats(column: Column) -> list[np.ndarray] | None:
    """Maps by place alone at the query, at the start and now; None without a gate."""
    if not isinstance(column.block.attention, ThresholdAttention):
        return None
    gate = column.block.attention.position_gate
    return [
        column.heat(keras.ops.convert_to_numpy(g.place_attention())[:, column.query])
        for g in (_fresh(gate), gate)
    ]


def _share(gate: PositionGate) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(gate.place_share()))


def _fresh(gate: PositionGate) -> PositionGate:
    """A gate of the same settings as it was before training."""
    fresh = PositionGate.from_config(gate.get_config())
    fresh.build((None, gate.position_weights.shape[0], *gate.encodings.shape[:2]))
    return fresh


def _colours(image: np.ndarray) -> np.ndarray:
    """An image as red, green and blue between 0 and 1."""
    scaled = np.clip(image.astype("float64") / 255, 0, 1)
    return scaled if scaled.shape[-1] == 3 else np.repeat(_mean_channel(scaled), 3, axis=-1)


def _grey(image: np.ndarray) -> np.ndarray:
    return np.repeat(_mean_channel(_colours(image)), 3, axis=-1)


def _mean_channel(image: np.ndarray) -> np.ndarray:
    return image.mean(axis=-1, keepdims=True)
