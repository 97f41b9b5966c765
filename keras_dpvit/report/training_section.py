"""The part of the page about training: loss, accuracy and epsilon by epoch."""

from typing import Any

from keras_dpvit.report.charts import Curve, line_chart
from keras_dpvit.report.markup import Markup, section, tag
from keras_dpvit.report.privacy_sections import MAX_CURVES

_SHOWN = {
    "loss": "loss on training records",
    "accuracy": "accuracy on training records",
    "epsilon": "epsilon",
}


def training_section(histories: list[dict[str, Any]]) -> Markup:
    """The section with each member's curves from `fit`.

    Args:
        histories: for each member "name", and values by epoch by the name of what was measured.
    """
    figures = [
        _figure(what, words, histories)
        for what, words in _SHOWN.items()
        if any(history.get(what) for history in histories)
    ]
    if not figures:
        return section("training", "Training", tag("p", "The run recorded no curves."))
    return section(
        "training",
        "Training",
        tag(
            "p",
            "Loss and accuracy are computed from the training records as fit shows them, and are "
            "not covered by epsilon: they are for those who may see these records. Epsilon by "
            "epoch follows from the plan and the number of steps alone.",
        ),
        tag("div", figures, class_="charts"),
        covered=False,
    )


def _figure(what: str, words: str, histories: list[dict[str, Any]]) -> Markup:
    shown = [history for history in histories if history.get(what)][:MAX_CURVES]
    if len(shown) > 1 and all(history[what] == shown[0][what] for history in shown):
        shown = [{**shown[0], "name": "each member"}]
    curves = [
        Curve(
            history["name"],
            list(enumerate(history[what], 1)),
            "ink" if len(shown) == 1 else index,
        )
        for index, history in enumerate(shown)
    ]
    drawable = [curve for curve in curves if curve.finite]
    if not drawable:
        return tag("p", f"No {words} to draw: it is infinite or undefined in every epoch.")
    ends = [f"{c.name} ends at {c.finite[-1][1]:.4g}" for c in drawable]
    missing = sum(len(curve.points) - len(curve.finite) for curve in curves)
    note = f" {missing} values that are infinite or undefined are left out." if missing else ""
    title = f"{words[0].upper()}{words[1:]} by epoch"
    chart = line_chart(
        f"training-{what}", title, "; ".join(ends) + "." + note, drawable, ("epoch", words)
    )
    return tag("figure", chart, tag("figcaption", f"{title}.{note}"))
