"""Scores an exported model on the held-out images of a data set.

Examples:
  python -m trainers.evaluate --saved_model=savedmodels/digits --dataset=digits
  python -m trainers.evaluate --saved_model=savedmodels/fmnist/1 --dataset=fashion_mnist
  python -m trainers.evaluate --tflite=savedmodels/digits/1/model.tflite --dataset=digits
"""

import json

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
    classes = outputs["probabilities"].shape[-1]
    if classes != len(data.class_names):
        raise InputError(
            f"--dataset={FLAGS.dataset} has {len(data.class_names)} classes, the model {classes}."
        )
    right = outputs["class_id"] == data.y_test
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


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
