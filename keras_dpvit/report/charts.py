"""Line charts as SVG that takes its colours from the page, in light and in dark.

A chart is as wide as a telephone and stands beside others where there is room, so that its words
keep their size. Lines carry their names at their ends; there is no legend to look up.
"""

import dataclasses
import math
from collections.abc import Sequence

from keras_dpvit.report.markup import Markup, tag

Point = tuple[float, float]

WIDTH, HEIGHT = 360, 236
_LEFT, _TOP, _BOTTOM = 44.0, 34.0, 38.0
_CHARACTER, _LABEL_STEP = 8.2, 13.0
NUM_COLOURS = 4


@dataclasses.dataclass(frozen=True)
class Curve:
    """A line of a chart.

    Attributes:
        name: written at its end.
        points: (x, y) in the units of the axes; those that are not finite are left out.
        style: int, which colour and dashes, or "ink" for the line that the chart is about.
    """

    name: str
    points: Sequence[Point]
    style: int | str

    @property
    def finite(self) -> list[Point]:
        """The points that can be drawn."""
        return [p for p in self.points if math.isfinite(p[0]) and math.isfinite(p[1])]


@dataclasses.dataclass(frozen=True)
class Axes:
    """The plane of a chart, in the units of the data and of the page.

    Attributes:
        x, y: (least, most) in the units of the data.
        right: float, the right end in the chart's units.
        counts: bool, whether x counts something, in whole numbers.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    right: float
    counts: bool = False

    def at(self, point: Point) -> Point:
        """A point's place in the chart."""
        x = (point[0] - self.x[0]) / (self.x[1] - self.x[0])
        y = (point[1] - self.y[0]) / (self.y[1] - self.y[0])
        floor = HEIGHT - _BOTTOM
        return _LEFT + x * (self.right - _LEFT), floor - y * (floor - _TOP)

    def frame(self, x_label: str, y_label: str) -> list[Markup]:
        """Grid, numbers and what the axes are."""
        marks = []
        for value in ticks(*self.y):
            _, y = self.at((self.x[0], value))
            marks.append(line((_LEFT, y), (self.right, y), "grid"))
            marks.append(text(_LEFT - 6, y + 4, number(value), "tick", "end"))
        for value in ticks(*self.x, least_step=1.0 if self.counts else 0.0):
            if not self.x[0] <= value <= self.x[1]:
                continue
            x, y = self.at((value, self.y[0]))
            marks.append(line((x, y), (x, y + 4), "axis"))
            marks.append(text(x, y + 16, number(value), "tick", "middle"))
        floor = HEIGHT - _BOTTOM
        marks.append(line((_LEFT, floor), (self.right, floor), "axis"))
        marks.append(text(4, 14, y_label, "label", "start"))
        marks.append(text(self.right, HEIGHT - 5, x_label, "label", "end"))
        return marks


def line_chart(
    name: str,
    title: str,
    description: str,
    curves: Sequence[Curve],
    axes_labels: tuple[str, str],
    limit: tuple[float, str] | None = None,
) -> Markup:
    """A chart of lines over steps or epochs, from zero upwards.

    Args:
        name: unique on the page, for references.
        title: what it shows.
        description: the same in words and figures, for those who do not see it.
        curves: at least one with a finite point.
        axes_labels: what x and y are.
        limit: a height to be kept, and its name, drawn across.
    """
    points = [point for curve in curves for point in curve.finite]
    most_x, most_y = max(p[0] for p in points), max(p[1] for p in points)
    least_x = min(p[0] for p in points)
    if limit is not None:
        most_y = max(most_y, 1.1 * limit[0])  # its name stands above it
    at_end = [c for c in curves if c.finite and c.finite[-1][0] == most_x]
    longest = max(len(curve.name) for curve in at_end)
    axes = Axes(
        x=(least_x, max(most_x, least_x + 1)),
        y=(0.0, ticks(0.0, most_y)[-1] or 1.0),
        right=WIDTH - 10 - _CHARACTER * longest,
        counts=True,
    )
    marks = axes.frame(*axes_labels)
    if limit is not None:
        _, y = axes.at((axes.x[0], limit[0]))
        marks.append(line((_LEFT, y), (axes.right, y), "limit"))
    for curve in curves:
        marks.extend(_drawn(curve, axes))
    if limit is not None:  # over the lines: words must be read
        marks.append(text(_LEFT + 4, y - 5, limit[1], "label", "start"))
    marks.extend(_names(curves, axes))
    return svg(name, title, description, marks)


def svg(name: str, title: str, description: str, marks: Sequence[Markup]) -> Markup:
    """A picture of the page's size of charts, with its words for those who do not see it."""
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", description, id=f"{name}-desc"),
        marks,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        class_="chart",
    )


def ticks(least: float, most: float, least_step: float = 0.0) -> list[float]:
    """About five round numbers from at or below `least` to at or above `most`."""
    raw = max((most - least) / 5, least_step)
    if raw <= 0:
        return [least]
    scale = 10.0 ** math.floor(math.log10(raw))
    step = scale * next(factor for factor in (1, 2, 5, 10) if factor * scale >= raw * 0.999)
    first, last = math.floor(least / step + 1e-9), math.ceil(most / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def number(value: float) -> str:
    """A number on an axis."""
    return f"{value:,.0f}" if value == round(value) else f"{value:g}"


def style_class(style: int | str) -> str:
    """The class of a line's colour."""
    return f"line-{style if isinstance(style, str) else style % NUM_COLOURS + 1}"


def _drawn(curve: Curve, axes: Axes) -> list[Markup]:
    places = [axes.at(point) for point in curve.finite]
    if not places:
        return []
    if len(places) == 1:
        ((x, y),) = places
        return [dot(x, y, curve.style)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    end = dot(*places[-1], curve.style)
    dashes = isinstance(curve.style, int) and curve.style // NUM_COLOURS
    return [
        tag(
            "polyline",
            points=path,
            class_=f"line {style_class(curve.style)}",
            stroke_dasharray=f"{2 + 2 * dashes} 3" if dashes else None,
        ),
        end,
    ]


def dot(x: float, y: float, style: int | str, radius: float = 3.5) -> Markup:
    """A single point."""
    return tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=radius, class_=f"dot {style_class(style)}")


def _names(curves: Sequence[Curve], axes: Axes) -> list[Markup]:
    """The lines' names at their ends, pushed apart where they would overlap.

    The name of a line that ends before the others stands below its end, out of their way.
    """
    marks, at_right = [], []
    for curve in curves:
        if not curve.finite:
            continue
        x, y = axes.at(curve.finite[-1])
        if x < axes.right - 1:
            marks.append(_name(curve, x + 3, y + 15))
        else:
            at_right.append((y, curve))
    heights: list[float] = []
    at_right.sort(key=lambda end: end[0])
    for y, _ in at_right:
        heights.append(max(y + 4, heights[-1] + _LABEL_STEP) if heights else y + 4)
    lowest = float(HEIGHT - _BOTTOM)
    for i in reversed(range(len(heights))):  # back up where they would leave the chart
        heights[i] = min(heights[i], lowest)
        lowest = heights[i] - _LABEL_STEP
    for height, (_, curve) in zip(heights, at_right, strict=True):
        marks.append(_name(curve, axes.right + 7, height))
    return marks


def _name(curve: Curve, x: float, y: float) -> Markup:
    return tag("g", text(x, y, curve.name, "name", "start"), class_=style_class(curve.style))


def line(start: Point, end: Point, class_: str) -> Markup:
    """A straight line between two places of the chart."""
    (x1, y1), (x2, y2) = start, end
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return tag("line", **{k: f"{v:.1f}" for k, v in ends.items()}, class_=class_)


def text(x: float, y: float, words: str, class_: str, anchor: str) -> Markup:
    """Words that start, end or have their middle at a place of the chart."""
    return tag("text", words, x=f"{x:.1f}", y=f"{y:.1f}", class_=class_, text_anchor=anchor)
