"""Describes a model: its parts, tokens, parameters and multiply-accumulates, and a picture of it.

Examples:
  python -m trainers.describe --list
  python -m trainers.describe --preset=dpvit_small_28 --picture=small.png
  python -m trainers.describe --preset=dpvit_paper_h6 --num_classes=100 --json
  python -m trainers.describe --model=savedmodels/demo/1/model.keras --member=2
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from absl import flags

from keras_dpvit import _quiet
from keras_dpvit.errors import InputError
from keras_dpvit.models.presets import PRESETS, preset_arguments
from keras_dpvit.runs import model_files
from trainers import _cli

FLAGS = flags.FlagValues()
flags.DEFINE_string("preset", None, "A named size; --list shows them.", flag_values=FLAGS)
flags.DEFINE_string("model", None, "A .keras file, instead of --preset.", flag_values=FLAGS)
flags.DEFINE_integer("member", 1, "Which member of a fused model in --model.", flag_values=FLAGS)
flags.DEFINE_integer("num_classes", None, "Classes (default: the preset's).", flag_values=FLAGS)
flags.DEFINE_string(
    "picture", None, "Draws the network into this .png file too.", flag_values=FLAGS
)
flags.DEFINE_bool("list", False, "Prints the named sizes and ends.", flag_values=FLAGS)
flags.DEFINE_bool("json", False, "Prints JSON.", flag_values=FLAGS)


def main() -> None:
    """Prints tables or JSON."""
    if FLAGS.list:
        _print_presets()
        return
    _check_flags()
    _quiet.start_tensorflow()
    from keras_dpvit.models.description import PUBLISHED, describe

    with _quiet.quiet_stderr():
        model = _model()
        facts = describe(model)
    published = PUBLISHED.get(FLAGS.preset)
    if FLAGS.picture is not None:
        from keras_dpvit.plots import plot_architecture

        plot_architecture(model, FLAGS.picture)
    if FLAGS.json:
        facts = {"preset": FLAGS.preset, **facts, "published": published}
        print(json.dumps(facts, indent=2))
        return
    print(_text(facts, published))
    if FLAGS.picture is not None:
        print(f"\npicture: {FLAGS.picture}")


def _check_flags() -> None:
    if (FLAGS.preset is None) == (FLAGS.model is None):
        raise InputError("Give one of --preset=NAME and --model=FILE.keras (or --list).")
    if FLAGS.preset is not None:
        preset_arguments(FLAGS.preset)
    elif FLAGS.num_classes is not None:
        raise InputError("num_classes must be left out with --model, which has its own.")
    else:
        model_files.check_model_file(FLAGS.model)
    if FLAGS.num_classes is not None and FLAGS.num_classes < 2:
        raise InputError(f"num_classes must be at least 2, got {FLAGS.num_classes}.")
    if FLAGS.picture is not None:
        model_files.check_picture(picture=FLAGS.picture)


def _model() -> Any:
    if FLAGS.model is not None:
        return model_files.load_member(FLAGS.model, FLAGS.member)
    from keras_dpvit.models.classifier import DPViTClassifier

    classes = FLAGS.num_classes or PRESETS[FLAGS.preset]["num_classes"]
    return DPViTClassifier.from_preset(FLAGS.preset, num_classes=classes)


def _print_presets() -> None:
    if FLAGS.json:
        print(json.dumps(PRESETS, indent=2))
        return
    rows = [
        [name, preset["num_classes"], preset["description"]] for name, preset in PRESETS.items()
    ]
    print(_table(["preset", "classes", "made for"], rows, "lrl"))


def _text(facts: dict[str, Any], published: dict[str, float] | None) -> str:
    shape = "x".join(str(side) for side in facts["image_shape"])
    parts = [
        [
            part["name"],
            part["what"],
            "x".join(str(side) for side in part["output"]),
            *_numbers(part),
        ]
        for part in facts["parts"]
    ]
    stages = [
        [
            stage["stage"],
            stage["tokens"],
            stage["width"],
            stage["blocks"],
            *_numbers(stage),
        ]
        for stage in facts["stages"]
    ]
    sections = [
        f"images {shape}, {facts['num_classes']} classes",
        _table(["part", "what", "output", "parameters", "MACs"], parts, "lllrr"),
        _table(["stage", "tokens", "width", "blocks", "parameters", "MACs"], stages, "rrrrrr"),
        _totals(facts, published),
        "MACs: multiply-accumulates of one image, without normalisations, softmax, pooling, sums.",
    ]
    return "\n\n".join(sections)


def _numbers(costs: dict[str, Any]) -> list[str]:
    return [f"{costs[name]:,}" if costs[name] else "-" for name in ("parameters", "macs")]


def _totals(facts: dict[str, Any], published: dict[str, float] | None) -> str:
    from keras_dpvit.models.description import printed

    names = {"parameters": "parameters", "trainable_parameters": "trainable", "macs": "MACs"}
    if published is None:
        rows = [[words, f"{facts[name]:,}"] for name, words in names.items()]
        return _table(["total", ""], rows, "lr")
    rows = []
    for name, words in names.items():
        row = [words, f"{facts[name]:,}", "", ""]
        if name in published:
            difference = 100 * (facts[name] / published[name] - 1)
            row[2:] = [printed(name, published[name]), f"{difference:+.2f} %"]
        rows.append(row)
    return _table(["total", "here", "in the paper", "difference"], rows, "lrrr")


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], sides: str) -> str:
    lines = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if side == "l" else cell.rjust(width)
            for cell, width, side in zip(line, widths, sides, strict=True)
        ).rstrip()
        for line in lines
    )


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
