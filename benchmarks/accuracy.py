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
import time
from typing import Any

import numpy as np
from absl import flags

from keras_dpvit import _files, _quiet, datasets
from keras_dpvit.errors import InputError
from trainers import _cli, _flags, _recipes, train

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

_VALIDATION = 10_000
_BLOCKS: dict[str, list[str] | None] = {
    "all": None,
    "no_transformer": ["features"],
    "tokens": ["stage_1", "tokens"],
}


def _settings(epsilon: float) -> Any:
    """The recipe's settings at a budget."""
    from keras_dpvit.runs.settings import RunSettings

    typed = [*_recipes.lines("fashion_mnist"), "--recipe=none", f"--epsilon={epsilon:g}"]
    typed += [f"--{text}" for text in FLAGS.set]
    for name in train.FLAGS:
        train.FLAGS[name].unparse()
    train.FLAGS(["", *typed])
    return dataclasses.replace(_flags.settings(train.FLAGS, RunSettings), delta=1e-5)


def _data() -> tuple[Any, Any]:
    """(images, labels) to train on, and to score."""
    data = datasets.load("fashion_mnist")
    if FLAGS.part == "test":
        return (data.x_train, data.y_train), (data.x_test, data.y_test)
    x, y = data.x_train, data.y_train
    return (x[:-_VALIDATION], y[:-_VALIDATION]), (x[-_VALIDATION:], y[-_VALIDATION:])


class _Runs:
    """Trainings on the features of one file of weights."""

    def __init__(self, weights: str, variant: str, to_train: Any, to_score: Any) -> None:
        from keras_dpvit.training.frozen_features import whitened_inputs

        self._weights, self._variant = weights, variant
        self._labels, self._true = to_train[1], to_score[1]
        model = self._model()
        self._blocks = whitened_inputs(model, to_train[0])
        self._scored = whitened_inputs(model, to_score[0])

    def _model(self) -> Any:
        import keras_dpvit as kd

        return kd.DPViTClassifier.from_preset(
            "dpvit_scatter_28", 10, weights=self._weights, head_blocks=_BLOCKS[self._variant]
        )

    def run(self, epsilon: float) -> dict[str, Any]:
        from keras_dpvit.privacy.head_plan import HeadPlan
        from keras_dpvit.runs import heads, training
        from keras_dpvit.training.frozen_features import features_of

        settings, model, begin = _settings(epsilon), self._model(), time.perf_counter()
        (plan,) = training.plans(len(self._labels), settings, len(self._blocks))
        if isinstance(plan, HeadPlan):
            heads.solved_on_blocks(model, self._blocks, self._labels, plan, settings)
        else:
            self._fit(model, plan, settings)
        seconds = round(time.perf_counter() - begin, 1)
        scored = features_of(model, self._scored)
        logits = model.head_model().predict(scored, batch_size=1000, verbose=0)
        shares = _softmax(logits.astype("float64"))
        ledger = model.privacy_ledger
        return {
            "accuracy": float(np.mean(np.argmax(logits, axis=1) == self._true)),
            "mean_confidence": float(np.mean(shares.max(axis=1))),
            "cross_entropy": float(-np.mean(np.log(shares[np.arange(len(shares)), self._true]))),
            "epsilon_rdp": ledger.epsilon(1e-5, "rdp"),
            "epsilon_pld": ledger.epsilon(1e-5, "pld"),
            "seconds": seconds,
        }

    def _fit(self, model: Any, plan: Any, settings: Any) -> None:
        import keras

        from keras_dpvit.runs import heads, training

        head, features = heads.head_on_features(model, self._blocks, plan, settings)
        head.compile(
            training.optimizer_of(plan, settings),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        head.fit(features, self._labels, epochs=int(np.ceil(settings.epochs)), verbose=0)


def _softmax(logits: Any) -> Any:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def main() -> None:
    """Runs what is missing and writes after every run."""
    if FLAGS.output is None:
        raise InputError("output must be given, a JSON file.")
    _quiet.start_tensorflow()
    output = pathlib.Path(FLAGS.output)
    found = json.loads(output.read_text()) if output.exists() else []
    to_train, to_score = _data()
    for weights in FLAGS.weights:
        for variant in FLAGS.variants:
            runs = None
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
                    runs = runs or _Runs(weights, variant, to_train, to_score)
                    found.append({**key, **runs.run(epsilon)})
                    print(json.dumps(found[-1]), flush=True)
                    _files.write_json(output, found)


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
