"""The parts of the page about held-out images: accuracy, confusions, calibration."""

from typing import Any

from keras_dpvit.report.markup import Content, Markup, join, scrolling, section, table, tag
from keras_dpvit.report.reliability import reliability_diagram

# A larger matrix cannot be read; the most frequent confusions are listed instead.
_LARGEST_MATRIX = 30
_MOST_CONFUSIONS = 20


def scores_section(facts: dict[str, Any]) -> Markup:
    """Accuracy of each member and the whole, by class, and confusions; see `facts`."""
    data = facts["data"]
    count = f"{data['num_scored']:,} held-out images of {data['name']}"
    if data["num_scored"] < data["num_held_out"]:
        count += f" (spread evenly over all {data['num_held_out']:,})"
    return section(
        "held-out",
        "On held-out images",
        tag(
            "p",
            f"{count}. What is computed from them is not protected by epsilon, which is about the "
            "training records.",
        ),
        tag(
            "div",
            tag("div", _accuracy_table(facts), _class_table(facts)),
            tag("div", _confusions(facts), _calibration(facts)),
            class_="sides",
        ),
        covered=False,
    )


def percent(share: float | None) -> str:
    """A share in percent, one decimal; a dash where it is not defined."""
    return "–" if share is None else f"{100 * share:.1f}"


def _accuracy_table(facts: dict[str, Any]) -> Markup:
    recorded = facts["provenance"]["accuracy_when_exported"]
    rows = [
        [
            score["name"],
            percent(score["accuracy"]),
            f"{percent(score['low'])}–{percent(score['high'])}",
        ]
        for score in facts["accuracy"]
    ]
    exports = [
        f"{name} {percent(value)} %"
        for name, value in recorded.items()
        if name in ("SavedModel", "TFLite") and isinstance(value, float)
    ]
    head = ["", "right, %", "95 % interval"]
    found = tag(
        "div", tag("h3", "Accuracy"), table("Share of images whose class is right", head, rows)
    )
    if exports:
        words = f"When exported, on all held-out images: {', '.join(exports)}."
        return join(found, tag("p", words, class_="small faint"))
    return found


def _class_table(facts: dict[str, Any]) -> Markup:
    members = facts["model"]["members"]
    several = len(members) > 1
    head: list[Content] = ["class", "images", "precision", "recall"]
    if several:
        head += [f"recall {name.removeprefix('member ')}" for name in members]
    rows = [
        [
            score["name"],
            f"{score['images']:,}",
            *(percent(score[name]) for name in ("precision", "recall")),
            *(percent(recall) for recall in score["member_recall"]),
        ]
        for score in facts["classes"]
    ]
    whose = "the fused model" if several else "the model"
    caption = f"In %, of {whose}" + (", and recall of each member" if several else "")
    return tag(
        "div", tag("h3", "By class"), scrolling(table(caption, head, rows), "Scores by class")
    )


def _confusions(facts: dict[str, Any]) -> Markup:
    names = facts["data"]["class_names"]
    if len(names) > _LARGEST_MATRIX:
        return tag("div", tag("h3", "Most frequent confusions"), _confusion_list(facts))
    return tag(
        "div",
        tag("h3", "Confusion matrix"),
        scrolling(_confusion_matrix(names, facts["confusion"]), "Confusion matrix"),
    )


def _confusion_matrix(names: list[str], confusion: list[list[int]]) -> Markup:
    """A table of counts: blue where they are right, orange where not, by share of the row."""
    shares = [[count / max(1, sum(row)) for count in row] for row in confusion]
    worst = max(
        (share for i, row in enumerate(shares) for j, share in enumerate(row) if i != j), default=0
    )
    body = []
    for i, name in enumerate(names):
        cells = []
        for j, count in enumerate(confusion[i]):
            kind = "right" if i == j else "wrong"
            share = shares[i][j] if i == j else shares[i][j] / (worst or 1)
            style = f"--share:{100 * share:.0f}%"
            cells.append(
                tag("td", str(count), class_=kind, style=style)
                if count
                else tag("td", "·", class_="none", aria_label="0")
            )
        body.append(tag("tr", tag("th", name, scope="row"), cells))
    head = [tag("th", tag("span", name), scope="col") for name in names]
    return tag(
        "table",
        tag(
            "caption",
            "Counts. Rows: what the images are; columns: what the model says. The stronger the "
            "blue, the larger the share of the row; orange, as a share of the worst mistake's.",
        ),
        tag("thead", tag("tr", tag("td", "", class_="corner"), head)),
        tag("tbody", body),
        class_="confusion" if max(map(len, names)) > 2 else "confusion upright",
    )


def _confusion_list(facts: dict[str, Any]) -> Markup:
    names, confusion = facts["data"]["class_names"], facts["confusion"]
    pairs = [
        (count, i, j)
        for i, row in enumerate(confusion)
        for j, count in enumerate(row)
        if i != j and count
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    rows = [
        [names[i], names[j], str(count), percent(count / sum(confusion[i]))]
        for count, i, j in pairs[:_MOST_CONFUSIONS]
    ]
    words = f"The {len(rows)} most frequent of {len(pairs)} kinds of mistakes"
    head = ["is", "taken for", "images", "% of class"]
    return scrolling(table(words, head, rows), "Most frequent confusions")


def _calibration(facts: dict[str, Any]) -> Markup:
    found = facts["calibration"]
    caption = (
        f"Expected calibration error {100 * found['expected_error']:.1f} points. On the "
        "dashed line the model is right as often as it is sure, above it more often. A dot's area "
        "is its share of the images."
    )
    return tag(
        "figure",
        tag("h3", "Calibration"),
        reliability_diagram("reliability", found),
        tag("figcaption", caption),
    )
