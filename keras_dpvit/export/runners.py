"""Running exports: a SavedModel by TensorFlow, a TFLite file by LiteRT."""

import os
import pathlib
from typing import Any

import numpy as np

from keras_dpvit import _reasons
from keras_dpvit.edge.runner import TFLiteRunner
from keras_dpvit.errors import InputError
from keras_dpvit.export import signatures

__all__ = ["SavedModelRunner", "TFLiteRunner", "version_directory"]


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
            self._predict = self._loaded.signatures[signatures.DEFAULT]
        except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
            raise InputError(
                f"{path} cannot be loaded as a SavedModel: {_reasons.reason(error)}."
            ) from error
        _, inputs = self._predict.structured_input_signature
        if list(inputs) != ["images"]:
            raise InputError(
                f"{path} was not exported by keras_dpvit: its input is {list(inputs)}."
            )
        self.directory = path
        self.signatures: Any = self._loaded.signatures
        self.image_shape: Any = tuple(inputs["images"].shape[1:])

    def predict(self, images: np.ndarray, batch_size: int = 256) -> dict[str, np.ndarray]:
        """The signature's outputs for images `(n, height, width, channels)`, pixels 0..255."""
        parts = [
            self._predict(images=images[i : i + batch_size].astype("float32"))
            for i in range(0, len(images), batch_size)
        ]
        return {name: np.concatenate([part[name].numpy() for part in parts]) for name in parts[0]}

    def call(self, signature_name: str, values: Any) -> dict[str, np.ndarray]:
        """The outputs of any signature.

        Args:
            signature_name: one of `signatures.INPUTS`.
            values: array of the signature's input, whose dtype it is converted to.

        Raises:
            InputError: if the export has no such signature, or the model refuses the values.
        """
        import tensorflow as tf

        if signature_name not in self.signatures:
            raise InputError(f"{self.directory} has no signature {signature_name}.")
        name, dtype = signatures.INPUTS[signature_name]
        try:
            outputs = self.signatures[signature_name](**{name: tf.constant(values, dtype)})
        except (tf.errors.OpError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.directory} refuses {name}: {_reasons.reason(error)}."
            ) from error
        return {name: value.numpy() for name, value in outputs.items()}

    def predict_files(self, files: list[bytes]) -> dict[str, np.ndarray]:
        """The outputs for JPEG or PNG files, of any size.

        Raises:
            InputError: if the export takes no picture files, or a file is not a whole image.
        """
        if signatures.BYTES not in self.signatures:
            raise InputError(
                f"{self.directory} takes no picture files: it has no signature {signatures.BYTES}, "
                f"because its images have {self.image_shape[-1]} channels or it is an older export."
            )
        return self.call(signatures.BYTES, files)

    def class_names(self, number: int) -> list[str]:
        """The names of classes 0 to `number - 1`; the numbers where the export has no names."""
        if signatures.CLASS_NAMES not in self.signatures:
            return [str(i) for i in range(number)]
        names = self.call(signatures.CLASS_NAMES, np.arange(number))["class_name"]
        return [name.decode() for name in names]


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
