r"""Private inference beside the plain model: agreement, error, time and bytes, by protocol.

A fused pair of `dpvit_small_28`, one member of it, and `dpvit_scatter_28` with a head fitted here
without privacy, on test images of Fashion-MNIST; and the functions that fixed point computes by
approximation. ABY3 on one member has bars.

Examples:
  python -m trainers.train --dataset=fashion_mnist --recipe=none --members=2 --output_dir=pair
  python -m benchmarks.mpc --pair=pair/1/model.keras --images=100
  python -m benchmarks.mpc --pair=pair/1/model.keras --output=docs/results/mpc.json
"""

import importlib.metadata
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from benchmarks.reports import checked_output, machine
from keras_dpvit import _files, _validate, datasets
from keras_dpvit.baselines import mpc, mpc_runtime
from keras_dpvit.errors import InputError
from trainers import _cli

FLAGS = flags.FlagValues()
flags.DEFINE_integer("images", 1000, "Of the first row; others take fewer.", flag_values=FLAGS)
flags.DEFINE_string(
    "pair", None, ".keras file of a fused pair of dpvit_small_28.", flag_values=FLAGS
)
flags.DEFINE_bool("json", False, "Prints JSON.", flag_values=FLAGS)
flags.DEFINE_string(
    "output", None, "File for the JSON object, besides what is printed.", flag_values=FLAGS
)

ROOT = pathlib.Path(__file__).parents[1]

# Of ABY3 in simulation, on one member of the pair.
BARS = {"agreement": 0.999, "largest_error": 0.05, "seconds": 0.5, "megabytes": 10.0}

# Name, member, protocol, images at the most, batch size, processes.
ROWS: tuple[tuple[str, int | None, str, int, int, bool], ...] = (
    ("dpvit_small_28", 1, "aby3", 10_000, 50, False),
    ("dpvit_small_28", 1, "aby3", 100, 50, True),
    ("dpvit_small_28", 1, "semi2k", 100, 50, False),
    ("dpvit_small_28", 1, "cheetah", 8, 8, False),
    ("fused pair", None, "aby3", 100, 50, False),
    ("dpvit_scatter_28", None, "aby3", 16, 8, False),
)

_FITTED_ON = 600


def function_errors(protocol: str, fraction_bits: int) -> dict[str, float]:
    """The largest error of each approximated function, on arguments as large as networks have.

    Of GELU on -8..8, of a softmax over 16 scores (standard deviation 3), and of a quotient of
    numbers up to 10 over 0.1..100, as a share of the quotient or of 1, the larger. In this process,
    under JAX.
    """
    import keras

    from keras_dpvit.baselines import mpc_trace

    generator = np.random.default_rng(0)
    scores = generator.normal(0, 3, (200, 16))
    over = np.exp(generator.uniform(np.log(0.1), np.log(100), 2000))
    trials: dict[str, tuple[Callable[..., Any], list[np.ndarray]]] = {
        "gelu": (
            lambda x: keras.activations.gelu(x, approximate=False),
            [np.linspace(-8, 8, 2001)],
        ),
        "softmax": (keras.ops.softmax, [scores]),
        "division": (keras.ops.divide, [generator.uniform(-10, 10, 2000), over]),
    }
    found = {}
    for name, (function, given) in trials.items():
        inputs = [np.asarray(values, "float32") for values in given]
        executable = mpc_trace.compiled(lambda _, x, f=function: f(*x), [], inputs)
        simulated = mpc_runtime.Simulation(protocol, executable, [], fraction_bits).run(inputs)
        plain = np.asarray(function(*inputs))
        found[name] = float((np.abs(simulated - plain) / np.maximum(1, np.abs(plain))).max())
    return found


def fitted_scatter(path: pathlib.Path) -> None:
    """Writes `dpvit_scatter_28` with weights from made-up images and a ridge regression's head.

    In this process, under JAX.
    """
    from keras_dpvit.models.classifier import DPViTClassifier

    data = datasets.load("fashion_mnist")
    model = DPViTClassifier.from_preset("dpvit_scatter_28", 10, weights="synthetic")
    features = model.features_model()
    parts = np.split(data.x_train[:_FITTED_ON].astype("float32"), 10)
    x = np.concatenate([np.asarray(features(part)) for part in parts])
    y = np.eye(10)[data.y_train[:_FITTED_ON]] - 0.1
    kernel = x.T @ np.linalg.solve(x @ x.T + 0.3 * np.eye(len(x)), y)
    model.get_layer("logits").kernel.assign(10 * kernel)
    model.save(path)


def row(settings: tuple[str, int | None, str, int, int, bool], model: Any, images: int) -> Any:
    """One row of the table, by `private_inference`."""
    name, member, protocol, most, batch_size, processes = settings
    data = datasets.load("fashion_mnist")
    count = min(images, most)
    labels = data.y_test[:count]
    found = mpc.private_inference(
        model,
        data.x_test[:count],
        protocol,
        member=member,
        batch_size=batch_size,
        processes=processes,
    )
    return {
        "model": name,
        "protocol": protocol,
        "parties": mpc_runtime.PROTOCOLS[protocol].num_parties,
        "protects": mpc_runtime.PROTOCOLS[protocol].protects,
        "as": "processes" if processes else "simulation",
        "images": count,
        "batch_size": min(batch_size, count),
        "output": found.output,
        "agreement": found.agreement,
        "largest_error": found.largest_error,
        "mean_error": float(np.abs(found.outputs - found.plain_outputs).mean()),
        "accuracy": float((found.labels == labels).mean()),
        "plain_accuracy": float((found.plain_outputs.argmax(axis=1) == labels).mean()),
        "seconds_per_image": found.seconds_per_image,
        "megabytes_per_image_and_party": [sent / 1e6 for sent in found.bytes_per_image],
    }


def judge(first: dict[str, Any]) -> dict[str, bool]:
    """The bars of the first row, and whether they hold."""
    most = max(first["megabytes_per_image_and_party"])
    return {
        f"top-1 agreement at least {BARS['agreement']:.1%}": first["agreement"]
        >= BARS["agreement"],
        f"largest error of a logit at most {BARS['largest_error']}": first["largest_error"]
        <= BARS["largest_error"],
        f"at most {BARS['seconds']} seconds an image": first["seconds_per_image"]
        <= BARS["seconds"],
        f"at most {BARS['megabytes']:.0f} MB an image and party": most <= BARS["megabytes"],
    }


def in_jax(job: str, *arguments: str) -> str:
    """The text that a job of `benchmarks.mpc_side` prints, in a process of its own under JAX."""
    command = [sys.executable, "-m", "benchmarks.mpc_side", job, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    if result.returncode:
        raise RuntimeError(result.stderr)
    return result.stdout


def main() -> None:
    """Measures, prints, writes."""
    _validate.positive_int(images=FLAGS.images)
    if FLAGS.pair is None or not pathlib.Path(FLAGS.pair).is_file():
        raise InputError(f"pair must be a .keras file of a fused pair, got {FLAGS.pair!r}.")
    output = checked_output(FLAGS.output)
    facts = machine()
    errors = json.loads(in_jax("errors", "aby3").splitlines()[-1])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        scatter = pathlib.Path(folder, "scatter.keras")
        in_jax("scatter", str(scatter))
        for settings in ROWS:
            model = scatter if settings[0] == "dpvit_scatter_28" else pathlib.Path(FLAGS.pair)
            rows.append(row(settings, model, FLAGS.images))
            if not FLAGS.json:
                print(line(rows[-1]), flush=True)
    report = {
        "benchmark": "mpc",
        "command": f"python -m benchmarks.mpc --pair={FLAGS.pair} --images={FLAGS.images}",
        "machine": facts,
        "versions": {name: importlib.metadata.version(name) for name in ("spu", "jax", "keras")},
        "fraction_bits": mpc_runtime.FRACTION_BITS,
        "largest_function_errors": errors,
        "rows": rows,
        "bars": judge(rows[0]),
    }
    if output is not None:
        _files.write_json(output, report)
    if FLAGS.json:
        print(json.dumps(report, indent=1))
        return
    print(", ".join(f"{name} errs by {error:.1g}" for name, error in errors.items()))
    for name, holds in report["bars"].items():
        print(f"{name:45}  {'holds' if holds else 'does not hold'}")


def line(found: dict[str, Any]) -> str:
    """A row as one line."""
    most = max(found["megabytes_per_image_and_party"])
    return (
        f"{found['model']:17} {found['protocol']:8} {found['as']:11} {found['images']:5} images  "
        f"agreement {found['agreement']:.2%}  error {found['largest_error']:.1g}  "
        f"{found['seconds_per_image']:.2f} s  {most:.1f} MB"
    )


if __name__ == "__main__":
    _cli.run(main, FLAGS, __doc__)
