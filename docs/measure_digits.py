"""Measures what docs/data_and_accuracy.md quotes, on scikit-learn's digits.

    python docs/measure_digits.py --output=docs/results/digits_settings.json
    python docs/measure_digits.py --output=docs/results/digits_settings.json --tables

Each line of the result is one setting with the held-out accuracy of each of its trainings. Noise is
drawn from the operating system, so another run differs. An older result is read first, and what is
in it is not trained again. `--tables` trains nothing and prints the page's tables.
"""

import argparse
import json
import pathlib
import time
from typing import Any

import keras
import numpy as np

import keras_dpvit as kd

RUNS = 3
BASE: dict[str, Any] = {
    "records": 1400,
    "epsilon": 3.0,
    "batch_size": 256,
    "epochs": 60,
    "learning_rate": 5e-3,
}
DELTA = 5e-5
SIZES = ((1400, 256), (700, 128), (350, 64))  # records, batch
VARIANTS = (
    ("", "as in the base"),
    ("pre-trained", "starts from weights pre-trained on public pictures (Fashion-MNIST)"),
    ("two members", "two members, fused, within the same budget"),
    ("average", "average of the weights (`use_ema`)"),
)


def settings() -> list[dict[str, Any]]:
    """Everything that is measured, each as what differs from `BASE`."""
    found: list[dict[str, Any]] = []
    for records, batch_size in SIZES:
        for epsilon in (1.0, 3.0, 8.0, None):
            found.append({"records": records, "batch_size": batch_size, "epsilon": epsilon})
    found += [{"variant": name} for name, _ in VARIANTS if name]
    found += [{"batch_size": size} for size in (64, 1024)]
    found += [{"epochs": epochs} for epochs in (20, 180)]
    found += [{"learning_rate": rate} for rate in (1e-3, 2e-2)]
    return found


def tables(results: dict[str, Any]) -> list[str]:
    """The tables of docs/data_and_accuracy.md, as Markdown."""
    by_setting = {json.dumps(line["differs"]): line for line in results["settings"]}

    def cell(**differs: Any) -> str:
        runs = by_setting[json.dumps(differs)]["accuracy"]
        return f"{np.mean(runs):.2f} ({min(runs):.2f} to {max(runs):.2f})"

    def noise(**differs: Any) -> str:
        multiplier = by_setting[json.dumps(differs)]["noise_multiplier"]
        return f"{multiplier:.2f} | {multiplier / {**BASE, **differs}['batch_size']:.4f}"

    base = {"records": 1400, "batch_size": 256, "epsilon": 3.0}
    rows = [
        [f"{records:,}"]
        + [cell(records=records, batch_size=size, epsilon=e) for e in (1.0, 3.0, 8.0, None)]
        for records, size in SIZES
    ]
    first = _table(["n", "epsilon 1", "epsilon 3", "epsilon 8", "no privacy"], rows)
    kinds = [("as in the base", base)]
    kinds += [(f"batch {size}", {"batch_size": size}) for size in (64, 1024)]
    kinds += [(f"{epochs} epochs", {"epochs": epochs}) for epochs in (20, 180)]
    kinds += [(f"rate {rate:g}", {"learning_rate": rate}) for rate in (1e-3, 2e-2)]
    rows = [[name, noise(**differs), cell(**differs)] for name, differs in kinds]
    second = _table(["setting", "noise multiplier", "noise over batch", "accuracy"], rows)
    rows = [[words, cell(**({"variant": name} if name else base))] for name, words in VARIANTS]
    return [first, second, _table(["what", "accuracy"], rows)]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Trains, and writes the result after each setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, help="The JSON file to write.")
    parser.add_argument("--tables", action="store_true", help="Print the tables of the page alone.")
    arguments = parser.parse_args()
    output = pathlib.Path(arguments.output)
    if arguments.tables:
        print("\n\n".join(tables(json.loads(output.read_text("utf-8")))))
        return
    done = json.loads(output.read_text("utf-8"))["settings"] if output.is_file() else []
    known = {json.dumps(line["differs"]): line for line in done}
    data = kd.datasets.load("digits")
    order = np.random.default_rng(0).permutation(len(data.x_train))
    for differs in settings():
        if json.dumps(differs) in known:
            continue
        chosen = {**BASE, **differs}
        rows = order[: chosen["records"]]
        start = time.perf_counter()
        runs = [_accuracy(data, rows, chosen) for _ in range(RUNS)]
        seconds = (time.perf_counter() - start) / RUNS
        line = {"differs": differs, "accuracy": runs, "seconds_a_training": round(seconds, 1)}
        if chosen["epsilon"] is not None:
            line["noise_multiplier"] = round(_plan(chosen).noise_multiplier, 4)
        done.append(line)
        print(json.dumps(line), flush=True)
        whole = {
            "what": "scikit-learn's digits, preset dpvit_tiny_8, accuracy on 360 held-out images",
            "command": "python docs/measure_digits.py --output=docs/results/digits_settings.json",
            "base": {**BASE, "delta": DELTA, "optimizer": "Adam"},
            "settings": done,
        }
        output.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")


def _members(chosen: dict[str, Any]) -> int:
    return 2 if chosen.get("variant") == "two members" else 1


def _plan(chosen: dict[str, Any]) -> kd.PrivacyPlan:
    return kd.PrivacyPlan.for_target(
        epsilon=chosen["epsilon"],
        delta=DELTA,
        num_examples=chosen["records"],
        batch_size=chosen["batch_size"],
        epochs=chosen["epochs"],
        compositions=_members(chosen),
    )


def _accuracy(data: Any, rows: np.ndarray, chosen: dict[str, Any]) -> float:
    """The held-out accuracy of one training."""
    keras.backend.clear_session()
    x, y = data.x_train[rows], data.y_train[rows]
    models = [_trained(x, y, chosen) for _ in range(_members(chosen))]
    model = models[0] if len(models) == 1 else kd.FusedClassifier(models)
    found = model.predict(data.x_test, batch_size=500, verbose=0)
    scores = found["probabilities"] if isinstance(found, dict) else found
    return round(float(np.mean(np.argmax(scores, axis=1) == data.y_test)), 4)


def _trained(x: Any, y: Any, chosen: dict[str, Any]) -> Any:
    model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=10)
    variant = chosen.get("variant")
    if variant == "pre-trained":
        _pretrain(model)
    arguments: dict[str, Any] = {"epochs": chosen["epochs"], "verbose": 0}
    if chosen["epsilon"] is None:
        optimizer = keras.optimizers.Adam(1e-3)
        arguments |= {"batch_size": 64, "public_data": True}
    else:
        average = {"use_ema": True, "ema_momentum": 0.95} if variant == "average" else {}
        optimizer = kd.DPKerasAdamOptimizer(
            _plan(chosen), learning_rate=chosen["learning_rate"], **average
        )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])
    model.fit(x, y, **arguments)
    return model


def _pretrain(model: Any) -> None:
    """Ordinary training on Fashion-MNIST, whose images are public, at 8 x 8 pixels."""
    public = kd.datasets.load("fashion_mnist")
    tiles = public.x_train[:20_000, 2:26, 2:26].reshape(-1, 8, 3, 8, 3, 1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss)
    images = tiles.mean(axis=(2, 4)).astype("float32")
    model.fit(
        images, public.y_train[:20_000], epochs=5, batch_size=128, verbose=0, public_data=True
    )


if __name__ == "__main__":
    main()
