r"""Compares the DP-ViT with the systems of its paper, on the same images and in the same budget.

dpvit and fused are the recipe of `trainers.train`; fedavg trains the same head over clients, each
of which is private by itself; ppgan makes up images privately and trains a classifier on them; mpc
answers on secret shares, of a network that is small enough for it. All spend the same epsilon for
one training image at the same delta; they do not protect the same from the same, and the page says
what each does. smoke takes scikit-learn's digits and minutes; small takes Fashion-MNIST and hours.

A finished cell is kept, so an interrupted comparison resumes where it was. Written are figures as
JSON, a page, and a picture of accuracy by step. mpc needs the extra `mpc`, fedavg `federated`.

Examples:
  python -m trainers.compare --scale=smoke
  python -m trainers.compare --scale=small --epsilon=2,8 --seeds=3
  python -m trainers.compare --scale=small --systems=dpvit,fedavg --epsilon=8 --output=compared
"""

import pathlib

from absl import flags

from keras_dpvit import _files, _quiet, _validate, datasets
from keras_dpvit.errors import InputError
from trainers import _cli, train

FLAGS = flags.FlagValues()
_SYSTEMS = ("dpvit", "fused", "fedavg", "ppgan", "mpc")

flags.DEFINE_enum(
    "scale", "smoke", ["smoke", "small"], "Data, networks and numbers of steps.", flag_values=FLAGS
)
flags.DEFINE_list("systems", list(_SYSTEMS), "Those to compare.", flag_values=FLAGS)
flags.DEFINE_list("epsilon", ["2", "8"], "Whole budgets, each above 0.", flag_values=FLAGS)
flags.DEFINE_integer("seeds", 1, "Trainings of each system and budget.", flag_values=FLAGS)
flags.DEFINE_string(
    "output", None, "Folder of the results (default: compared/SCALE).", flag_values=FLAGS
)
flags.DEFINE_string("cells_dir", "compared/cells", "Folder of finished cells.", flag_values=FLAGS)
flags.DEFINE_string(
    "data_dir", None, "Folder of the data sets, where they are not at home.", flag_values=FLAGS
)


def _epsilons() -> list[float]:
    found = []
    for text in FLAGS.epsilon:
        try:
            found.append(_validate.positive(epsilon=float(text)))
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"epsilon must be numbers above 0, as 2,8, got {text!r}.") from None
    return found


def _folder(name: str, text: str) -> pathlib.Path:
    path = pathlib.Path(text)
    if not _files.can_be_made(path / "file"):
        raise InputError(f"{name} must be a folder that can be written, got {text!r}.")
    return path


def main() -> None:
    """Compares and prints the table."""
    epsilons, seeds = _epsilons(), _validate.positive_int(seeds=FLAGS.seeds)
    for name in FLAGS.systems:
        if name not in _SYSTEMS:
            raise InputError(f"systems must be of {', '.join(_SYSTEMS)}, got {name!r}.")
    output = _folder("output", FLAGS.output or f"compared/{FLAGS.scale}")
    cells_dir = _folder("cells_dir", FLAGS.cells_dir)
    _quiet.start_tensorflow()
    import tensorflow as tf

    from keras_dpvit.reproduction import compared_systems, comparison, comparison_page

    # It warns of functions that are traced again, as those of many networks are.
    tf.get_logger().setLevel("ERROR")
    compared_systems.require(FLAGS.systems)
    preset, recipe = train.recipe_settings(comparison.RECIPES[FLAGS.scale])
    scale = comparison.scale_named(FLAGS.scale, preset, recipe)

    def images() -> compared_systems.Images:
        data = datasets.load(scale.dataset, FLAGS.data_dir)
        train_part, test_part = (data.x_train, data.y_train), (data.x_test, data.y_test)
        return compared_systems.Images(train_part, test_part, data.num_classes)

    content = comparison.compare(scale, FLAGS.systems, epsilons, seeds, images, cells_dir, output)
    print(comparison_page.table(content))
    print(f"These figures are in {output}, with a picture.")


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
