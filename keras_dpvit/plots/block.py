"""The inside of a transformer block with threshold attention, as a drawing."""

import math
from typing import Any

from keras_dpvit.layers.transformer import TransformerBlock
from keras_dpvit.plots.canvas import FAINT, Canvas

# Inches, for whoever makes room.
WIDTH, HEIGHT = 5.35, 7.35

# Columns: position, content, value, and the residual connections beside them.
_PLACE, _CONTENT, _VALUE, _SIDE = 1.0, 2.75, 4.3, 5.12
_TALL, _LOW = 0.46, 0.34


class BlockDrawing:
    """Draws one block with its own sizes and settings.

    Args:
        canvas: where to.
        left, top: floats, the corner of a free room of `WIDTH` by `HEIGHT`.
        block: a `TransformerBlock` with threshold attention.
    """

    def __init__(self, canvas: Canvas, left: float, top: float, block: TransformerBlock) -> None:
        self.canvas, self.left, self.top, self.block = canvas, left, top, block
        canvas.panel(left, top, WIDTH, HEIGHT)
        self._text(0.2, 0.28, "Inside a threshold attention block", 10, ha="left", weight="bold")
        self._text(
            WIDTH / 2,
            HEIGHT - 0.22,
            "A self-attention block is the same without position softmax and gate.",
            8,
            color=FAINT,
        )
        self._draw_softmaxes()
        self._draw_mixing()
        self._draw_mlp()

    def _text(self, x: float, y: float, words: str, size: float, **style: Any) -> None:
        self.canvas.text(self.left + x, self.top + y, words, size, **style)

    def _box(self, x: float, y: float, width: float, words: str, kind: str, **how: Any) -> None:
        """A box centred at x whose top is y; with words below it is taller."""
        height = _TALL if how.get("below") else _LOW
        corner = (self.left + x - width / 2, self.top + y)
        self.canvas.box(*corner, width, height, words, kind, **how)

    def _arrow(self, *points: tuple[float, float]) -> None:
        self.canvas.arrow(*((self.left + x, self.top + y) for x, y in points))

    def _norm(self, y: float, noise_stddev: float) -> None:
        self._box(_CONTENT, y, 1.9, "Layer normalisation", "learned")
        self._box(0.82, y, 1.26, _noise_words(noise_stddev), "noise", dashed=not noise_stddev)
        self._arrow((1.45, y + _LOW / 2), (_CONTENT - 0.95, y + _LOW / 2))

    def _draw_softmaxes(self) -> None:
        attention = self.block.attention
        tokens, width = self.block.input.shape[1:]
        scale = f" / √{width // attention.num_heads}" if attention.qk_scale else ""
        weights = attention.position_gate.position_weights.shape[-1]

        self._text(_CONTENT, 0.62, f"{tokens} tokens × {width}", 8, color=FAINT)
        self._arrow((_CONTENT, 0.72), (_CONTENT, 1.02))
        self._norm(1.02, self.block.norm_1.noise_stddev)
        self._arrow((_CONTENT, 1.36), (_CONTENT, 1.78))
        self._arrow((_CONTENT, 1.52), (_VALUE, 1.52), (_VALUE, 1.78))
        self._text(_PLACE, 1.56, "fixed offsets r of the tokens", 8, color=FAINT)
        self._arrow((_PLACE, 1.64), (_PLACE, 1.78))
        self._box(
            _PLACE,
            1.78,
            1.62,
            "Position softmax",
            "threshold",
            below=f"w · r, {weights} weights a head",
        )
        self._box(_CONTENT, 1.78, 1.4, "Content softmax", "learned", below=f"q · k{scale}")
        self._box(_VALUE, 1.78, 1.3, "Value", "learned", below="starts as identity")

    def _draw_mixing(self) -> None:
        attention, width = self.block.attention, self.block.input.shape[-1]
        heads, middle = attention.num_heads, (_PLACE + _CONTENT) / 2
        for x in (_PLACE, _CONTENT):
            self._arrow((x, 2.24), (x, 2.52))
        share = 1 / (1 + math.exp(-1))
        self._box(
            middle,
            2.52,
            3.3,
            f"Gate s of each head ({heads}), starts at {share:.2f}",
            "threshold",
            below="(1 − s) · content + s · position",
        )
        self._arrow((_CONTENT, 2.98), (_CONTENT, 3.22))
        self._box(
            middle,
            3.22,
            3.3,
            _noise_words(attention.attention_noise_stddev, "on the weights"),
            "noise",
            below="cut at 0, rows scaled to sum 1"
            if attention.renormalize
            else "rows left as they are",
            dashed=not attention.attention_noise_stddev,
        )
        self._arrow((_CONTENT, 3.68), (_CONTENT, 3.94))
        self._arrow((_VALUE, 2.24), (_VALUE, 3.94))
        self._box(
            (_CONTENT + _VALUE) / 2,
            3.94,
            2.9,
            "Weights × values",
            "fixed",
            below=f"{heads} heads of {width // heads}, side by side",
        )
        self._arrow((_CONTENT, 4.4), (_CONTENT, 4.62))
        self._box(_CONTENT, 4.62, 1.9, "Output projection", "learned")

    def _draw_mlp(self) -> None:
        width, hidden = self.block.input.shape[-1], self.block.mlp_hidden.units
        self._arrow((_CONTENT, 4.96), (_CONTENT, 5.14))
        self._residual(0.86, 5.25)
        self._arrow((_CONTENT, 5.36), (_CONTENT, 5.66))
        self._norm(5.66, self.block.norm_2.noise_stddev)
        self._arrow((_CONTENT, 6.0), (_CONTENT, 6.16))
        self._box(_CONTENT, 6.16, 2.3, f"MLP {width} → {hidden} → {width}, GELU", "learned")
        self._arrow((_CONTENT, 6.5), (_CONTENT, 6.62))
        self._residual(5.5, 6.73)
        self._arrow((_CONTENT, 6.84), (_CONTENT, 7.0))

    def _residual(self, start: float, end: float) -> None:
        self.canvas.plus(self.left + _CONTENT, self.top + end)
        self._arrow((_CONTENT, start), (_SIDE, start), (_SIDE, end), (_CONTENT + 0.11, end))


def _noise_words(stddev: float, where: str = "") -> str:
    words = f"Noise {where}".strip()
    return f"{words}, t = {stddev:g}" if stddev else f"{words}: off"
