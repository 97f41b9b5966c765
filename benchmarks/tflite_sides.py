"""What `benchmarks.tflite` measures: files of one fused pair, and how they run."""

import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

NUM_IMAGES = 1000
PER_TURN = 50
_WARM_UP = 20
_BY_SESSION = "by session"
DELTA = 1e-5
BARS = {"float32": 0.999, "float16": 0.995, "dynamic": 0.98, "int8": 0.97}


def train_pair(data: Any, epsilon: float, epochs: float) -> Any:
    """Two members of preset dpvit_small_28 on the same records, fused."""
    import keras

    import keras_dpvit as kd

    plan = kd.PrivacyPlan.for_target(
        epsilon=epsilon,
        delta=DELTA,
        num_examples=len(data.x_train),
        batch_size=1024,
        epochs=epochs,
        compositions=2,
    )
    members = []
    for _ in range(2):
        model = kd.DPViTClassifier.from_preset("dpvit_small_28", num_classes=10)
        model.compile(
            kd.DPKerasAdamOptimizer(plan, learning_rate=5e-3),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        model.fit(data.x_train, data.y_train, epochs=int(np.ceil(epochs)), verbose=0)
        members.append(model)
    return kd.FusedClassifier(members)


def calibration_sets() -> dict[str, np.ndarray]:
    """Public and synthetic images 28x28x1 to calibrate int8 with."""
    import PIL.Image
    from sklearn.datasets import load_sample_images

    from keras_dpvit import datasets, export

    def small(image: Any) -> np.ndarray:
        return np.asarray(image.resize((28, 28), PIL.Image.Resampling.BILINEAR))[..., None]

    digits = [
        small(PIL.Image.fromarray(image[..., 0])) for image in datasets.load("digits").x_train[:300]
    ]
    photographs = [PIL.Image.fromarray(image).convert("L") for image in load_sample_images().images]
    rng = np.random.default_rng(0)
    crops = []
    for number in range(300):
        photograph = photographs[number % len(photographs)]
        side = int(rng.integers(28, min(photograph.size)))
        left, top = (int(rng.integers(0, length - side + 1)) for length in photograph.size)
        crops.append(small(photograph.crop((left, top, left + side, top + side))))
    return {
        "synthetic": export.synthetic_images((28, 28, 1), 300),
        "digits": np.stack(digits),
        "photographs": np.stack(crops),
    }


def write_files(model: Any, data: Any, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The SavedModel and the TFLite files by side; int8 once for each calibration set."""
    from keras_dpvit import export

    export.saved_model(model, folder / "1", class_names=data.class_names)
    files = {}
    for side in ("float32", "float16", "dynamic"):
        files[side] = folder / f"{side}.tflite"
        quantize = None if side == "float32" else side
        export.tflite(model, files[side], quantize=quantize, class_names=data.class_names)
    for name, images in calibration_sets().items():
        side = "int8" if name == "synthetic" else f"int8, {name}"
        files[side] = folder / f"int8_{name}.tflite"
        export.tflite(
            model,
            files[side],
            quantize="int8",
            calibration=images,
            class_names=data.class_names,
        )
    return files


def interleaved(
    sides: dict[str, Callable[[np.ndarray], Any]], images: np.ndarray, rounds: int
) -> dict[str, dict[str, float]]:
    """Milliseconds a call of each side, in turns of `PER_TURN` calls, there and back again."""
    for call in sides.values():
        for image in images[:_WARM_UP]:
            call(image[None])
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        start = number * PER_TURN % (len(images) - PER_TURN + 1)
        for name in order:
            for image in images[start : start + PER_TURN]:
                begun = time.perf_counter()
                sides[name](image[None])
                taken[name].append(1e3 * (time.perf_counter() - begun))
    return {
        name: {
            "median_ms": float(np.median(values)),
            "p90_ms": float(np.percentile(values, 90)),
        }
        for name, values in taken.items()
    }


def measure(
    model: Any, data: Any, folder: pathlib.Path, rounds: int, threads: int
) -> dict[str, Any]:
    """Sizes, agreement, accuracy and times of every side.

    Args:
        model: a fused model of 28x28x1 images.
        data: `ImageData` with at least `NUM_IMAGES` test images.
        folder: an empty directory to write the files into.
        rounds: int, turns of `PER_TURN` calls that each side takes.
        threads: int, of LiteRT.
    """
    from keras_dpvit.edge import TFLiteRunner
    from keras_dpvit.export.runners import SavedModelRunner

    images, labels = data.x_test[:NUM_IMAGES], data.y_test[:NUM_IMAGES]
    expected = model.predict(images.astype("float32"), verbose=0)["probabilities"]
    best = expected.argmax(axis=1)
    files = write_files(model, data, folder)
    saved = SavedModelRunner(folder / "1")
    runners: dict[str, Any] = {name: TFLiteRunner(path, threads) for name, path in files.items()}
    sides: dict[str, Any] = {"SavedModel": saved, **runners}
    calls = {name: side.predict for name, side in sides.items()}
    calls[_BY_SESSION] = by_session(folder / "1")
    times = interleaved(calls, images, rounds)
    report: dict[str, Any] = {}
    for name, side in sides.items():
        outputs = side.predict(images)
        report[name] = {
            "bytes": files[name].stat().st_size if name in files else _size(folder / "1"),
            "top_1_agreement": float(np.mean(outputs["class_id"] == best)),
            "largest_difference": float(np.abs(outputs["probabilities"] - expected).max()),
            "accuracy": float(np.mean(outputs["class_id"] == labels)),
            **times[name],
        }
        if name in runners:
            report[name]["ops"] = side.provenance["ops"]
    report["SavedModel"][_BY_SESSION] = times[_BY_SESSION]
    return {"keras_accuracy": float(np.mean(best == labels)), "sides": report}


def by_session(directory: pathlib.Path) -> Callable[[np.ndarray], Any]:
    """Calls of `serving_default` in a session, the quicker way to run a SavedModel from Python."""
    import tensorflow as tf

    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(directory))
    signature = loaded.signature_def["serving_default"]
    outputs = [info.name for info in signature.outputs.values()]
    run = session.make_callable(outputs, [signature.inputs["images"].name])
    return lambda images: run(images.astype("float32"))


def _size(directory: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def judge(sides: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What must hold, and whether it does; the SavedModel is timed in the quicker way."""
    saved = min(sides["SavedModel"]["median_ms"], sides["SavedModel"][_BY_SESSION]["median_ms"])
    bars = []
    for name, side in sides.items():
        if name == "SavedModel":
            continue
        ratio = side["median_ms"] / saved
        least = BARS[name.split(",")[0]]
        bars += [
            {
                "what": f"{name}: top-1 agreement with Keras",
                "bar": f">= {least}",
                "value": side["top_1_agreement"],
                "holds": side["top_1_agreement"] >= least,
            },
            {
                "what": f"{name}: batch-1 median over SavedModel's",
                "bar": "<= 1",
                "value": ratio,
                "holds": ratio <= 1,
            },
        ]
    return bars


def table(report: dict[str, Any]) -> list[str]:
    """The sides as a table in Markdown."""
    lines = [
        "| file | KiB | top-1 agreement | accuracy | batch 1, ms (median) | ops in integers |",
        "|---|---|---|---|---|---|",
    ]
    for name, side in report["sides"].items():
        time_taken = f"{side['median_ms']:.2f}"
        if _BY_SESSION in side:
            time_taken += f"; {side[_BY_SESSION]['median_ms']:.2f} {_BY_SESSION}"
        ops = side.get("ops")
        share = "" if ops is None else f"{ops['integer']} of {ops['integer'] + ops['float']}"
        lines.append(
            f"| {name} | {side['bytes'] / 1024:.0f} | {100 * side['top_1_agreement']:.1f} % "
            f"| {side['accuracy']:.3f} | {time_taken} | {share} |"
        )
    return lines
