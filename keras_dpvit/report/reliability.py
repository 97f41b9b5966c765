"""The reliability diagram: how often the model is right, by how sure it is."""

import math
from typing import Any

from keras_dpvit.report.charts import WIDTH, Axes, dot, line, svg
from keras_dpvit.report.markup import Markup


def reliability_diagram(name: str, found: dict[str, Any]) -> Markup:
    """A dot for each bin of confidence, its area the share of images, and the diagonal.

    Args:
        name: unique on the page, for references.
        found: as `scores.calibration` gives it.
    """
    axes = Axes(x=(0.0, 1.0), y=(0.0, 1.0), right=WIDTH - 16)
    marks = axes.frame("highest probability", "share that is right")
    marks.append(line(axes.at((0, 0)), axes.at((1, 1)), "limit"))
    filled = [b for b in found["bins"] if b["images"]]
    total = sum(b["images"] for b in filled)
    for part in filled:
        sure, right = part["confidence"], part["accuracy"]
        x, y = axes.at((sure, right))
        marks.append(line(axes.at((sure, sure)), (x, y), "gap"))
        marks.append(dot(x, y, 0, radius=round(2.5 + 12 * math.sqrt(part["images"] / total), 1)))
    words = "; ".join(
        f"{b['images']} images sure by {b['low']:.1f} to {b['high']:.1f}: "
        f"{b['accuracy']:.2f} are right"
        for b in filled
    )
    title = f"Reliability: expected calibration error {found['expected_error']:.3f}"
    return svg(name, title, words, marks)
