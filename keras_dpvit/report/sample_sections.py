"""The parts of the page that show held-out images: predictions and attention."""

from typing import Any

import numpy as np

from keras_dpvit.models.classifier import DPViTClassifier
from keras_dpvit.report.markup import Content, Markup, scrolling, section, table, tag
from keras_dpvit.report.pictures import figure_address, image_address
from keras_dpvit.report.predictions import HeldOut
from keras_dpvit.report.run_files import Run

_TOP_CLASSES = 3
_MOST_MAPS = 6
_MOST_SHEETS = 4
_LONGEST_NAME = 14
_DPI = 100


def samples_section(held_out: HeldOut, rows: np.ndarray, names: list[str]) -> Markup:
    """Predictions of the members and the fusion for single images.

    Args:
        held_out: predictions.
        rows: int, numbers of the images shown.
        names: of the members.
    """
    wrong = int(np.sum(held_out.predicted != held_out.truth))
    total = len(held_out.truth)
    shown_wrong = int(np.sum(held_out.predicted[rows] != held_out.truth[rows]))
    words = (
        f"{shown_wrong} of these {len(rows)} are mistakes, chosen so on purpose: over all "
        f"{total:,} images {wrong:,} are ({100 * wrong / total:.1f} %). Within right and wrong the "
        "images are spread evenly. Figures are probabilities in %; the right class is underlined."
    )
    if len(names) > 1:
        words += " A member's weight in the fusion is its share of the variance over classes."
    return section(
        "samples",
        "Sample predictions",
        tag("p", words),
        tag("ul", [tag("li", _sample(held_out, row, names)) for row in rows], class_="samples"),
        covered=False,
    )


def _sample(held_out: HeldOut, row: int, names: list[str]) -> list[Content]:
    classes, truth = held_out.class_names, int(held_out.truth[row])
    guess = int(held_out.predicted[row])
    right = guess == truth
    image = tag(
        "img",
        src=image_address(held_out.images[row]),
        alt=f"Held-out image of class {classes[truth]}",
        width=84,
        height=84,
    )
    verdict = tag("span", "right" if right else "wrong", class_=f"verdict {_kind(right)}")
    head = tag(
        "p",
        f"is {classes[truth]}",
        tag("br"),
        f"model says {classes[guess]}: ",
        verdict,
    )
    return [tag("div", image, head, class_="sample-head"), _sample_table(held_out, row, names)]


def _kind(right: bool) -> str:
    return "good" if right else "bad"


def _sample_table(held_out: HeldOut, row: int, names: list[str]) -> Markup:
    truth = int(held_out.truth[row])
    whole, each = held_out.probabilities[row], held_out.member_probabilities[row]
    several = len(names) > 1
    shown = [int(i) for i in np.argsort(-whole)[:_TOP_CLASSES]]
    leaders = [int(member.argmax()) for member in each]
    shown = list(dict.fromkeys([*shown, *leaders, truth]))
    shown.sort(key=lambda i: -whole[i])
    head: list[Content] = ["class"]
    head += [name.removeprefix("member ") for name in names] if several else ["model"]
    rows: list[list[Content]] = []
    for i in shown:
        name = tag("span", held_out.class_names[i], class_="truth" if i == truth else None)
        values = [f"{100 * member[i]:.0f}" for member in each]
        rows.append([name, *values, *([f"{100 * whole[i]:.0f}"] if several else [])])
    if several:
        head.append("fused")
        rows.append(["weight", *(f"{weight:.2f}" for weight in held_out.weights[row]), ""])
    return table("Probabilities in %", head, rows)


def attention_section(run: Run, held_out: HeldOut, rows: np.ndarray) -> Markup:
    """A sheet of attention maps for each member that has attention to show."""
    rows = _half_of_each(rows)
    sheets: list[Markup] = []
    for i, (name, member) in enumerate(zip(run.member_names, run.members, strict=True)):
        if isinstance(member, DPViTClassifier) and len(sheets) < _MOST_SHEETS:
            sheets.append(_sheet(name, member, i, held_out, rows))
    if not sheets:
        words = "The model is not a transformer of this package: it has no attention maps."
        return section("attention", "Attention maps", tag("p", words))
    left = len(run.members) - len(sheets)
    note = f" {left} more members are left out." if left else ""
    return section(
        "attention",
        "Attention maps",
        tag(
            "p",
            f"How much each patch of an image is attended to, on {len(rows)} of the images "
            f"above, by member.{note}",
        ),
        sheets,
        covered=False,
    )


def _half_of_each(rows: np.ndarray) -> np.ndarray:
    """Some of the samples, mistakes (which come first) and others."""
    if len(rows) <= _MOST_MAPS:
        return rows
    return np.concatenate([rows[: _MOST_MAPS // 2], rows[-_MOST_MAPS // 2 :]])


def _sheet(name: str, member: Any, index: int, held_out: HeldOut, rows: np.ndarray) -> Markup:
    from keras_dpvit.plots import attention_figure

    classes, each = held_out.class_names, held_out.member_probabilities[rows, index]
    truths = [classes[i] for i in held_out.truth[rows]]
    labels = [
        f"{_short(truth)}\nmodel: {_short(classes[guess.argmax()])} {guess.max():.2f}"
        for truth, guess in zip(truths, each, strict=True)
    ]
    figure = attention_figure(member, held_out.images[rows].astype("float32"), labels=labels)
    address, (width, height) = figure_address(figure, _DPI)
    words = f"Attention maps of {name} for images of {', '.join(truths)}: by head at the centre "
    words += "token, averaged over tokens and heads, and by place alone before and after training."
    image = tag("img", src=address, alt=words, width=width, height=height, class_="sheet")
    opened = "open" if index == 0 else None
    title = f"{name[0].upper()}{name[1:]}"
    return tag(
        "details",
        tag("summary", title),
        scrolling(image, f"Attention maps of {name}"),
        open=opened,
    )


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
