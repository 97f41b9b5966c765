r"""Draws what a trained model attends to in held-out images.

What a map shows of an image is not covered by the model's epsilon, which is about the images it was
trained on: so only held-out images are shown, and these should be public ones.

Examples:
  python -m trainers.attention --model=savedmodels/demo/1/model.keras --dataset=digits \
      --output=attention.png
  python -m trainers.attention --model=model.keras --dataset=fashion_mnist --num_images=8 \
      --seed=1 --output=attention.png
"""

from typing import Any

import numpy as np
from absl import flags

from keras_dpvit import _quiet
from keras_dpvit.datasets import ImageData
from keras_dpvit.errors import InputError
from keras_dpvit.runs import model_files
from trainers import _cli, _flags

FLAGS = flags.FlagValues()
_flags.define_dataset_flags(FLAGS)
flags.DEFINE_string("model", None, "A .keras file.", flag_values=FLAGS)
flags.DEFINE_integer("member", 1, "Which member of a fused model.", flag_values=FLAGS)
flags.DEFINE_integer("num_images", 6, "Images to show, 1..24.", flag_values=FLAGS)
flags.DEFINE_integer(
    "seed", None, "Draws the images at random (default: the first ones).", flag_values=FLAGS
)
flags.DEFINE_string("output", None, "The .png file to write.", flag_values=FLAGS)

_LONGEST_NAME = 14


def _check_flags() -> None:
    for name, what in (("model", "a .keras file"), ("output", "a .png file")):
        if FLAGS[name].value is None:
            raise InputError(f"--{name} must be given: {what}.")
    if not 1 <= FLAGS.num_images <= 24:
        raise InputError(f"num_images must be 1..24, got {FLAGS.num_images}.")
    if FLAGS.seed is not None and FLAGS.seed < 0:
        raise InputError(f"seed must be a whole number, 0 or above, got {FLAGS.seed}.")
    model_files.check_model_file(FLAGS.model)
    model_files.check_picture(output=FLAGS.output)


def _chosen(data: ImageData) -> np.ndarray:
    """Numbers of the images shown, by position or by lot, never by what comes out."""
    count = min(FLAGS.num_images, len(data.x_test))
    if FLAGS.seed is None:
        return np.arange(count)
    return np.random.default_rng(FLAGS.seed).choice(len(data.x_test), count, replace=False)


def _labels(model: Any, images: np.ndarray, truth: np.ndarray, names: tuple[str, ...]) -> list[str]:
    import keras

    logits = model.predict(images, verbose=0)
    probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    return [
        f"{_short(names[right])}\nmodel: {_short(names[row.argmax()])} {row.max():.2f}"
        for right, row in zip(truth, probabilities, strict=True)
    ]


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def main() -> None:
    """Writes the picture."""
    _check_flags()
    _quiet.start_tensorflow()
    from keras_dpvit.plots import plot_attention_maps
    from keras_dpvit.training.sources import check_images

    with _quiet.quiet_stderr():
        model = model_files.load_member(FLAGS.model, FLAGS.member)
    data = _flags.load_dataset(FLAGS, tuple(model.input_shape[1:]))
    check_images(data.x_test, tuple(model.input_shape[1:]))
    if model.num_classes != len(data.class_names):
        raise InputError(
            f"--dataset={FLAGS.dataset} has {len(data.class_names)} classes, the model "
            f"{model.num_classes}."
        )
    rows = _chosen(data)
    images = data.x_test[rows].astype("float32")
    with _quiet.quiet_stderr():
        labels = _labels(model, images, data.y_test[rows], data.class_names)
        plot_attention_maps(model, images, FLAGS.output, labels=labels)
    print(f"{FLAGS.output}: attention maps of {len(rows)} held-out images of {data.name}.")
    print("What they show of these images is not covered by the model's epsilon.")


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
