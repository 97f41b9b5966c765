"""The parts of the page about privacy: what is promised, at what cost, by which mechanism."""

import itertools
import math
from typing import Any

from keras_dpvit.privacy.accounting import ACCOUNTANTS
from keras_dpvit.privacy.statement import format_epsilon
from keras_dpvit.report.charts import Curve, line_chart
from keras_dpvit.report.markup import Content, Markup, join, scrolling, section, table, tag

# More lines than these cannot be told apart.
MAX_CURVES = 8


def epsilon_section(privacy: dict[str, Any]) -> Markup:
    """Epsilon over the steps, with the run's budget, and epsilon of each member.

    Args:
        privacy: see `privacy_facts`.
    """
    members = privacy["members"]
    rows = [[member["name"], *_epsilon_cells(member["epsilon"])] for member in members]
    if len(members) > 1:
        rows.append(["together", *_epsilon_cells(privacy["epsilon"])])
    head = ["", *(name.upper() for name in ACCOUNTANTS)]
    words = f"Epsilon at delta {privacy['delta']:g}, {privacy['adjacency']} adjacency"
    if privacy["unit"] != "record":
        words += f", unit: {privacy['unit']}"
    return section(
        "epsilon",
        "Epsilon over the steps",
        tag(
            "div",
            _curve_figure(privacy),
            tag("div", table(words, head, rows), tag("p", _composition(privacy), class_="small")),
            class_="sides",
        ),
    )


def _epsilon_cells(found: dict[str, float]) -> list[str]:
    return [format_epsilon(found[name]) if name in found else "–" for name in ACCOUNTANTS]


def _curve_figure(privacy: dict[str, Any]) -> Markup:
    drawn = [c for c in privacy["curves"] if c["members"]][:MAX_CURVES]
    together = [c for c in privacy["curves"] if not c["members"]]
    several = len(privacy["members"]) > 1
    lines = [Curve(c["name"], c["points"][1:], "ink") for c in together]  # below the others
    lines += [
        Curve(c["name"], c["points"][1:], i if several else "ink") for i, c in enumerate(drawn)
    ]
    lines = [line for line in lines if line.finite]
    if not lines:
        return tag("p", "Epsilon is infinite from the first step on: there is no curve to draw.")
    budget = privacy["budget"]
    limit, whose = None, "RDP"
    if budget is not None:
        whose = budget["accountant"].upper()
        limit = (budget["epsilon"], f"budget {budget['epsilon']:g} ({whose})")
    ends = [f"{c['name']} ends at {format_epsilon(c['points'][-1][1])}" for c in privacy["curves"]]
    chart = line_chart(
        "epsilon-chart",
        f"Epsilon by {whose} over the training steps",
        "; ".join(ends) + ".",
        lines,
        ("steps", f"epsilon ({whose})"),
        limit,
    )
    return tag("figure", chart, tag("figcaption", _curve_caption(privacy)))


def _curve_caption(privacy: dict[str, Any]) -> str:
    """A caption on reading the curve, and on what it leaves out."""
    words = ["What the noisy steps so far have cost, from the ledger."]
    if any(not curve["members"] for curve in privacy["curves"]):
        words.append(
            "The members were trained one after another on the same records: the heavy line "
            "counts all that was released, a member's line that member alone."
        )
    if sum(bool(curve["members"]) for curve in privacy["curves"]) > MAX_CURVES:
        words.append(f"Of the members' lines, the first {MAX_CURVES} are drawn.")
    for curve in privacy["curves"]:
        infinite = [step for step, epsilon in curve["points"] if math.isinf(epsilon)]
        if infinite:
            whose = curve["name"] if curve["members"] else "all together"
            words.append(f"Epsilon of {whose} is infinite from step {infinite[0]} on.")
    budget = privacy["budget"]
    if budget is not None:
        spent = privacy["epsilon"].get(budget["accountant"], math.inf)
        if budget["epsilon"] < spent < math.inf:
            words.append(
                f"The total, {format_epsilon(spent)}, is above the budget: that was for the "
                "training of this run alone, the ledger counts all that the weights have cost."
            )
    return " ".join(words)


def _composition(privacy: dict[str, Any]) -> str:
    count = len(privacy["members"])
    if count == 1:
        return "RDP and PLD are two upper bounds on one and the same epsilon."
    if privacy["ledger"]["kind"] == "parallel":
        return (
            f"The {count} members were trained on disjoint parts of the records, each record "
            "assigned independently, so the largest epsilon counts for all together."
        )
    return (
        f"The {count} members were trained on the same records, so their costs compose. Fusing "
        "them learns nothing and costs nothing more."
    )


def statement_section(privacy: dict[str, Any]) -> Markup:
    """The privacy statement in full."""
    return section(
        "statement",
        "Privacy statement",
        tag("div", statement_markup(privacy["statement"]), class_="statement"),
    )


def statement_markup(text: str) -> Markup:
    """A statement's text of 80 columns as paragraphs and lists, word for word."""
    blocks: list[Content] = []
    for block in text.strip().split("\n\n"):
        paragraph: list[str] = []
        items: list[list[str]] = []
        for line in block.splitlines():
            if line.startswith("  * "):
                items.append([line[4:]])
            elif items and line.startswith("    "):
                items[-1].append(line.strip())
            elif line.startswith("    "):
                paragraph.append("\n" + line.strip() + "\n")
            else:
                paragraph.append(line)
        blocks.append(tag("p", _with_breaks(" ".join(paragraph))))
        if items:
            blocks.append(tag("ul", [tag("li", " ".join(item)) for item in items]))
    return join(*blocks)


def _with_breaks(text: str) -> Markup:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    pieces: list[Content] = list(itertools.chain.from_iterable((tag("br"), line) for line in lines))
    return join(*pieces[1:])


def mechanism_section(privacy: dict[str, Any]) -> Markup:
    """A table of what each training did: sampling, clipping, sensitivity and noise."""
    trainings = privacy["trainings"]
    if not trainings:
        return section("mechanism", "Mechanism", tag("p", "No private training is on record."))
    columns = [_mechanism_words(training) for training in trainings]
    rows = [
        [name, *(column.get(name, "–") for column in columns)]
        for name in dict.fromkeys(itertools.chain.from_iterable(columns))
    ]
    head = ["", *(" and ".join(training["members"]) for training in trainings)]
    return section(
        "mechanism",
        "Mechanism",
        scrolling(table("What each training did", head, rows, class_="words"), "Mechanism"),
    )


def _mechanism_words(training: dict[str, Any]) -> dict[str, Content]:
    """A column of the table: what is said of one training, by the name of its row."""
    entry, last = training["entry"], training["last"] or training["entry"]
    details, last_details = entry["details"], last["details"]
    words: dict[str, Content] = {
        "steps": f"{entry['steps']:,}"
        + (f" of {details['planned_steps']:,} planned" if "planned_steps" in details else ""),
        "sampling": _sampling_words(entry),
        "noise multiplier of a step": _range(entry["noise_multiplier"], last["noise_multiplier"]),
        "bounds what one record adds": "yes" if entry["certified"] else "no: epsilon is infinite",
    }
    if entry["noise_multiplier"] == 0:
        words["bounds what one record adds"] = "no noise: epsilon is infinite"
    if details.get("release") == "mean":
        words["sampling"] = "every record, once: the mean of a feature vector"
    if details.get("release") == "head":
        words["sampling"] = (
            "every record, in the features' covariance matrix and in "
            f"{details['residual_sums']} sums of residuals: a head solved by {details['solver']}"
        )
    if "gradient_noise_multiplier" not in details:
        return words
    words["… noise multiplier of the gradients"] = _range(
        details["gradient_noise_multiplier"], last_details["gradient_noise_multiplier"]
    )
    if details["count_noise_stddev"]:
        words["… noise on the count that moves the sensitivity"] = _range(
            details["count_noise_stddev"], last_details["count_noise_stddev"]
        )
    if details.get("metrics_noise_multiplier"):
        words["… noise multiplier of the private metrics"] = _range(
            details["metrics_noise_multiplier"], last_details["metrics_noise_multiplier"]
        )
    words["records"] = f"{details['num_examples']:,}"
    words["expected batch"] = f"{details['batch_size']:,}"
    words["records in a microbatch"] = str(details.get("microbatch_size", 1))
    for name in ("clipping", "sensitivity", "noise_schedule"):
        if name in details:
            words[name.replace("_", " ")] = _part_words(details[name])
    fixed = details.get("seed_fixed", False)
    words["seed of the noise"] = (
        "fixed: privacy rests on its secrecy" if fixed else "from the operating system's entropy"
    )
    return words


def _sampling_words(entry: dict[str, Any]) -> str:
    if entry["sampling"] == "poisson":
        return f"Poisson, each record with probability {entry['sampling_probability']:.6g}"
    made = (
        "batches made elsewhere" if entry["details"].get("sampling") == "external" else "shuffled"
    )
    return f"{entry['passes']} passes, {made}, fixed size, not amplified"


def _range(first: Any, last: Any) -> str:
    if not isinstance(first, (int, float)) or not isinstance(last, (int, float)):
        return "–"
    return f"{first:.6g}" if first == last else f"{first:.6g} to {last:.6g}"


def _part_words(part: dict[str, Any]) -> Markup:
    """A part of the plan: its name, and its settings below."""
    settings = [
        f"{key.replace('_', ' ')} {value:g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in part.items()
        if key != "name" and value is not None
    ]
    below = tag("span", ", ".join(settings).replace("_", " "), class_="faint small")
    name = str(part.get("name", "")).replace("_", " ")
    return join(name, tag("br"), below) if settings else join(name)
