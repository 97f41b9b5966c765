r"""Makes a table of a paper again, row by row; an interrupted run resumes where it was.

encryption_table is Table I of Qi et al. 2022 (arXiv 2205.12041): accuracy of classifiers that are
trained and tested on encrypted images. The small scale trains small networks on a part of
Fashion-MNIST, which is another task: its figures compare rows with each other, not with the paper;
it takes about half an hour of one CPU core.
The full scale has the paper's networks, data (CIFAR-10 and CIFAR-100, downloaded by
tensorflow-datasets, and KerasHub's ViT-B/16) and settings, and takes days on a large GPU. Nothing
is trained privately: most of these networks have batch normalisation.

Examples:
  python -m trainers.reproduce --artifact=encryption_table --scale=small
  python -m trainers.reproduce --artifact=encryption_table --scale=small --output=table \
      --rows=plain_vit,transformed_vit --epochs=2 --train_examples=2000
  python -m trainers.reproduce --artifact=encryption_table --scale=full --output=table_full
"""

import pathlib

from absl import flags

from keras_dpvit import _files, _quiet, _validate
from keras_dpvit.errors import InputError
from keras_dpvit.reproduction.encryption_rows import ROWS, SCALES, Settings, settings_for
from trainers import _cli, _flags

FLAGS = flags.FlagValues()
ARTIFACTS = ("encryption_table",)

flags.DEFINE_enum("artifact", "encryption_table", ARTIFACTS, "What to make.", flag_values=FLAGS)
flags.DEFINE_enum(
    "scale", "small", SCALES, "Small networks and data, or the paper's.", flag_values=FLAGS
)
flags.DEFINE_string(
    "output", None, "Folder of the results (default: reproduced/ARTIFACT_SCALE).", flag_values=FLAGS
)
flags.DEFINE_list("rows", None, f"Some rows only: {', '.join(ROWS)}.", flag_values=FLAGS)
flags.DEFINE_integer(
    "epochs", None, "Passes over the training images, instead of the scale's.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "train_examples", None, "Training images, instead of the scale's.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "test_examples", None, "Test images, instead of the scale's.", flag_values=FLAGS
)
flags.DEFINE_string(
    "data_dir", None, "Folder of the data sets, where they are not at home.", flag_values=FLAGS
)


def _settings() -> Settings:
    given = ("epochs", "train_examples", "test_examples")
    _flags.check_numbers(FLAGS, **dict.fromkeys(given, _validate.positive_int))
    changes = {name: FLAGS[name].value for name in given if FLAGS[name].value is not None}
    return settings_for(FLAGS.scale, **changes)


def _rows() -> list[str]:
    names = list(ROWS) if FLAGS.rows is None else FLAGS.rows
    for name in names:
        if name not in ROWS:
            raise InputError(f"rows must be some of {', '.join(ROWS)}, got {name!r}.")
    return names


def _output() -> pathlib.Path:
    """The folder, found fit to be written; makes nothing."""
    path = pathlib.Path(FLAGS.output or f"reproduced/{FLAGS.artifact}_{FLAGS.scale}")
    if not _files.can_be_made(path / "rows"):
        raise InputError(f"output must be a folder that can be written, got {str(path)!r}.")
    return path


def main() -> None:
    """Makes the artifact and prints it."""
    settings, rows, output = _settings(), _rows(), _output()
    from keras_dpvit.reproduction import encryption_results as results

    done = results.finished(output, rows, settings)
    if len(done) < len(rows):
        _quiet.start_tensorflow()
        from keras_dpvit.reproduction import encryption_table

        encryption_table.run(rows, settings, output, FLAGS.data_dir)
        done = results.finished(output, rows, settings)
    path = results.write_table(output, rows, done, settings)
    print(results.as_text(rows, done, settings))
    print(f"These figures are in {path}.")


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
