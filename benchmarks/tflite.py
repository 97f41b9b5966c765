r"""TFLite files of one fused pair beside Keras and the SavedModel: size, agreement, accuracy, time.

Two members are trained privately on Fashion-MNIST (or --model is taken) and fused. The pair is
written as a SavedModel and as TFLite in each way, int8 with each set of calibration images, and
run on 1,000 test images. Times are of one image at a time from Python, everything included, and
all sides take turns. The calibration images are public or synthetic.

Examples:
  python -m benchmarks.tflite
  python -m benchmarks.tflite --json --output=docs/results/tflite.json
  python -m benchmarks.tflite --model=savedmodels/fmnist/1/model.keras --rounds=5
"""

import json
import pathlib
import tempfile

from absl import flags

from benchmarks import tflite_sides
from benchmarks.reports import checked_output, machine
from keras_dpvit import _quiet, _validate
from keras_dpvit.errors import InputError
from keras_dpvit.runs import model_files
from trainers import _cli

FLAGS = flags.FlagValues()
flags.DEFINE_bool("json", False, "Prints one JSON object and no table.", flag_values=FLAGS)
flags.DEFINE_string(
    "output", None, "File for the JSON object, besides what is printed.", flag_values=FLAGS
)
flags.DEFINE_string(
    "model", None, "A .keras file of 28x28x1 images, instead of training.", flag_values=FLAGS
)
flags.DEFINE_float("epsilon", 3.0, "The pair's budget at delta 1e-5.", flag_values=FLAGS)
flags.DEFINE_float("epochs", 3.0, "Of each member.", flag_values=FLAGS)
flags.DEFINE_integer("rounds", 20, "Turns of each side.", flag_values=FLAGS)
flags.DEFINE_integer(
    "threads", 2, "Threads of LiteRT; TensorFlow takes as many as it likes.", flag_values=FLAGS
)


def _check_flags() -> pathlib.Path | None:
    _validate.positive(epsilon=FLAGS.epsilon)
    _validate.positive(epochs=FLAGS.epochs)
    _validate.positive_int(rounds=FLAGS.rounds)
    _validate.positive_int(threads=FLAGS.threads)
    if FLAGS.model is not None:
        model_files.check_model_file(FLAGS.model)
    return checked_output(FLAGS.output)


def main() -> None:
    """Trains or loads, measures, prints, writes."""
    output = _check_flags()
    facts = machine()
    _quiet.start_tensorflow()
    from keras_dpvit import datasets

    data = datasets.load("fashion_mnist")
    with _quiet.quiet_stderr(), tempfile.TemporaryDirectory() as folder:
        if FLAGS.model is None:
            model = tflite_sides.train_pair(data, FLAGS.epsilon, FLAGS.epochs)
        else:
            model = model_files.load_any(FLAGS.model)
            if tuple(model.input_shape[1:]) != (28, 28, 1):
                raise InputError(f"model must take images of 28x28x1, got {model.input_shape[1:]}.")
        measured = tflite_sides.measure(
            model, data, pathlib.Path(folder), FLAGS.rounds, FLAGS.threads
        )
    report = {
        "benchmark": "tflite",
        "machine": facts,
        "model": "two dpvit_small_28, fused" if FLAGS.model is None else "--model",
        "epsilon": model.privacy_ledger.epsilon(tflite_sides.DELTA),
        "delta": tflite_sides.DELTA,
        "num_images": tflite_sides.NUM_IMAGES,
        "threads": FLAGS.threads,
        "timed_calls": FLAGS.rounds * tflite_sides.PER_TURN,
        **measured,
        "bars": tflite_sides.judge(measured["sides"]),
    }
    text = json.dumps(report, indent=2)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")
    if FLAGS.json:
        print(text)
        return
    print("\n".join(tflite_sides.table(report)), end="\n\n")
    for bar in report["bars"]:
        print(f"{'holds' if bar['holds'] else 'FAILS':6} {bar['value']:.3f} {bar['what']}")


if __name__ == "__main__":
    _cli.run(main, FLAGS, __doc__)
