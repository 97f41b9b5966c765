r"""Learns a preset's backbone and the constants of its head from made-up images.

The images are families of shapes drawn from a seed (`kd.datasets.synthetic_shapes`); no data set
is read, so the weights have no record behind them and cost no privacy. What is written goes to
`--weights` of `trainers.train`. The files that ship with the package were made by the commands in
docs/pretraining.md. Eight minutes on two cores for the default.

Examples:
  python -m trainers.pretrain --images=synthetic --output=weights.npz
  python -m trainers.pretrain --images=synthetic --preset=dpvit_scatter_32 --num_families=400 \
      --seed=1 --checkpoint_dir=kept --output=weights.npz
"""

import pathlib
import sys

from absl import flags

from keras_dpvit import _files, _quiet, _validate
from keras_dpvit.errors import InputError
from keras_dpvit.models.presets import PRESETS, preset_head
from trainers import _cli, _flags

FLAGS = flags.FlagValues()
flags.DEFINE_enum("images", "synthetic", ["synthetic"], "What is learned from.", flag_values=FLAGS)
flags.DEFINE_string(
    "preset", "dpvit_scatter_28", "A preset with a whitened head.", flag_values=FLAGS
)
flags.DEFINE_integer("num_families", 800, "Kinds of shapes.", flag_values=FLAGS)
flags.DEFINE_integer("per_family", 100, "Images of each kind.", flag_values=FLAGS)
flags.DEFINE_integer("epochs", 14, "Passes over the images.", flag_values=FLAGS)
flags.DEFINE_float("learning_rate", 2e-3, "Of AdamW, after the warm-up.", flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Of the images and the first weights.", flag_values=FLAGS)
flags.DEFINE_string(
    "checkpoint_dir", None, "Keeps the training; the same command resumes it.", flag_values=FLAGS
)
flags.DEFINE_string("output", None, "The .npz file to write.", flag_values=FLAGS)


def _check_flags() -> None:
    _flags.check_numbers(
        FLAGS,
        num_families=_validate.positive_int,
        per_family=_validate.positive_int,
        epochs=_validate.positive_int,
        learning_rate=_validate.positive,
    )
    if not preset_head(FLAGS.preset):
        able = ", ".join(name for name in sorted(PRESETS) if preset_head(name))
        raise InputError(f"preset must be one of {able}, got {FLAGS.preset!r}.")
    if FLAGS.output is None or not FLAGS.output.endswith(".npz"):
        raise InputError(f"output must be a .npz file to write, got {FLAGS.output!r}.")
    if not _files.can_be_made(pathlib.Path(FLAGS.output)):
        raise InputError(f"output must be in a folder that can be written, got {FLAGS.output!r}.")


def main() -> None:
    """Trains and writes."""
    _check_flags()
    _quiet.start_tensorflow()
    from keras_dpvit.runs import pretraining

    settings = _flags.settings(FLAGS, pretraining.PretrainingSettings)
    verbose = 1 if sys.stdout.isatty() else 2
    accuracy = pretraining.pretrain(settings, FLAGS.output, FLAGS.checkpoint_dir, verbose)
    size = pathlib.Path(FLAGS.output).stat().st_size
    print(
        f"{FLAGS.output}: {size:,} bytes; {accuracy:.1%} of held-out images go to their family of "
        f"{settings.num_families}."
    )


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
