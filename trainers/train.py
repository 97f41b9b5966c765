r"""Trains DP-ViT members within one privacy budget, fuses them, exports and checks the exports.

Every member is trained by plain `model.fit` with Poisson sampling. The fused model is written as a
SavedModel and a TFLite file with a privacy card into OUTPUT_DIR/1 (or the next free version), both
are loaded again and scored on the held-out images.

Examples:
  python -m trainers.train --dataset=digits --epsilon=8 --delta=1e-4 --epochs=40
  python -m trainers.train --dataset=fashion_mnist --epsilon=3 --delta=1e-5 \
      --output_dir=savedmodels/fmnist
  python -m trainers.train --dataset=image_folder --data_dir=photos --image_size=32,32,3
  python -m trainers.train --recipe=none --dataset=fashion_mnist --epochs=10
  python -m trainers.train --dataset=fashion_mnist --encryption_key=key.json
  python -m trainers.train --dataset=fashion_mnist --init_weights=mnist.weights.h5 --trainable=bias
  python -m trainers.train --dataset=fashion_mnist --solver=feature_covariance
  python -m trainers.train --recipe=keras_hub_vit --backbone=vit.keras --data_dir=photos
"""

import dataclasses
import os
import sys
from typing import Any

from absl import flags

from keras_dpvit import _quiet
from keras_dpvit.errors import InputError
from keras_dpvit.models.backbone_pixels import PIXELS
from keras_dpvit.models.presets import (
    num_whitened_blocks,
    preset_for,
    preset_image_shape,
)
from keras_dpvit.privacy.head_plan import SOLVERS
from keras_dpvit.privacy.sampling import independent_parts
from keras_dpvit.runs.settings import RunSettings
from trainers import _cli, _flags, _hidden_images, _recipes, _train_checks

# Kept out of run.json, which travels: a seed is a secret, and places tell of the machine.
_STAY_HERE = (
    "seed",
    "data_dir",
    "output_dir",
    "init_weights",
    "backbone",
    "checkpoint_dir",
    "encryption_key",
    "encryption_passphrase_file",
)

# What may differ where a run is resumed.
_MAY_CHANGE = (*_STAY_HERE, "statement")

FLAGS = flags.FlagValues()
_flags.define_privacy_flags(FLAGS)
_flags.define_dataset_flags(FLAGS)
_hidden_images.define_flags(FLAGS)
flags.DEFINE_string(
    "preset", None, "Size of the model (default: the one for the images' size).", flag_values=FLAGS
)
flags.DEFINE_integer(
    "num_examples",
    None,
    "Public number of records to plan batches and noise for (default: the number of records "
    "rounded down to two digits, which is then taken as public).",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "members",
    1,
    "Models to train and fuse. Two take twice the time and share the budget: fused they are seldom "
    "better than one that has the whole of it.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "members_data",
    "shared",
    ["shared", "disjoint"],
    "shared: every member sees all records and their costs compose within the budget. disjoint: "
    "each record goes to one member, drawn for itself, and each member has the whole budget.",
    flag_values=FLAGS,
)
_recipes.define_flag(FLAGS)
flags.DEFINE_string(
    "weights",
    None,
    "Start every member from weights that were learned from made-up images: synthetic, those that "
    "ship with the preset, or a .npz file of trainers.pretrain. No record is behind them.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "backbone",
    None,
    "A .keras file of another package, a classifier or a KerasHub backbone, below a new linear "
    "layer: instead of a preset. The records behind it are taken as public.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "backbone_pixels",
    "auto",
    PIXELS,
    "The pixels that --backbone takes; from 0..255 the model scales them itself. auto: as the "
    "file's own KerasHub preprocessor says, 0..255 if it has none.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "init_weights",
    None,
    "Start every member from this .keras or .weights.h5 file of one model of the same preset. The "
    "file's own privacy cost is added; behind a file that has no ledger the records are public.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "trainable",
    "all",
    ["all", "head", "bias"],
    "What is trained: all, the head alone, or biases and the head.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "solver",
    "optimizer",
    ["optimizer", *SOLVERS],
    "What finds the head of --trainable=head over --weights, --backbone or --init_weights: steps "
    "of --optimizer; or noisy sums over all records, without epochs, batches, rates and clipping: "
    "least_squares, one release, or feature_covariance, which is more accurate.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "loss",
    "softmax",
    ["softmax", "per_class"],
    "softmax cross-entropy, or binary cross-entropy of each class (the paper's eq 7).",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "optimizer", "adam", ["adam", "sgd"], "Which private optimizer.", flag_values=FLAGS
)
flags.DEFINE_float(
    "learning_rate",
    None,
    "Learning rate (default: 5e-3 for adam, 0.5 for sgd; one that fits the number of records and "
    "steps for the head of a preset with --weights).",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "whitening_rank",
    None,
    "Directions that a whitened head shrinks in each block (default: 200); fewer make smaller "
    "files.",
    flag_values=FLAGS,
)
flags.DEFINE_list(
    "head_blocks",
    None,
    "Blocks of features that a whitened head reads (default: features,stage_1,tokens); fewer make "
    "smaller files.",
    flag_values=FLAGS,
)
flags.DEFINE_float("momentum", 0.0, "Of sgd.", flag_values=FLAGS)
flags.DEFINE(
    _flags.AutoFloatParser(),
    "center_noise",
    None,
    "Noise multiplier with which the means of a whitened head's features are released, within the "
    "budget (default: they stay where made-up images put them); auto: 20 from 30,000 records on, "
    "none below, where the noise would be more than the means tell.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "clipping", "median_layer", ["median_layer", "flat"], "Clipping by layer.", flag_values=FLAGS
)
flags.DEFINE_float(
    "l2_norm_clip", None, "A fixed sensitivity instead of the dynamic one.", flag_values=FLAGS
)
flags.DEFINE_float(
    "attention_noise_stddev", 0.0, "Noise after the softmax while training.", flag_values=FLAGS
)
flags.DEFINE_float(
    "norm_noise_stddev", 0.0, "Noise on normalisation statistics while training.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "physical_batch_size", None, "Examples in memory at once; changes no result.", flag_values=FLAGS
)
flags.DEFINE_string(
    "output_dir",
    None,
    "Where versions are written (default: savedmodels/DATASET).",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "checkpoint_dir",
    None,
    "Keeps the run here while it lasts, once an epoch: the same command resumes it after a crash "
    "or Ctrl-C. Steps that were lost count as spent.",
    flag_values=FLAGS,
)
flags.DEFINE_bool(
    "statement", False, "Prints the whole privacy statement at the end.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "seed", None, "Repeatable run, for tests: privacy then rests on its secrecy.", flag_values=FLAGS
)


def recipe_settings(name: str, *typed: str) -> tuple[str, RunSettings]:
    """The preset and the settings of a recipe.

    Args:
        name: of a recipe.
        *typed: flags that count more than the recipe's.
    """
    for flag in FLAGS:
        FLAGS[flag].unparse()
    FLAGS(["", *_recipes.lines(name), *typed, f"--recipe={name}"])
    settings = dataclasses.replace(_flags.settings(FLAGS, RunSettings), delta=_flags.delta(FLAGS))
    return FLAGS.preset, settings


def _parts(num_records: int, kept: Any) -> Any:
    """The member of each record, None if every member sees all."""
    if FLAGS.members_data != "disjoint" or FLAGS.members == 1:
        return None

    def draw() -> Any:
        return independent_parts(num_records, FLAGS.members, FLAGS.seed)

    return draw() if kept is None else kept.parts(draw, num_records)


def _what_is_kept() -> str:
    if FLAGS.checkpoint_dir is None:
        return "Nothing is kept: --checkpoint_dir=DIR keeps a run that may have to stop."
    return (
        f"{FLAGS.checkpoint_dir} keeps it up to its last whole epoch: the same command resumes it."
    )


def _image_shape() -> tuple[int, int, int]:
    """The shape to which an image folder is resized."""
    if FLAGS.backbone is not None:
        _quiet.start_tensorflow()
        from keras_dpvit.models.backbone_file import load_backbone

        with _quiet.quiet_stderr():
            height, width, channels = load_backbone(FLAGS.backbone).inputs[0].shape[1:]
        return height, width, channels
    if FLAGS.preset is not None:
        return preset_image_shape(FLAGS.preset)
    return 32, 32, 3


def _load_data() -> Any:
    shape = _image_shape()
    data = _flags.load_dataset(FLAGS, shape)
    if FLAGS.backbone is not None and data.image_shape != shape:
        takes, found = ("x".join(map(str, sides)) for sides in (shape, data.image_shape))
        raise InputError(
            f"backbone takes images of {takes}, the data has {found}: save the backbone for that "
            "size, or give the pictures as --dataset=image_folder, which is resized."
        )
    return data


def _name_of_network(data: Any) -> str:
    if FLAGS.backbone is not None:
        return os.path.basename(FLAGS.backbone)
    return FLAGS.preset or preset_for(data.image_shape)


def main() -> None:
    """Runs the whole job."""
    _train_checks.check(FLAGS)
    output_dir = _flags.output_dir(FLAGS)
    data = _load_data()
    cipher = _hidden_images.load_cipher(FLAGS, data)
    encryption = None
    if cipher is not None:
        data, encryption = _hidden_images.encrypt(data, cipher), _hidden_images.summary(cipher)
    preset = _name_of_network(data)
    from keras_dpvit.runs import training

    settings = dataclasses.replace(_flags.settings(FLAGS, RunSettings), delta=_flags.delta(FLAGS))
    num_examples = training.public_number(len(data.x_train), settings)
    num_means = 0
    if FLAGS.backbone is None:
        num_means = len(settings.head_blocks or ()) or num_whitened_blocks(preset)
    plans = training.plans(num_examples, settings, num_means)
    _quiet.start_tensorflow()
    from keras_dpvit.runs import exports
    from keras_dpvit.runs.kept_run import KeptRun

    kept = None
    if FLAGS.checkpoint_dir is not None:
        # A preset that was not given is a part of the run too.
        same = {**_flags.recorded(FLAGS, _MAY_CHANGE), "preset": preset}
        kept = KeptRun(FLAGS.checkpoint_dir, same)
    if FLAGS.recipe != _recipes.NONE:
        print(f"Recipe {FLAGS.recipe}; --recipe=none and flags of your own replace it.")
    print(training.describe(plans[0], data, preset, settings, num_examples))
    try:
        members, histories = training.train_all(
            data, _parts(len(data.x_train), kept), preset, plans, settings, kept
        )
    except KeyboardInterrupt:
        print(f"\nStopped. {_what_is_kept()}", file=sys.stderr)
        raise
    result = exports.export_and_score(
        members,
        data,
        histories,
        output_dir,
        settings.members_data,
        {**_flags.recorded(FLAGS, _STAY_HERE), "delta": plans[0].delta},
        num_examples,
        encryption,
    )
    print()
    if FLAGS.statement:
        print(result.card["statement"])
    else:
        print(f"{result.headline}\nThe card below has the whole statement (also --statement).")
    if encryption is not None:
        print(f"Key {encryption['kid']}: {encryption['statement']}")
    print(result.table())
    sys.stdout.flush()


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    typed = list(sys.argv[1:] if argv is None else argv)
    _cli.run(main, FLAGS, __doc__, typed, lambda given: _recipes.expanded(given, FLAGS))


if __name__ == "__main__":
    run()
