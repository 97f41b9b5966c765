"""The files that `benchmarks.engines` gives to foreign engines, and what LiteRT says to them."""

import pathlib
import shutil
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
SHIPPED = ROOT / "savedmodels" / "fashion_mnist" / "1"
QUANTIZATIONS = {"float32": None, "float16": "float16", "dynamic": "dynamic", "int8": "int8"}

_TRAINED_ON = 4000


def gray_files(directory: pathlib.Path) -> dict[str, pathlib.Path]:
    """The model that ships as four TFLite files, each in a folder with its card; by name."""
    import keras_dpvit as kd

    model = kd.load_model(SHIPPED / "model.keras")
    found = _files(model, directory, list(_fashion().class_names), "all")
    for path in found.values():
        shutil.copy(SHIPPED / "privacy_card.json", path.parent)
    return found


def colour_files(directory: pathlib.Path) -> dict[str, pathlib.Path]:
    """A small RGB model, briefly trained on public images, as four files with one output each.

    None of the models that ship takes colours, and MediaPipe's image classifier takes nothing else.
    """
    import keras

    import keras_dpvit as kd

    keras.utils.set_random_seed(0)
    data = _fashion()
    model = kd.DPViTClassifier.from_preset("dpvit_small_32", num_classes=10)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, jit_compile=False)
    x, y = coloured(data.x_train[:_TRAINED_ON]), data.y_train[:_TRAINED_ON]
    model.fit(x, y, batch_size=64, verbose=0, public_data=True)
    return _files(model, directory, list(data.class_names), "probabilities")


def coloured(images: np.ndarray) -> np.ndarray:
    """Gray images 28x28 in a random light on 32x32: uint8 `(n, 32, 32, 3)`."""
    lights = np.random.default_rng(0).uniform(0.4, 1.0, (len(images), 1, 1, 3))
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    return (padded * lights).astype("uint8")


def held_out(number: int) -> np.ndarray:
    """Test images of Fashion-MNIST, uint8 `(number, 28, 28, 1)`."""
    images: np.ndarray = _fashion().x_test[:number]
    return images


def by_litert(files: dict[str, pathlib.Path], images: np.ndarray) -> dict[str, np.ndarray]:
    """Each file's probabilities `(n, classes)` in LiteRT from Python."""
    from keras_dpvit.edge import TFLiteRunner

    return {
        name: TFLiteRunner(path).predict(images)["probabilities"] for name, path in files.items()
    }


def _fashion() -> Any:
    import keras_dpvit as kd

    return kd.datasets.load("fashion_mnist")


def _files(
    model: Any, directory: pathlib.Path, names: list[str], outputs: str
) -> dict[str, pathlib.Path]:
    import keras_dpvit as kd

    found = {}
    for name, quantize in QUANTIZATIONS.items():
        path = directory / name / "model.tflite"
        path.parent.mkdir(parents=True)
        calibration = kd.export.synthetic_images(model.input_shape[1:]) if name == "int8" else None
        kd.export.tflite(
            model,
            path,
            quantize=quantize,
            calibration=calibration,
            class_names=names,
            outputs=outputs,
        )
        found[name] = path
    return found
