"""A drawing board in inches, and the colours of all pictures."""

from typing import Any

INK = "#22262B"
FAINT = "#6B737D"
_PALE = "#F8F9FA"

# Fill and edge of each kind of box, after Okabe and Ito's palette, which keeps apart for every
# kind of colour vision. The edges differ in lightness too.
COLOURS = {
    "fixed": ("#F0F1F3", "#8A929C"),
    "learned": ("#FBF3CC", "#A38A00"),
    "threshold": ("#FBD9BF", "#D55E00"),
    "self": ("#D3E6F4", "#0072B2"),
    "conv": ("#CFEDE2", "#00875F"),
    "noise": ("#F5DDEA", "#B0558A"),
}


class Canvas:
    """Boxes, arrows and words on one sheet; x runs right and y down, both in inches.

    Args:
        width, height: floats, inches.
    """

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(width, height), facecolor="white")
        self._renderer = FigureCanvasAgg(self.figure).get_renderer()
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_xlim(0, width)
        self.axes.set_ylim(height, 0)
        self.axes.set_axis_off()
        self.axes.set_autoscale_on(False)

    def text(self, x: float, y: float, words: str, size: float = 8.5, **style: Any) -> float:
        """Writes words, centred at a point unless the style says otherwise; returns their width."""
        style = {"ha": "center", "va": "center", "color": INK, **style}
        written = self.axes.text(x, y, words, fontsize=size, **style)
        return float(written.get_window_extent(self._renderer).width / self.figure.dpi)

    def panel(self, x: float, y: float, width: float, height: float, fill: str = _PALE) -> None:
        """A pale ground behind what belongs together."""
        corner = 0.1 if fill == _PALE else 0.01
        order = 2 if fill == "none" else 0.5
        self._patch(x, y, width, height, corner, facecolor=fill, edgecolor="#D3D8DE", zorder=order)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        words: str,
        kind: str,
        below: str = "",
        dashed: bool = False,
    ) -> None:
        """A box with its top left corner at (x, y), a line of words and a smaller one below."""
        fill, edge = COLOURS[kind]
        fill = "white" if dashed else fill
        self._patch(
            x,
            y,
            width,
            height,
            0.06,
            facecolor=fill,
            edgecolor=edge,
            linewidth=2.0 if kind == "threshold" else 1.2,
            linestyle="--" if dashed else "-",
            zorder=2,
        )
        middle = x + width / 2
        if not below:
            self.text(middle, y + height / 2, words, zorder=3)
            return
        self.text(middle, y + height * 0.34, words, zorder=3)
        self.text(middle, y + height * 0.71, below, size=7.5, color=FAINT, zorder=3)

    def bar(self, x: float, y: float, width: float, height: float) -> None:
        """A filled bar with its top left corner at (x, y)."""
        from matplotlib.patches import Rectangle

        self.axes.add_patch(Rectangle((x, y), width, height, facecolor=COLOURS["self"][1]))

    def _patch(
        self, x: float, y: float, width: float, height: float, radius: float, **style: Any
    ) -> None:
        from matplotlib.patches import FancyBboxPatch

        shape = f"round,pad=0,rounding_size={radius}"
        self.axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=shape, **style))

    def image(
        self, x: float, y: float, width: float, height: float, pixels: Any, framed: bool = False
    ) -> None:
        """An array of colours with its top left corner at (x, y), its pixels as sharp squares."""
        extent = (x, x + width, y + height, y)
        self.axes.imshow(pixels, extent=extent, aspect="auto", interpolation="nearest", zorder=1)
        if framed:
            self.panel(x, y, width, height, fill="none")

    def arrow(self, *points: tuple[float, float], words: str = "") -> None:
        """An arrow along the points; words stand to the right of its last stretch."""
        xs, ys = zip(*points, strict=True)
        self.axes.plot(xs[:-1], ys[:-1], color=INK, linewidth=1.1, zorder=1)
        self.axes.annotate(
            "",
            xy=points[-1],
            xytext=points[-2],
            arrowprops={
                "arrowstyle": "-|>,head_width=0.16,head_length=0.3",
                "color": INK,
                "linewidth": 1.1,
                "shrinkA": 0,
                "shrinkB": 0,
            },
            zorder=1,
        )
        if words:
            y = (ys[-1] + ys[-2]) / 2
            self.text(xs[-1] + 0.1, y, words, size=8, ha="left", color=FAINT)

    def plus(self, x: float, y: float, radius: float = 0.11) -> None:
        """A sum: a plus in a circle."""
        from matplotlib.patches import Circle

        circle = Circle((x, y), radius, facecolor="white", edgecolor=INK, linewidth=1.1, zorder=2)
        self.axes.add_patch(circle)
        reach = radius * 0.6
        for dx, dy in ((reach, 0), (0, reach)):
            self.axes.plot([x - dx, x + dx], [y - dy, y + dy], color=INK, linewidth=1.1, zorder=3)
