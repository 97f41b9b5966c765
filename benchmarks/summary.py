"""From timings to ratios, and from ratios to bars; pure functions of numbers."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

TIME = "time"
MEMORY_PEAK = "peak_mib"
MEMORY_TRAINING = "training_mib"
MEMORY_NAMES = {
    MEMORY_PEAK: "peak memory",
    MEMORY_TRAINING: "memory of training",
}


@dataclasses.dataclass(frozen=True)
class Bar:
    """A ratio to report, of what `over` takes to what `under` takes.

    Of several names the side with the least mean time is taken: each side in its better mode.

    Attributes:
        title: what is compared, for the table.
        over: names of sides.
        under: names of sides.
        at_most: float or None, the ratio must not exceed it.
        at_least: float or None, the ratio must reach it.
        quantity: `TIME`, or one of the memories of `side_summary`.
    """

    title: str
    over: tuple[str, ...]
    under: tuple[str, ...]
    at_most: float | None = None
    at_least: float | None = None
    quantity: str = TIME

    @property
    def limit(self) -> str:
        """The bar as text; empty for a ratio that is for information only."""
        if self.at_most is not None:
            return f"<= {self.at_most:.2f}"
        return "" if self.at_least is None else f">= {self.at_least:.2f}"

    def holds(self, ratio: float) -> bool | None:
        """Whether a ratio keeps the bar; None where there is none."""
        if self.at_most is not None:
            return ratio <= self.at_most
        return None if self.at_least is None else ratio >= self.at_least


_VIT_DP, _VIT_PLAIN = ("vit_dp", "vit_dp_xla"), ("vit_plain", "vit_plain_xla")
_SMALL_DP, _SMALL_PLAIN = ("small_dp", "small_dp_xla"), ("small_plain", "small_plain_xla")
_DP_OVER_PLAIN: tuple[tuple[str, tuple[str, ...], tuple[str, ...], float | None], ...] = (
    ("ViT, no XLA: DP / plain", _VIT_DP[:1], _VIT_PLAIN[:1], 1.15),
    ("ViT, XLA: DP / plain", _VIT_DP[1:], _VIT_PLAIN[1:], 1.30),
    ("ViT, better mode of each: DP / plain", _VIT_DP, _VIT_PLAIN, None),
    ("small, no XLA: DP / plain", _SMALL_DP[:1], _SMALL_PLAIN[:1], None),
    ("small, XLA: DP / plain", _SMALL_DP[1:], _SMALL_PLAIN[1:], None),
    ("small, better mode of each: DP / plain", _SMALL_DP, _SMALL_PLAIN, 1.30),
)
BARS = (
    *(Bar(title, dp, plain, limit) for title, dp, plain, limit in _DP_OVER_PLAIN),
    *(
        Bar(f"{title}, {MEMORY_NAMES[quantity]}", dp, plain, 1.25, quantity=quantity)
        for title, dp, plain, _ in _DP_OVER_PLAIN
        for quantity in (MEMORY_TRAINING, MEMORY_PEAK)
        if "better" not in title
    ),
    Bar("TF Privacy DP / tf_keras plain", ("tf_privacy_dp",), ("tf_privacy_plain",)),
    Bar("TF Privacy DP / our DP, no XLA", ("tf_privacy_dp",), _VIT_DP[:1], at_least=25.0),
    Bar("Opacus flat / PyTorch plain", ("opacus_flat",), ("torch_plain",)),
    Bar("Opacus per layer / PyTorch plain", ("opacus_per_layer",), ("torch_plain",)),
    Bar("our DP, better mode / Opacus flat", _VIT_DP, ("opacus_flat",), 1.0),
    Bar("our DP, better mode / Opacus per layer", _VIT_DP, ("opacus_per_layer",), 1.0),
)


def side_summary(
    rounds: Sequence[Sequence[float]],
    records: Sequence[Sequence[int]],
    first_steps: Sequence[float],
    memory: Mapping[str, int],
) -> dict[str, Any]:
    """What is reported of one side.

    Args:
        rounds: seconds of each timed step, by round.
        records: batch size of each of these, by round.
        first_steps: seconds of the steps before the first round.
        memory: `built_kib` and `peak_kib`.
    """
    steps = [seconds for turn in rounds for seconds in turn]
    sizes = [size for turn in records for size in turn]
    return {
        "mean_seconds": statistics.fmean(steps),
        "median_seconds": statistics.median(steps),
        "min_seconds": min(steps),
        "max_seconds": max(steps),
        "round_mean_seconds": [statistics.fmean(turn) for turn in rounds],
        "timed_steps": len(steps),
        "mean_batch_size": statistics.fmean(sizes),
        "first_step_seconds": first_steps[0],
        "next_steps_seconds": list(first_steps[1:]),
        MEMORY_PEAK: memory["peak_kib"] / 1024,
        MEMORY_TRAINING: (memory["peak_kib"] - memory["built_kib"]) / 1024,
    }


def fastest(names: Sequence[str], sides: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The side with the least mean time among those that were measured, or None."""
    present = [name for name in names if name in sides]
    return min(present, key=lambda name: sides[name]["mean_seconds"], default=None)


def ratio(
    over: Mapping[str, Any], under: Mapping[str, Any], quantity: str = TIME
) -> dict[str, float]:
    """The ratio of two side summaries.

    Returns:
        "measured"; for times this is the median of the rounds' ratios of means, beside it "min"
        and "max" of these, and "of_means", the ratio of the means over all rounds.
    """
    if quantity != TIME:
        return {"measured": over[quantity] / under[quantity]}
    rounds = [
        a / b for a, b in zip(over["round_mean_seconds"], under["round_mean_seconds"], strict=True)
    ]
    return {
        "measured": statistics.median(rounds),
        "min": min(rounds),
        "max": max(rounds),
        "of_means": over["mean_seconds"] / under["mean_seconds"],
    }


def judge(
    sides: Mapping[str, Mapping[str, Any]], bars: Sequence[Bar] = BARS
) -> list[dict[str, Any]]:
    """Each bar with its measured ratio, as far as its sides were measured.

    Args:
        sides: name to `side_summary`.
        bars: what to compare.

    Returns:
        for each bar "title", "quantity", "limit" and "holds" (None: no bar, or not measured),
        and where measured "over" and "under" (the sides taken) and the numbers of `ratio`. In its
        better mode a side is taken only if all its modes were measured.
    """
    judged = []
    for bar in bars:
        entry: dict[str, Any] = {
            "title": bar.title,
            "quantity": bar.quantity,
            "limit": bar.limit,
            "holds": None,
        }
        over, under = fastest(bar.over, sides), fastest(bar.under, sides)
        if over is not None and under is not None and {*bar.over, *bar.under} <= sides.keys():
            numbers = ratio(sides[over], sides[under], bar.quantity)
            entry |= {"over": over, "under": under, **numbers}
            entry["holds"] = bar.holds(numbers["measured"])
        judged.append(entry)
    return judged


def side_table(sides: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of text, one for each side."""
    lines = [
        f"{'side':18} {'mean':>9} {'median':>9} {'least':>9} {'steps':>6} {'batch':>6} "
        f"{'first step':>10} {'training':>9} {'peak':>9}",
        f"{'':18} {'ms':>9} {'ms':>9} {'ms':>9} {'':>6} {'mean':>6} {'s':>10} "
        f"{'MiB':>9} {'MiB':>9}",
    ]
    for name, side in sides.items():
        times = (side[f"{kind}_seconds"] * 1000 for kind in ("mean", "median", "min"))
        lines.append(
            f"{name:18} {' '.join(f'{t:9.1f}' for t in times)} {side['timed_steps']:6} "
            f"{side['mean_batch_size']:6.1f} {side['first_step_seconds']:10.1f} "
            f"{side[MEMORY_TRAINING]:9.0f} {side[MEMORY_PEAK]:9.0f}"
        )
    return lines


def bar_table(judged: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of text, one for each bar or ratio."""
    lines = [f"{'ratio':52} {'measured':>9} {'over the rounds':>16} {'bar':>9}  holds"]
    for entry in judged:
        if "measured" not in entry:
            measured, spread, holds = "-", "", "not measured"
        else:
            measured = f"{entry['measured']:.3f}"
            spread = f"{entry['min']:.3f}-{entry['max']:.3f}" if "min" in entry else ""
            holds = {True: "yes", False: "NO", None: ""}[entry["holds"]]
        lines.append(
            f"{entry['title']:52} {measured:>9} {spread:>16} {entry['limit']:>9}  {holds}".rstrip()
        )
    return lines
