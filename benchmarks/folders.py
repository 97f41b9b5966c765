r"""Accuracy over number of pictures, epsilon and model, for folders of 32x32 colour pictures.

Scikit-learn's digits, and Fashion-MNIST's training images alone, as `trainers.train` reads them
from PNG files. Each training is one that the program does: `head` by the recipe of folders, `cnn`
and `vit` (presets cnn_32 and dpvit_small_32) from random weights. Without privacy, the same head
and the same CNN trained by Adam: what the data would give. A draw takes other pictures to train on.
Trainings that the output file holds are passed by, so the same command resumes.

Examples:
  python -m benchmarks.folders --output=docs/results/folders.json
  python -m benchmarks.folders --output=docs/results/folders.json --tables
"""

import contextlib
import dataclasses
import io
import itertools
import json
import math
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from keras_dpvit import _files, _quiet, datasets
from keras_dpvit.datasets import ImageData
from keras_dpvit.errors import InputError
from trainers import _cli, _flags, _recipes, train

FLAGS = flags.FlagValues()
flags.DEFINE_string("output", None, "JSON file of results.", flag_values=FLAGS)
flags.DEFINE_list("models", ["head", "cnn", "vit"], "Of head, cnn, vit.", flag_values=FLAGS)
flags.DEFINE_list(
    "sizes", ["350", "1400", "1000", "5000", "20000"], "Numbers of pictures.", flag_values=FLAGS
)
flags.DEFINE_list("epsilons", ["1", "3", "8", "none"], "Budgets.", flag_values=FLAGS)
flags.DEFINE_integer("draws", 1, "Trainings of each kind.", flag_values=FLAGS)
flags.DEFINE_bool("tables", False, "Prints the table and trains nothing.", flag_values=FLAGS)

EPSILONS = (1.0, 3.0, 8.0, None)
# data set, pictures to train on, epochs from random weights
SIZES = (
    ("digits", 350, 60),
    ("digits", 1_400, 60),
    ("fashion_mnist", 1_000, 60),
    ("fashion_mnist", 5_000, 20),
    ("fashion_mnist", 20_000, 10),
)
_FROM_RANDOM = {"cnn": "cnn_32", "vit": "dpvit_small_32"}
_NAMES = {
    "head": "made-up images, head",
    "cnn": "`cnn_32` from random weights",
    "vit": "`dpvit_small_32` from random weights",
}
_POOL, _SCORED, _DIGITS_TO_TRAIN = 20_000, 5_000, 1_400
_SHAPE = (32, 32, 3)


def _settings(model: str, epsilon: float, epochs: int) -> Any:
    """The settings that `trainers.train` has by such a command line."""
    from keras_dpvit.runs.settings import RunSettings

    typed = [*_recipes.lines("image_folder_32"), "--recipe=none"]
    if model != "head":
        typed = [f"--preset={_FROM_RANDOM[model]}", f"--epochs={epochs}", "--accountant=pld"]
    for name in train.FLAGS:
        train.FLAGS[name].unparse()
    train.FLAGS(["", *typed, f"--epsilon={epsilon:g}", "--delta=auto"])
    return dataclasses.replace(_flags.settings(train.FLAGS, RunSettings), delta=None)


class _Pictures:
    """A data set's pictures, those to train on before those that are scored."""

    def __init__(self, name: str) -> None:
        data = datasets.load(name)
        if name == "digits":
            x = np.concatenate([data.x_train, data.x_test])
            y = np.concatenate([data.y_train, data.y_test])
        else:
            # The test images stay out of it.
            pool = _balanced(data.y_train[:-10_000], _POOL, np.random.default_rng(0))
            rows = np.concatenate([pool, np.arange(len(data.x_train))[-_SCORED:]])
            x, y = data.x_train[rows], data.y_train[rows]
        self.name, self.x, self.y = name, np.stack([_as_in_folder(image) for image in x]), y
        self._class_names = data.class_names
        self._blocks: list[Any] = []

    def rows(self, count: int, draw: int) -> tuple[Any, Any]:
        """Rows to train on, and rows to score."""
        rng = np.random.default_rng((draw, 1))
        if self.name == "digits":
            order = rng.permutation(len(self.y))
            return order[:count], order[_DIGITS_TO_TRAIN:]
        rows = _balanced(self.y[:_POOL], count, rng)
        return rows, np.arange(_POOL, len(self.y))

    def data(self, trained: Any, scored: Any) -> ImageData:
        x, y = self.x, self.y.astype("int64")
        parts = (x[trained], y[trained], x[scored], y[scored])
        return ImageData(self.name, *parts, self._class_names)

    def blocks(self) -> list[Any]:
        """Inputs of the whitened layers for all pictures, computed once."""
        from keras_dpvit.training.frozen_features import whitened_inputs

        if not self._blocks:
            self._blocks = whitened_inputs(_pretrained(), self.x)
        return self._blocks


def _balanced(labels: Any, count: int, rng: np.random.Generator) -> Any:
    """Rows with as many of each class, in random order."""
    order = rng.permutation(len(labels))
    each = [order[labels[order] == label][: count // 10] for label in range(10)]
    return rng.permutation(np.concatenate(each))


def _as_in_folder(image: Any) -> Any:
    """A grey picture as a folder gives it: in colour, resized bilinearly."""
    picture = Image.fromarray(image[..., 0]).convert("RGB")
    return np.asarray(picture.resize(_SHAPE[:2], Image.Resampling.BILINEAR))


def _pretrained() -> Any:
    import keras_dpvit as kd

    return kd.DPViTClassifier.from_preset("dpvit_scatter_32", 10, weights="synthetic")


def _loss() -> Any:
    import keras

    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _train(
    pictures: _Pictures, model: str, epsilon: float | None, rows: Any, scored: Any, epochs: int
) -> Any:
    """Logits of the scored pictures after one training."""
    import keras

    import keras_dpvit as kd
    from keras_dpvit.privacy.plan import PrivacyPlan
    from keras_dpvit.runs import heads, training
    from keras_dpvit.training.frozen_features import features_of

    data = pictures.data(rows, scored)
    if model == "head":
        network = _pretrained()
        blocks = [block[rows] for block in pictures.blocks()]
        if epsilon is None:
            head, x = network.head_model(), features_of(network, blocks)
            head.compile(keras.optimizers.Adam(1e-2), _loss())
            head.fit(x, data.y_train, epochs=30, batch_size=64, verbose=0)
        else:
            settings = _settings(model, epsilon, epochs)
            (plan,) = training.plans(len(rows), settings, len(blocks))
            assert isinstance(plan, PrivacyPlan)
            head, x = heads.head_on_features(network, blocks, plan, settings)
            head.compile(training.optimizer_of(plan, settings), _loss())
            head.fit(x, data.y_train, epochs=math.ceil(settings.epochs), verbose=0)
        seen = features_of(network, [block[scored] for block in pictures.blocks()])
        return head.predict(seen, batch_size=1000, verbose=0)
    if epsilon is None:
        network = kd.small_cnn(_SHAPE, 10)
        network.compile(keras.optimizers.Adam(1e-3), _loss())
        network.fit(data.x_train, data.y_train, epochs=epochs, batch_size=64, verbose=0)
    else:
        settings = _settings(model, epsilon, epochs)
        plans = training.plans(len(rows), settings)
        (network,), _ = training.train_all(data, None, _FROM_RANDOM[model], plans, settings)
    return network.predict(data.x_test, batch_size=500, verbose=0)


def table(found: list[dict[str, Any]]) -> str:
    """The results as Markdown: mean, and least to greatest of the draws."""
    lines = [
        "| pictures | model | epsilon 1 | epsilon 3 | epsilon 8 | no privacy |",
        "|" + "---|" * 6,
    ]
    for name, count, _ in SIZES:
        for model, words in _NAMES.items():
            cells = [_cell(found, name, count, model, epsilon) for epsilon in EPSILONS]
            lines.append(f"| {count:,} of {name} | {words} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(found: list[dict[str, Any]], name: str, count: int, model: str, epsilon: Any) -> str:
    key = {"data": name, "pictures": count, "model": model, "epsilon": epsilon}
    values = [run["accuracy"] for run in found if key.items() <= run.items()]
    if not values:
        return "-"
    spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def main() -> None:
    """Runs what is missing and writes after every training."""
    if FLAGS.output is None:
        raise InputError("output must be given, a JSON file.")
    output = pathlib.Path(FLAGS.output)
    found = json.loads(output.read_text()) if output.exists() else []
    if FLAGS.tables:
        print(table(found))
        return
    _quiet.start_tensorflow()
    import keras

    pictures: dict[str, _Pictures] = {}
    for key, epochs in _keys():
        if any(key.items() <= run.items() for run in found):
            continue
        if key["data"] not in pictures:
            pictures[key["data"]] = _Pictures(key["data"])
        those = pictures[key["data"]]
        rows, scored = those.rows(key["pictures"], key["draw"])
        keras.backend.clear_session()
        begin = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            logits = _train(those, key["model"], key["epsilon"], rows, scored, epochs)
        right = np.argmax(logits, axis=1) == those.y[scored]
        seconds = round(time.perf_counter() - begin, 1)
        found.append({**key, "accuracy": float(right.mean()), "seconds": seconds})
        print(json.dumps(found[-1]), flush=True)
        _files.write_json(output, found)


def _keys() -> Iterator[tuple[dict[str, Any], int]]:
    """Each training that the flags ask for, and its epochs if it starts from random weights."""
    budgets = [None if text == "none" else float(text) for text in FLAGS.epsilons]
    for (name, count, epochs), model in itertools.product(SIZES, FLAGS.models):
        for epsilon, draw in itertools.product(budgets, range(FLAGS.draws)):
            if str(count) in FLAGS.sizes and (model, epsilon) != ("vit", None):
                key = {"data": name, "pictures": count, "model": model}
                yield {**key, "epsilon": epsilon, "draw": draw}, epochs


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
