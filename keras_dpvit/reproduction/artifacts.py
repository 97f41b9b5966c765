"""The DP-ViT paper's tables and figures, as rows of trainings."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from keras_dpvit.models.description import PUBLISHED
from keras_dpvit.reproduction import paper_figures as paper
from keras_dpvit.reproduction.trainings import Training
from keras_dpvit.runs.settings import RunSettings

Column = tuple[str, str]  # heading, and the value: a name of a result, "accuracy_10" at epoch 10


@dataclasses.dataclass(frozen=True)
class Scale:
    """Data, networks and settings that artifacts are made with.

    Attributes:
        name: str.
        dataset: str, of `keras_dpvit.datasets`.
        head_preset: str, the network below the heads.
        recipe: settings of the heads.
        network_preset: str, the network that is trained whole.
        network: settings of its trainings.
        deep: arguments of it with two blocks in a stage, which kinds of attention need to differ.
        by_heads: number of heads to the preset and arguments of a network of as many.
        network_examples: int or None, training images of whole networks, but for Table 1's.
        examples: int or None, training images of everything else.
        draws: int, trainings of each kind; `fused_draws` of each kind of pair.
    """

    name: str
    dataset: str
    head_preset: str
    recipe: RunSettings
    network_preset: str
    network: RunSettings
    deep: dict[str, Any]
    by_heads: dict[int, tuple[str, dict[str, Any]]]
    network_examples: int | None
    examples: int | None = None
    draws: int = 3
    fused_draws: int = 2


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table, or a line or a point of a figure.

    Attributes:
        name: str.
        trainings: one for each draw; none for what the paper alone has.
        paper: what it printed, by name.
        panel: str, the part of the figure.
        x: float or None, the place of a point.
        counted: str or None, a preset whose parameters and multiply-accumulates are counted.
    """

    name: str
    trainings: tuple[Training, ...] = ()
    paper: Mapping[str, float | str] = dataclasses.field(default_factory=dict)
    panel: str = ""
    x: float | None = None
    counted: str | None = None


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A table or figure.

    Attributes:
        title: str.
        why: why the figures differ from the paper's.
        rows: gives them for a scale.
        columns: ours.
        paper_columns: of `Row.paper`.
        picture: "curves" of `metrics` over steps, "points" over `Row.x`, or "dots" by row.
        metrics: what is drawn.
    """

    title: str
    why: str
    rows: Callable[[Scale], list[Row]]
    columns: tuple[Column, ...]
    paper_columns: tuple[Column, ...] = ()
    picture: str = "dots"
    metrics: tuple[str, ...] = ("accuracy",)


_WHOLE, _PAIR = "recipe", "recipe, two members fused"
_WITHOUT = "the same without the transformer's features"
_HIGH, _LOW = 8.0, 2.0
_EPSILONS, _PAIRED = (0.5, 1.0, _LOW, _HIGH), (_LOW, _HIGH)
_EPOCHS_WITHOUT_PRIVACY = 10.0


def _heads(scale: Scale, epsilon: float, draws: int, **settings: Any) -> tuple[Training, ...]:
    changed = dataclasses.replace(scale.recipe, epsilon=epsilon, **settings)
    return tuple(
        Training(scale.head_preset, changed, examples=scale.examples, draw=draw)
        for draw in range(draws)
    )


def _pairs(scale: Scale, epsilon: float) -> tuple[Training, ...]:
    return _heads(scale, epsilon, scale.fused_draws, members=2)


def _networks(
    scale: Scale, overrides: Mapping[str, Any], preset: str | None = None, **settings: Any
) -> tuple[Training, ...]:
    changed = dataclasses.replace(scale.network, **settings)
    return tuple(
        Training(
            preset or scale.network_preset,
            changed,
            examples=scale.network_examples,
            overrides=dict(overrides),
            draw=draw,
        )
        for draw in range(scale.draws)
    )


def _head_without_privacy(scale: Scale) -> tuple[Training, ...]:
    settings = dataclasses.replace(
        scale.recipe, learning_rate=1e-2, batch_size=512, epochs=_EPOCHS_WITHOUT_PRIVACY
    )
    return (Training(scale.head_preset, settings, private=False, examples=scale.examples),)


def _network_without_privacy(scale: Scale) -> tuple[Training, ...]:
    settings = RunSettings(learning_rate=1e-3, batch_size=128, epochs=_EPOCHS_WITHOUT_PRIVACY)
    network = Training(scale.network_preset, settings, private=False, examples=scale.examples)
    return (network,)


def _systems(scale: Scale) -> list[Row]:
    whole = dataclasses.replace(scale.network, epsilon=_HIGH, epochs=scale.recipe.epochs)
    network = Training(scale.network_preset, whole, examples=scale.examples)
    ours = [
        Row(f"proposed: {_WHOLE}", _heads(scale, _HIGH, scale.draws), paper.SYSTEMS["proposed"]),
        Row("proposed: all weights, from random ones", (network,)),
    ]
    others = [Row(n, (), paper.SYSTEMS[n]) for n in ("FedAvg", "PP-GAN", "MPC")]
    plain = Row("all weights, without privacy", _network_without_privacy(scale))
    return [*ours, plain, *others]


def _attention(scale: Scale) -> list[Row]:
    kinds = {
        "threshold": ("threshold attention in every block", "threshold", "threshold"),
        "self": ("plain self-attention in every block", "self", "self"),
        "hierarchical": (
            "threshold attention first in a stage, plain after it",
            "threshold",
            "self",
        ),
    }
    return [
        Row(
            words,
            _networks(scale, {**scale.deep, "first_attention": first, "other_attention": other}),
            paper.ATTENTION[name],
        )
        for name, (words, first, other) in kinds.items()
    ]


def _number_of_heads(scale: Scale) -> list[Row]:
    rows = []
    for number, (preset, overrides) in scale.by_heads.items():
        at_paper_size = f"dpvit_paper_h{number}"
        sizes = PUBLISHED[at_paper_size]
        printed = {"macs": sizes["macs"] / 1e9, "parameters": sizes["parameters"] / 1e6}
        rows.append(
            Row(
                f"{number} heads",
                _networks(scale, overrides, preset),
                {**printed, **paper.HEADS[number]},
                counted=at_paper_size,
            )
        )
    return rows


def _accuracy_by_step(scale: Scale) -> list[Row]:
    rows = []
    for epsilon in (_LOW, _HIGH):
        panel = f"epsilon {epsilon:g}"
        printed = {"accuracy": paper.AT_STEP_2000["proposed"]} if epsilon == _HIGH else {}
        rows += [
            Row(_WHOLE, _heads(scale, epsilon, scale.draws), printed, panel),
            Row(_PAIR, _pairs(scale, epsilon), panel=panel),
        ]
    others = [
        Row(name, (), {"accuracy": figure}, panel)
        for name, figure in paper.AT_STEP_2000.items()
        if name != "proposed"
    ]
    return [*rows, *others]


def _with_and_without(scale: Scale) -> list[Row]:
    without = _heads(scale, _HIGH, scale.draws, head_blocks=["features"])
    return [
        Row(_WITHOUT, without, paper.TRANSFORMER["without"]),
        Row(_WHOLE, _heads(scale, _HIGH, scale.draws), paper.TRANSFORMER["with"]),
    ]


def _by_epsilon(scale: Scale) -> list[Row]:
    whole = [
        Row(_WHOLE, _heads(scale, epsilon, scale.draws), panel=_WHOLE, x=epsilon)
        for epsilon in _EPSILONS
    ]
    pairs = [Row(_PAIR, _pairs(scale, epsilon), panel=_PAIR, x=epsilon) for epsilon in _PAIRED]
    return [
        *whole,
        *pairs,
        Row("recipe's features, head without privacy", _head_without_privacy(scale)),
        Row("all weights from random ones, without privacy", _network_without_privacy(scale)),
    ]


def _choices(scale: Scale) -> list[Row]:
    kinds: dict[str, dict[str, Any]] = {
        "median clipping by layer, as the paper has it": {},
        "flat clipping": {"clipping": "flat"},
        "median clipping, noise 0.05 on attention": {"attention_noise_stddev": 0.05},
        "median clipping, noise 0.05 on normalisation": {"norm_noise_stddev": 0.05},
    }
    return [Row(name, _networks(scale, {}, **changes)) for name, changes in kinds.items()]


_OTHER_DATA = (
    "The paper names no data set, epsilon, delta, accountant, batch or rate, so its figures cannot "
    "be made again"
)

ARTIFACTS: dict[str, Artifact] = {
    "table_1": Artifact(
        "Table 1: accuracy by epoch, beside other systems",
        f"{_OTHER_DATA}; 41 % after 50 epochs looks like another task than ours, and three of its "
        "rows are protocols, whose accuracy depends on settings that it does not give.",
        _systems,
        (
            ("MACs", "macs"),
            ("parameters", "parameters"),
            *((f"epoch {n}", f"accuracy_{n}") for n in (10, 20, 30, 40)),
            ("last", "accuracy"),
            ("epsilon", "epsilon"),
        ),
        (
            ("G MACs", "macs"),
            ("M parameters", "parameters"),
            *((f"epoch {n}", str(n)) for n in (10, 20, 30, 40, 50)),
        ),
        "curves",
    ),
    "table_2": Artifact(
        "Table 2: kinds of attention",
        f"{_OTHER_DATA}; with top-5 at 82 % it must have more classes than our 10.",
        _attention,
        (("top-1", "accuracy"), ("top-5", "top_5"), ("epsilon", "epsilon")),
        (("top-1", "accuracy"), ("top-5", "top_5")),
    ),
    "table_3": Artifact(
        "Table 3: number of heads",
        f"{_OTHER_DATA}; parameters and multiply-accumulates are counted at the paper's own sizes, "
        "accuracies are of networks that fit our images, 16 channels a head.",
        _number_of_heads,
        (
            ("paper's size: MACs", "counted_macs"),
            ("parameters", "counted_parameters"),
            ("trained here: parameters", "parameters"),
            ("top-1", "accuracy"),
            ("top-5", "top_5"),
            ("epsilon", "epsilon"),
        ),
        (
            ("G MACs", "macs"),
            ("M parameters", "parameters"),
            ("top-1", "accuracy"),
            ("top-5", "top_5"),
        ),
    ),
    "figure_5": Artifact(
        "Figure 5: accuracy by step at epsilon 2 and 8",
        f"{_OTHER_DATA}; its text gives the same figures for both budgets, which no mechanism "
        "whose noise depends on the budget can do but by chance.",
        _accuracy_by_step,
        (("budget", "panel"), ("accuracy", "accuracy"), ("epsilon", "epsilon")),
        (("at step 2000", "accuracy"),),
        "curves",
    ),
    "figures_6_7": Artifact(
        "Figures 6 and 7: loss, accuracy, precision and recall with and without the transformer",
        f"{_OTHER_DATA}; its accuracies of 1.405 and 1.55 are impossible, and its loss stays above "
        "that of a coin.",
        _with_and_without,
        (
            ("loss", "loss"),
            ("accuracy", "accuracy"),
            ("precision", "precision"),
            ("recall", "recall"),
            ("epsilon", "epsilon"),
        ),
        (
            ("loss", "loss"),
            ("accuracy", "accuracy"),
            ("precision", "precision"),
            ("recall", "recall"),
        ),
        "curves",
        ("loss", "accuracy", "precision", "recall"),
    ),
    "accuracy_by_epsilon": Artifact(
        "Accuracy against epsilon",
        "The paper has no such figure.",
        _by_epsilon,
        (
            ("budget", "x"),
            ("accuracy", "accuracy"),
            ("plain average of the members", "mean_accuracy"),
            ("members", "members_accuracy"),
            ("epsilon", "epsilon"),
        ),
        picture="points",
    ),
    "clipping_and_noise": Artifact(
        "Clipping by layer medians, flat clipping, and noise in the layers",
        "The paper claims that these help and prints no figure for them.",
        _choices,
        (("accuracy", "accuracy"), ("loss", "loss"), ("epsilon", "epsilon")),
    ),
}
