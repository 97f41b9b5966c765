"""The time of a private step over a plain one for other networks than ours, and LoRA's share.

Each case trains its sides in turn in one process, a `fit` at a time, and gives the median over the
rounds of their times over the first side's. Memory is the most that a process of its own takes
during its first `fit`, traces included, above what it had with the built model.

  python -m benchmarks.layers
  python -m benchmarks.layers --only=lstm,lora --rounds=5 --output=layers.json
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_list("only", None, "Names of cases (default: all).")
flags.DEFINE_integer("rounds", 7, "Turns of each side.")
flags.DEFINE_integer("steps", 8, "Steps of a turn.")
flags.DEFINE_string("output", None, "File for the JSON.")
flags.DEFINE_string("memory_of", None, "CASE/SIDE: prints its memory and nothing else.")

RANK = 4


def _stack(*layers: Any) -> Any:
    import keras

    return keras.Sequential(layers)


def tutorial_cnn() -> Any:
    """The network of TF Privacy's tutorial."""
    from keras import Input, layers

    return _stack(
        Input((28, 28, 1)),
        layers.Conv2D(16, 8, strides=2, padding="same", activation="relu"),
        layers.MaxPool2D(2, 1),
        layers.Conv2D(32, 4, strides=2, activation="relu"),
        layers.MaxPool2D(2, 1),
        layers.Flatten(),
        layers.Dense(32, "relu"),
        layers.Dense(10),
    )


def keras_cnn() -> Any:
    """The network of Keras' MNIST example, without dropout."""
    from keras import Input, layers

    return _stack(
        Input((28, 28, 1)),
        layers.Conv2D(32, 3, activation="relu"),
        layers.MaxPool2D(2),
        layers.Conv2D(64, 3, activation="relu"),
        layers.MaxPool2D(2),
        layers.Flatten(),
        layers.Dense(10),
    )


def transposed() -> Any:
    """A convolutional autoencoder."""
    from keras import Input, layers

    same = {"strides": 2, "padding": "same"}
    return _stack(
        Input((28, 28, 1)),
        layers.Conv2D(16, 3, activation="relu", **same),
        layers.Conv2D(16, 3, activation="relu", **same),
        layers.Conv2DTranspose(16, 3, activation="relu", **same),
        layers.Conv2DTranspose(1, 3, **same),
    )


def separable() -> Any:
    """Separable convolutions behind a plain one."""
    from keras import Input, layers

    return _stack(
        Input((28, 28, 1)),
        layers.Conv2D(16, 3, activation="relu"),
        layers.SeparableConv2D(32, 3, activation="relu"),
        layers.SeparableConv2D(32, 3, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10),
    )


def lstm() -> Any:
    """Words of a review, 80 of them."""
    from keras import Input, layers

    return _stack(
        Input((80,), dtype="int32"),
        layers.Embedding(2000, 64),
        layers.LSTM(64),
        layers.Dense(1),
    )


def hub_vit(rank: int | None = None) -> Any:
    """KerasHub's ViT at a small size; with a rank, adapters of it on every matrix of the blocks."""
    import keras
    import keras_hub

    from keras_dpvit.layers.inside import layers_inside

    backbone = keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=4, num_layers=6, num_heads=4, hidden_dim=192,
        mlp_dim=768,
    )  # fmt: skip
    model = keras_hub.models.ViTImageClassifier(backbone=backbone, num_classes=10)
    if rank is not None:
        backbone.trainable = False
        kinds = (keras.layers.Dense, keras.layers.EinsumDense)
        for layer in layers_inside(backbone):
            if isinstance(layer, kinds):
                layer.trainable = True
                layer.enable_lora(rank)
    return model


def _cross_entropy() -> Any:
    import keras

    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _binary() -> Any:
    import keras

    return keras.losses.BinaryCrossentropy(from_logits=True)


# Sides: a network and whether it is trained privately; the first is what others are measured by.
CASES: dict[str, tuple[dict[str, tuple[Callable[[], Any], bool]], int, Callable[[], Any]]] = {
    name: ({"plain": (make, False), "private": (make, True)}, 250, loss)
    for name, make, loss in (
        ("tutorial_cnn", tutorial_cnn, _cross_entropy),
        ("keras_cnn", keras_cnn, _cross_entropy),
        ("transposed", transposed, lambda: "mse"),
        ("separable", separable, _cross_entropy),
        ("lstm", lstm, _binary),
    )
}
CASES["lora"] = (
    {
        "all, plain": (hub_vit, False),
        "all": (hub_vit, True),
        f"LoRA of rank {RANK}": (lambda: hub_vit(RANK), True),
    },
    32,
    _cross_entropy,
)


class Side:
    """One network that is trained again and again."""

    def __init__(self, case: str, side: str, steps: int) -> None:
        import keras
        import numpy as np

        import keras_dpvit as kd

        sides, batch, loss = CASES[case]
        make, private = sides[side]
        model = make()
        rng, records = np.random.default_rng(0), batch * steps
        (_, *shape), kind = model.input_shape, str(model.inputs[0].dtype)
        if kind.startswith("int"):
            self._x = rng.integers(0, 2000, (records, *shape))
        else:
            self._x = rng.uniform(0, 1, (records, *shape)).astype("float32")
        self._y = self._x if case == "transposed" else rng.integers(
            0, 2 if case == "lstm" else 10, records)  # fmt: skip
        self.trained = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
        self._options: dict[str, Any] = {"batch_size": batch}
        optimizer: Any = keras.optimizers.SGD(0.01)
        if private:
            model = kd.make_private(model)
            plan = kd.PrivacyPlan(records, batch, 1000, 1e-5, noise_multiplier=1.0)
            optimizer, self._options = kd.DPKerasSGDOptimizer(plan, 0.01), {}
        model.compile(optimizer, loss(), jit_compile=False)
        self._model = model

    def turn(self) -> float:
        """Seconds of one pass."""
        start = time.perf_counter()
        self._model.fit(self._x, self._y, verbose=0, **self._options)
        return time.perf_counter() - start


def measure(case: str, rounds: int, steps: int) -> dict[str, Any]:
    """Times over the first side's, parameters and memory of each side."""
    sides = {name: Side(case, name, steps) for name in CASES[case][0]}
    for side in sides.values():
        side.turn(), side.turn()  # traces
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            times[name].append(side.turn())
    first = times[next(iter(sides))]
    return {
        name: {
            "ratio": round(statistics.median(b / a for a, b in zip(first, own, strict=True)), 3),
            "ratios": [round(b / a, 3) for a, b in zip(first, own, strict=True)],
            "milliseconds_a_step": round(1e3 * statistics.median(own) / steps, 1),
            "parameters_trained": sides[name].trained,
            "memory_mib": _memory(case, name),
        }
        for name, own in times.items()
    }


def _memory(case: str, side: str) -> int:
    command = [sys.executable, "-m", "benchmarks.layers", f"--memory_of={case}/{side}"]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(result.stdout)


def _print_memory(name: str) -> None:
    case, _, side = name.partition("/")
    trained = Side(case, side, FLAGS.steps)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the highest so far is forgotten
    before = _kib("VmRSS")
    trained.turn()
    print((_kib("VmHWM") - before) >> 10)


def _kib(name: str) -> int:
    """A line of the process' status, in KiB."""
    with open("/proc/self/status", encoding="ascii") as file:
        (line,) = (line for line in file if line.startswith(name))
    return int(line.split()[1])


def main(argv: list[str]) -> None:
    """Measures the cases and prints them."""
    del argv
    if FLAGS.memory_of is not None:
        _print_memory(FLAGS.memory_of)
        return
    found = {}
    for case in FLAGS.only or CASES:
        found[case] = measure(case, FLAGS.rounds, FLAGS.steps)
        for side, facts in found[case].items():
            print(
                f"{case:14} {side:16} {facts['ratio']:6.2f}  "
                f"{facts['milliseconds_a_step']:8.1f} ms  {facts['parameters_trained']:>9} "
                f"parameters  {facts['memory_mib']:>6} MiB",
                flush=True,
            )
    if FLAGS.output is not None:
        with open(FLAGS.output, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    app.run(main)
