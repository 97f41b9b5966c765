"""Running exports: a SavedModel by TensorFlow, a TFLite file by LiteRT."""

import os
import pathlib
from typing import Any

import numpy as np

from keras_dpvit.errors import InputError


class SavedModelRunner:
    """A SavedModel written by `saved_model`.

    Args:
        directory: the version directory, or a base directory whose newest version is taken.

    Raises:
        InputError: if there is no SavedModel, or it lacks the signature.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        import tensorflow as tf

        path = version_directory(directory)
        try:
            self._loaded = tf.saved_model.load(str(path))
            self._predict = self._loaded.signatures["serving_default"]
        except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
            raise InputError(f"{path} cannot be loaded as a SavedModel: {_first(error)}") from error
        _, inputs = self._predict.structured_input_signature
        if list(inputs) != ["images"]:
            raise InputError(
                f"{path} was not exported by keras_dpvit: its input is {list(inputs)}."
            )
        self.image_shape: Any = tuple(inputs["images"].shape[1:])

    def predict(self, images: np.ndarray, batch_size: int = 256) -> dict[str, np.ndarray]:
        """The signature's outputs for images `(n, height, width, channels)`, pixels 0..255."""
        parts = [
            self._predict(images=images[i : i + batch_size].astype("float32"))
            for i in range(0, len(images), batch_size)
        ]
        return {name: np.concatenate([part[name].numpy() for part in parts]) for name in parts[0]}


class TFLiteRunner:
    """A TFLite file written by `tflite`, one image at a time.

    Args:
        path: the file.
        num_threads: int.

    Raises:
        InputError: if the file is missing or no TFLite model.
    """

    def __init__(self, path: str | os.PathLike[str], num_threads: int = 2) -> None:
        interpreter = _interpreter_class()
        if not pathlib.Path(path).is_file():
            raise InputError(f"{path} is not a file.")
        try:
            self._interpreter = interpreter(model_path=str(path), num_threads=num_threads)
            self._predict = self._interpreter.get_signature_runner("serving_default")
        except (ValueError, RuntimeError) as error:
            raise InputError(f"{path} cannot be loaded as TFLite: {_first(error)}") from error
        shape = self._interpreter.get_input_details()[0]["shape"]
        self.image_shape: Any = tuple(int(side) for side in shape[1:])

    def predict(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The signature's outputs for images `(n, height, width, channels)`, pixels 0..255."""
        parts = [self._predict(images=image[None].astype("float32")) for image in images]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def version_directory(directory: str | os.PathLike[str]) -> pathlib.Path:
    """The directory itself if it holds a SavedModel, else its newest version.

    Raises:
        InputError: if there is neither.
    """
    path = pathlib.Path(directory)
    if (path / "saved_model.pb").is_file():
        return path
    versions = [
        p for p in path.glob("*") if p.name.isdecimal() and (p / "saved_model.pb").is_file()
    ]
    if not versions:
        raise InputError(f"{path} holds no SavedModel (saved_model.pb), nor a version of one.")
    return max(versions, key=lambda p: int(p.name))


def _interpreter_class() -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise InputError(
            "Running TFLite needs ai-edge-litert: pip install 'keras_dpvit[edge]'."
        ) from error
    return Interpreter


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
