"""Scores an exported model on the held-out images of a data set.

Examples:
  python -m trainers.evaluate --saved_model=savedmodels/digits --dataset=digits
  python -m trainers.evaluate --saved_model=savedmodels/fmnist/1 --dataset=fashion_mnist
  python -m trainers.evaluate --tflite=savedmodels/digits/1/model.tflite --dataset=digits
"""

import json
from typing import Any

import numpy as np
from absl import flags

from keras_dpvit import _quiet
from keras_dpvit.errors import InputError
from trainers import _cli, _flags, _hidden_images

FLAGS = flags.FlagValues()
_flags.define_dataset_flags(FLAGS)
_hidden_images.define_flags(FLAGS)
flags.DEFINE_string(
    "saved_model", None, "A version directory, or a base whose newest is taken.", flag_values=FLAGS
)
flags.DEFINE_string("tflite", None, "A TFLite file, instead of --saved_model.", flag_values=FLAGS)
flags.DEFINE_bool(
    "by_number",
    False,
    "The model's classes are the data's in the same order, whatever their names.",
    flag_values=FLAGS,
)
flags.DEFINE_bool("json", False, "Prints JSON.", flag_values=FLAGS)


def main() -> None:
    """Prints accuracy overall and by class."""
    if (FLAGS.saved_model is None) == (FLAGS.tflite is None):
        raise InputError("Give one of --saved_model=DIR and --tflite=FILE.")
    _quiet.start_tensorflow()
    from keras_dpvit.export.runners import SavedModelRunner, TFLiteRunner, version_directory
    from keras_dpvit.training.sources import check_images

    runner: SavedModelRunner | TFLiteRunner
    with _quiet.quiet_stderr():  # both announce themselves there
        if FLAGS.saved_model is not None:
            path = str(version_directory(FLAGS.saved_model))
            runner = SavedModelRunner(path)
        else:
            path, runner = FLAGS.tflite, TFLiteRunner(FLAGS.tflite)
    data = _flags.load_dataset(FLAGS, runner.image_shape)
    cipher = _hidden_images.load_cipher(FLAGS, data)
    _hidden_images.check_key_of_model(path, cipher)
    if cipher is not None:
        data = _hidden_images.encrypt(data, cipher)
    check_images(data.x_test, runner.image_shape)
    with _quiet.quiet_stderr():
        outputs = runner.predict(data.x_test)
    labels = _labels(data, runner.class_names(outputs["probabilities"].shape[-1]))
    right = outputs["class_id"] == labels
    by_class = {
        name: float(np.mean(right[data.y_test == i]))
        for i, name in enumerate(data.class_names)
        if np.any(data.y_test == i)
    }
    summary = {
        "model": path,
        "dataset": data.name,
        "num_test_examples": len(right),
        "accuracy": float(np.mean(right)),
        "accuracy_by_class": by_class,
    }
    if FLAGS.json:
        print(json.dumps(summary, indent=2))
        return
    print(f"{path} on {len(right)} held-out images of {data.name}: accuracy {np.mean(right):.4f}")
    for name, value in by_class.items():
        print(f"  {name:20} {value:.4f}")


def _labels(data: Any, model_names: list[str]) -> np.ndarray:
    """The held-out images' classes as the model numbers them."""
    from keras_dpvit.export.class_names import match_classes

    if not FLAGS.by_number:
        return match_classes(data.y_test, data.class_names, model_names, FLAGS.dataset)
    if len(model_names) != len(data.class_names):
        raise InputError(
            f"--by_number needs as many classes in the data ({len(data.class_names)}) as in the "
            f"model ({len(model_names)})."
        )
    return np.asarray(data.y_test)


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
