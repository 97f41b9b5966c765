"""The comparison of systems as Markdown, and as a picture with the axes of the paper's Figure 5."""

import io
from typing import Any

import numpy as np

from keras_dpvit.plots.canvas import COLOURS, FAINT, INK
from keras_dpvit.reproduction.tables import interval

_LINES = [COLOURS[kind][1] for kind in ("self", "threshold", "conv", "noise", "learned", "fixed")]
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def page(content: dict[str, Any], picture: str) -> str:
    """A page on a comparison.

    Args:
        content: what `comparison.compare` returned.
        picture: the picture's place beside the page.
    """
    title = f"Systems compared on {content['dataset']}"
    protects = [f"* **{about['title']}**: {about['protects']}." for about in _systems(content)]
    parts = [f"# {title}", f"![{title}]({picture})", table(content), "## Who is protected"]
    return "\n\n".join(parts) + "\n\n" + "\n".join(protects) + "\n"


def _systems(content: dict[str, Any]) -> list[dict[str, str]]:
    return list(content["systems"].values())


def groups(content: dict[str, Any]) -> list[tuple[str, float, list[dict[str, Any]]]]:
    """(system, epsilon, results of all seeds), budgets in order and systems in theirs."""
    found: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for cell in content["cells"]:
        found.setdefault((cell["epsilon"], cell["system"]), []).append(cell["result"])
    order = list(content["systems"])
    keys = sorted(found, key=lambda key: (key[0], order.index(key[1])))
    return [(system, epsilon, found[epsilon, system]) for epsilon, system in keys]


def table(content: dict[str, Any]) -> str:
    """The figures as a Markdown table: means, and half the 95 % interval over seeds."""
    heads = [
        "system",
        "epsilon",
        "seeds",
        "accuracy",
        "attack's AUC",
        "learned numbers",
        "parameters",
        "MACs",
        "seconds",
        "bytes to train",
        "bytes an answer",
    ]
    lines = [heads, ["---"] * len(heads)]
    for system, epsilon, results in groups(content):
        first = results[0]
        lines.append(
            [
                content["systems"][system]["title"],
                f"{epsilon:g} ({max(r['epsilon']['pld'] for r in results):.2f})",
                str(len(results)),
                _mean([100 * r["accuracy"][-1] for r in results], 1),
                _mean([r["membership"]["auc"] for r in results], 3),
                _short(first["trained_parameters"]),
                _short(first["parameters"]),
                _short(first["macs"]),
                _mean([r["seconds"] for r in results], 0),
                _short(first["training_bytes"]),
                _short(first["answer_bytes"]),
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _mean(values: list[float], digits: int) -> str:
    mean, half = interval(values)
    return f"{mean:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def _short(number: float) -> str:
    for unit, name in _UNITS:
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:g}"


def picture(content: dict[str, Any]) -> bytes:
    """A PNG: accuracy on test images by step, a panel for each budget.

    Args:
        content: what `comparison.compare` returned.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    epsilons = sorted({cell["epsilon"] for cell in content["cells"]})
    figure = Figure(figsize=(1 + 4.6 * len(epsilons), 4.0), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    colours = dict(zip(content["systems"], _LINES, strict=False))
    for number, epsilon in enumerate(epsilons):
        axes = figure.add_subplot(1, len(epsilons), number + 1)
        for system, budget, results in groups(content):
            if budget == epsilon:
                _line(axes, colours[system], content["systems"][system]["title"], results)
        axes.set_title(f"epsilon {epsilon:g}", fontsize=10, color=INK)
        axes.set_xlabel("step", fontsize=8, color=FAINT)
        axes.tick_params(labelsize=8, colors=FAINT)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=7, frameon=False)
    figure.suptitle(f"Accuracy by step, {content['dataset']}", fontsize=11, color=INK)
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=110, metadata={"Software": None})
    return written.getvalue()


def _line(axes: Any, colour: str, title: str, results: list[dict[str, Any]]) -> None:
    """Means over the seeds by step, and from the least to the greatest."""
    length = min(len(result["accuracy"]) for result in results)
    values = np.array([result["accuracy"][:length] for result in results])
    steps = results[0]["steps"][:length]
    axes.plot(steps, values.mean(axis=0), color=colour, label=title, linewidth=1.6, marker=".")
    axes.fill_between(
        steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0
    )
