r"""Makes a table or figure of a paper again; an interrupted run resumes where it was.

table_1, table_2, table_3, figure_5 and figures_6_7 are those of the DP-ViT paper (Yang 2024),
trained with differential privacy at epsilon 8 (figure_5: 2 and 8) and delta 1e-5;
accuracy_by_epsilon and clipping_and_noise answer what the paper claims without a figure; all makes
all of these. The small scale takes Fashion-MNIST, and minutes on two cores. A training that two
artifacts have is run once and kept. The full scale takes CIFAR-100 (from tensorflow-datasets) and
the paper's own network sizes; it needs an accelerator and was not run.

encryption_table is Table I of Qi et al. 2022 (arXiv 2205.12041): accuracy of classifiers that are
trained and tested on encrypted images. The small scale trains small networks on a part of
Fashion-MNIST, which is another task: its figures compare rows with each other, not with the paper;
it takes about half an hour of one CPU core.
The full scale has the paper's networks, data (CIFAR-10 and CIFAR-100, downloaded by
tensorflow-datasets, and KerasHub's ViT-B/16) and settings, and takes days on a large GPU. Nothing
is trained privately: most of these networks have batch normalisation.

Each writes figures as JSON, a picture (but for encryption_table) and a page into a folder.

Examples:
  python -m trainers.reproduce --artifact=figure_5 --scale=small
  python -m trainers.reproduce --artifact=all --draws=5
  python -m trainers.reproduce --artifact=encryption_table --scale=small --output=table \
      --rows=plain_vit,transformed_vit --epochs=2 --train_examples=2000
  python -m trainers.reproduce --artifact=encryption_table --scale=full --output=table_full
"""

import functools
import pathlib
from typing import Any

from absl import flags

from keras_dpvit import _files, _quiet, _validate, datasets
from keras_dpvit.errors import InputError
from keras_dpvit.reproduction.encryption_rows import ROWS, SCALES, Settings, settings_for
from trainers import _cli, _flags, train

FLAGS = flags.FlagValues()
ENCRYPTION, ALL = "encryption_table", "all"
OF_THE_MODEL = (
    "table_1",
    "table_2",
    "table_3",
    "figure_5",
    "figures_6_7",
    "accuracy_by_epsilon",
    "clipping_and_noise",
)
ARTIFACTS = (ENCRYPTION, *OF_THE_MODEL, ALL)

flags.DEFINE_enum("artifact", ENCRYPTION, ARTIFACTS, "What to make.", flag_values=FLAGS)
flags.DEFINE_enum(
    "scale", "small", SCALES, "Small networks and data, or the paper's.", flag_values=FLAGS
)
flags.DEFINE_string(
    "output", None, "Folder of the results (default: reproduced/ARTIFACT_SCALE).", flag_values=FLAGS
)
flags.DEFINE_list(
    "rows", None, f"Some rows of encryption_table only: {', '.join(ROWS)}.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "epochs", None, "Passes over the training images, instead of the scale's.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "train_examples", None, "Training images, instead of the scale's.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "test_examples", None, "Test images, instead of the scale's.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "draws",
    None,
    "Trainings of each kind, instead of the scale's; not for encryption_table.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "trainings_dir",
    "reproduced/trainings",
    "Folder of finished trainings, which the artifacts but encryption_table share.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "data_dir", None, "Folder of the data sets, where they are not at home.", flag_values=FLAGS
)

_NUMBERS = ("epochs", "train_examples", "test_examples", "draws")


def _given() -> dict[str, int]:
    _flags.check_numbers(FLAGS, **dict.fromkeys(_NUMBERS, _validate.positive_int))
    return {name: FLAGS[name].value for name in _NUMBERS if FLAGS[name].value is not None}


def _output(artifact: str) -> pathlib.Path:
    """The folder, found fit to be written; makes nothing."""
    path = pathlib.Path(FLAGS.output or f"reproduced/{artifact}_{FLAGS.scale}")
    if not _files.can_be_made(path / "rows"):
        raise InputError(f"output must be a folder that can be written, got {str(path)!r}.")
    return path


# The encryption paper's table


def _rows() -> list[str]:
    names = list(ROWS) if FLAGS.rows is None else FLAGS.rows
    for name in names:
        if name not in ROWS:
            raise InputError(f"rows must be some of {', '.join(ROWS)}, got {name!r}.")
    return names


def _encryption_settings() -> Settings:
    given = _given()
    if "draws" in given:
        raise InputError(f"draws is not for {ENCRYPTION}, whose rows are trained once.")
    return settings_for(FLAGS.scale, **given)


def _make_encryption_table() -> None:
    settings, rows, output = _encryption_settings(), _rows(), _output(ENCRYPTION)
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


# The DP-ViT paper's tables and figures


def _scale() -> tuple[Any, int | None]:
    """The scale with what the flags change, and the number of test images."""
    from keras_dpvit.reproduction.scales import RECIPES, scale_named

    given = _given()
    changes: dict[str, Any] = {}
    if "epochs" in given:
        changes["epochs"] = float(given["epochs"])
    if "train_examples" in given:
        changes["examples"] = changes["network_examples"] = given["train_examples"]
    if "draws" in given:
        changes["draws"] = changes["fused_draws"] = given["draws"]
    preset, recipe = train.recipe_settings(RECIPES[FLAGS.scale])
    return scale_named(FLAGS.scale, preset, recipe, **changes), given.get("test_examples")


def _make(names: list[str]) -> None:
    if FLAGS.rows is not None:
        raise InputError(f"rows is for {ENCRYPTION} alone.")
    outputs = {name: _output(name) for name in names}
    trainings_dir = pathlib.Path(FLAGS.trainings_dir)
    if not _files.can_be_made(trainings_dir / "training"):
        raise InputError(
            f"trainings_dir must be a folder that can be written, got {str(trainings_dir)!r}."
        )
    scale, test_examples = _scale()
    data = datasets.load(scale.dataset, FLAGS.data_dir)
    x_test, y_test = data.x_test[:test_examples], data.y_test[:test_examples]
    most = None if scale.examples is None else max(scale.examples, scale.network_examples or 0)
    x, y = data.x_train[:most], data.y_train[:most]
    images = {"dataset": scale.dataset, "training": len(x), "scored": len(x_test)}
    _quiet.start_tensorflow()
    from keras_dpvit.reproduction import making, tables, trainings

    @functools.cache
    def bench() -> trainings.Bench:
        return trainings.Bench((x, y), (x_test, y_test), data.num_classes)

    for name, output in outputs.items():
        content = making.make(name, scale, bench, images, trainings_dir, output)
        print(tables.table(name, content))
        print(f"These figures are in {output}, with a picture.")


def main() -> None:
    """Makes the artifact and prints it."""
    if FLAGS.artifact == ENCRYPTION:
        _make_encryption_table()
    elif FLAGS.artifact != ALL:
        _make([FLAGS.artifact])
    elif FLAGS.output is not None:
        raise InputError("output is for one artifact; all writes into reproduced/.")
    else:
        _make(list(OF_THE_MODEL))


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
