"""Draws docs/figures/audit.png from docs/results/audit_*.json."""

import json
import pathlib
from typing import Any

HERE = pathlib.Path(__file__).parent
PICTURE = HERE / "figures" / "audit.png"
COLOURS = {
    "audit_certified": "#0072B2",
    "audit_as_published": "#D55E00",
    "audit_no_noise": "#00875F",
}
WORDS = {"certified": "certified", "as_published": "as published", "no_noise": "no noise"}


def rows() -> list[tuple[str, str, list[float]]]:
    """Colour, words and lower bounds of every setting, top to bottom."""
    found = []
    for name, colour in COLOURS.items():
        for group in json.loads((HERE / "results" / f"{name}.json").read_text("utf-8"))["groups"]:
            found.append((colour, label(group), [run["lower_bound"] for run in group["runs"]]))
    return found


def label(group: dict[str, Any]) -> str:
    """A setting in words."""
    settings = group["settings"]
    if settings["attack"] == "step":
        how = f"one step, {group['runs'][0]['trials']:,} trials"
    else:
        how = f"{group['canaries']:,} canaries, {group['score']}"
    return f"{WORDS[settings['mechanism']]}, {settings['model']}, {how}"


def main() -> None:
    """Writes the picture."""
    from matplotlib.figure import Figure

    drawn = rows()
    figure = Figure(figsize=(8, 0.32 * len(drawn) + 0.9), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    for place, (colour, _, bounds) in enumerate(drawn):
        axes.barh(place, max(bounds), color=colour, alpha=0.25, height=0.7)
        axes.plot(bounds, [place] * len(bounds), "o", color=colour, markersize=4)
    axes.axvline(2.0, color="#22262B", linewidth=1, linestyle="--")
    axes.text(2.05, -0.75, "claimed, or nominal, epsilon 2", fontsize=8, va="bottom")
    axes.set_yticks(range(len(drawn)), [words for _, words, _ in drawn], fontsize=8)
    axes.set_ylim(len(drawn) - 0.5, -1.1)
    axes.set_xlim(0, None)
    axes.set_xlabel("lower bound on epsilon, 95 % (each dot one run)", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=130)


if __name__ == "__main__":
    main()
