r"""Latency of a fused SavedModel over that of its two members' SavedModels, one after the other.

Members and fusion take turns in one process, call by call, so that a drift of the machine meets
both alike. Each is called in two ways: through the session loader, as TensorFlow Serving runs it,
and as `tf.saved_model.load` gives it.

Examples:
  python -m benchmarks.serving_latency
  python -m benchmarks.serving_latency --json --output=docs/results/serving_latency.json
"""

import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

from absl import flags

from benchmarks.fused_pair import fused_pair
from benchmarks.reports import checked_output, machine
from keras_dpvit import _quiet, _validate
from trainers import _cli

FLAGS = flags.FlagValues()
flags.DEFINE_bool("json", False, "Prints JSON.", flag_values=FLAGS)
flags.DEFINE_string(
    "output", None, "File for the JSON object, besides what is printed.", flag_values=FLAGS
)
flags.DEFINE_integer("rounds", 300, "Calls of each side, at each batch size.", flag_values=FLAGS)

BAR = 1.05
BATCH_SIZES = (1, 32)
_SIGNATURE = "serving_default"
_WARM_UP = 20

Call = Callable[[Any], object]


def session_call(directory: pathlib.Path) -> Call:
    """Runs `serving_default` in a session made from the SavedModel."""
    import tensorflow as tf

    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(directory))
    signature = graph.signature_def[_SIGNATURE]
    fetch = [info.name for info in signature.outputs.values()]
    return session.make_callable(fetch, [signature.inputs["images"].name])


def function_call(directory: pathlib.Path) -> Call:
    """Runs `serving_default` as `tf.saved_model.load` gives it."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(directory))
    signature = loaded.signatures[_SIGNATURE]

    def call(images: Any) -> object:
        outputs = signature(images=tf.constant(images))
        return loaded, [value.numpy() for value in outputs.values()]

    return call


def compare(fused: Call, members: list[Call], images: Any, rounds: int) -> dict[str, float]:
    """Median milliseconds of one call of each side, in turns, and their ratio."""
    times: dict[str, list[float]] = {"fused": [], "members": []}

    def both() -> None:
        for member in members:
            member(images)

    sides: dict[str, Callable[[], object]] = {"fused": lambda: fused(images), "members": both}
    for number in range(-_WARM_UP, rounds):
        for name in sorted(sides, reverse=number % 2 == 0):
            start = time.perf_counter()
            sides[name]()
            if number >= 0:
                times[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "fused_ms": round(medians["fused"], 4),
        "members_ms": round(medians["members"], 4),
        "ratio": round(medians["fused"] / medians["members"], 4),
    }


def measure(model: Any, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Way of calling to batch size to `compare`.

    Args:
        model: a `FusedClassifier`.
        rounds: int.
    """
    import numpy as np

    import keras_dpvit as kd

    rng = np.random.default_rng(0)
    found: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        directories = []
        for number, each in enumerate([model, *model.members]):
            directories.append(pathlib.Path(place, str(number)))
            kd.export.saved_model(each, directories[-1], warmup_requests=False)
        for name, make in (("session", session_call), ("function", function_call)):
            fused, *members = [make(directory) for directory in directories]
            found[name] = {}
            for batch_size in BATCH_SIZES:
                shape = (batch_size, *model.input_shape[1:])
                images = rng.integers(0, 256, shape).astype("float32")
                found[name][str(batch_size)] = compare(fused, members, images, rounds)
    return found


def main() -> None:
    """Measures, prints, writes."""
    _validate.positive_int(rounds=FLAGS.rounds)
    output = checked_output(FLAGS.output)
    facts = machine()
    _quiet.start_tensorflow()
    with _quiet.quiet_stderr():
        found = measure(fused_pair(), FLAGS.rounds)
    worst = max(row["ratio"] for rows in found.values() for row in rows.values())
    report = {
        "benchmark": "serving_latency",
        "machine": facts,
        "model": "FusedClassifier of two dpvit_small_28",
        "rounds": FLAGS.rounds,
        "latency": found,
        "bar": {"ratio_at_most": BAR, "worst_ratio": worst, "holds": worst <= BAR},
    }
    text = json.dumps(report, indent=2)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")
    if FLAGS.json:
        print(text)
        return
    print("way       batch  fused ms  members ms  ratio")
    for way, rows in found.items():
        for batch, row in rows.items():
            times = f"{row['fused_ms']:8.3f}  {row['members_ms']:10.3f}"
            print(f"{way:8}  {batch:>5}  {times}  {row['ratio']:.3f}")
    print(f"worst ratio {worst:.3f}, bar {BAR}: {'holds' if worst <= BAR else 'does not hold'}")


if __name__ == "__main__":
    _cli.run(main, FLAGS, __doc__)
