r"""Accuracy of the recipe for 28x28 images: several seeds, budgets and parts of the network.

Every run is the recipe `fashion_mnist` of `trainers.train`: means, calibration, sampling, noise and
head as there; only the features, which no run changes, are shared. A seed is a file of
`trainers.pretrain`, so that pre-training, sampling and noise are all drawn anew.
`--part=validation` trains on the first 50,000 training images and scores the last 10,000,
`--part=test` trains on all 60,000 and scores the test images, once. Runs that the output file holds
are passed by, so the same command resumes.

Examples:
  python -m benchmarks.accuracy --weights=w0.npz,w1.npz --part=validation --epsilons=2.7 \
      --output=accuracy.json
  python -m benchmarks.accuracy --set=solver=feature_covariance --epsilons=1,2.7,8 \
      --output=solved_heads.json
"""

import dataclasses
import json
import pathlib
from typing import Any

from absl import flags

from keras_dpvit import _files, _quiet, datasets
from keras_dpvit.errors import InputError
from trainers import _cli, train

FLAGS = flags.FlagValues()
flags.DEFINE_list("weights", ["synthetic"], "Files of trainers.pretrain.", flag_values=FLAGS)
flags.DEFINE_enum(
    "part", "validation", ["validation", "test"], "Which images are scored.", flag_values=FLAGS
)
flags.DEFINE_list("epsilons", ["2.7"], "Budgets.", flag_values=FLAGS)
flags.DEFINE_list(
    "variants", ["all"], "Of " + ", ".join(["all", "no_transformer", "tokens"]), flag_values=FLAGS
)
flags.DEFINE_multi_string(
    "set", [], "A flag of trainers.train in place of the recipe's, as rate=1.", flag_values=FLAGS
)
flags.DEFINE_integer("draws", 1, "Trainings of each kind.", flag_values=FLAGS)
flags.DEFINE_string("output", None, "JSON file of results.", flag_values=FLAGS)

VALIDATION = 10_000
_BLOCKS: dict[str, list[str] | None] = {
    "all": None,
    "no_transformer": ["features"],
    "tokens": ["stage_1", "tokens"],
}


def data(part: str) -> tuple[Any, Any]:
    """(images, labels) to train on, and to score.

    Args:
        part: "validation", the last of the training images, or "test".
    """
    loaded = datasets.load("fashion_mnist")
    x, y = loaded.x_train, loaded.y_train
    if part == "test":
        return (x, y), (loaded.x_test, loaded.y_test)
    return (x[:-VALIDATION], y[:-VALIDATION]), (x[-VALIDATION:], y[-VALIDATION:])


def _run(bench: Any, weights: str, variant: str, epsilon: float) -> dict[str, Any]:
    """One training, by the recipe but for what the flags change."""
    from keras_dpvit.reproduction.trainings import Training

    changes = [f"--epsilon={epsilon:g}", *(f"--{text}" for text in FLAGS.set)]
    preset, settings = train.recipe_settings("fashion_mnist", *changes)
    blocks = _BLOCKS[variant] or settings.head_blocks
    settings = dataclasses.replace(settings, weights=weights, head_blocks=blocks)
    found = bench.run(Training(preset, settings))
    return {
        "accuracy": found["accuracy"][-1],
        "mean_confidence": found["confidence"][-1],
        "epsilon_rdp": found["epsilon"]["rdp"],
        "epsilon_pld": found["epsilon"]["pld"],
        "seconds": found["seconds"],
    }


def main() -> None:
    """Runs what is missing and writes after every run."""
    if FLAGS.output is None:
        raise InputError("output must be given, a JSON file.")
    _quiet.start_tensorflow()
    output = pathlib.Path(FLAGS.output)
    found = json.loads(output.read_text()) if output.exists() else []
    from keras_dpvit.reproduction.trainings import Bench

    to_train, to_score = data(FLAGS.part)
    for weights in FLAGS.weights:
        bench = Bench(to_train, to_score, num_classes=10)
        for variant in FLAGS.variants:
            for epsilon in map(float, FLAGS.epsilons):
                for draw in range(FLAGS.draws):
                    key = {
                        "weights": pathlib.Path(weights).name,
                        "part": FLAGS.part,
                        "variant": variant,
                        "epsilon": epsilon,
                        "set": FLAGS.set,
                        "draw": draw,
                    }
                    if any(key == {k: run[k] for k in key} for run in found):
                        continue
                    found.append({**key, **_run(bench, weights, variant, epsilon)})
                    print(json.dumps(found[-1]), flush=True)
                    _files.write_json(output, found)


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
