"""Running a TFLite file by LiteRT."""

import os
import pathlib
from typing import Any

import numpy as np

from keras_dpvit import _reasons, _validate
from keras_dpvit.edge import sandbox
from keras_dpvit.edge.attachments import read_attached
from keras_dpvit.errors import InputError

_SIGNATURE = "serving_default"
_AT_ONCE = 32  # images, of a file that takes any number


class TFLiteRunner:
    """A TFLite file written by `export.tflite`.

    A file with the digest of an export is loaded right away. Any other is first run in a
    separate process (half a second), because LiteRT may crash on a damaged one.

    Args:
        path: the file.
        num_threads: int, threads of LiteRT.

    Attributes:
        image_shape: (height, width, channels).
        batch_size: images that the file takes at a time; None if any number.
        input_dtype: "float32", or "uint8" for int8 files.
        output_dtypes: of each output by its name.
        labels: class names in the order of the classes; None if the file has none.
        provenance: what the exporter wrote about the file, empty if nothing.

    Raises:
        InputError: if the file is missing or damaged, no TFLite model, or none of this package.
    """

    def __init__(self, path: str | os.PathLike[str], num_threads: int = 2) -> None:
        _validate.positive_int(num_threads=num_threads)
        make_interpreter = _interpreter_class()
        content = _read(path)
        try:
            attached = read_attached(content)
            problem = None if attached.is_intact else sandbox.failure(content)
            if problem is not None:
                raise InputError(problem)
            self._interpreter = make_interpreter(model_content=content, num_threads=num_threads)
            self._predict = self._interpreter.get_signature_runner(_SIGNATURE)
        except (InputError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{path} cannot be loaded as TFLite: {_reasons.reason(error)}."
            ) from error
        inputs, outputs = self._predict.get_input_details(), self._predict.get_output_details()
        if list(inputs) != ["images"] or "probabilities" not in outputs:
            raise InputError(
                f"{path} was not exported by keras_dpvit: it takes {', '.join(inputs)} and returns "
                f"{', '.join(outputs)}."
            )
        self._dtype = inputs["images"]["dtype"]
        self.input_dtype = np.dtype(self._dtype).name
        self.output_dtypes = {name: np.dtype(out["dtype"]).name for name, out in outputs.items()}
        self.image_shape: Any = tuple(int(side) for side in inputs["images"]["shape"][1:])
        number = int(inputs["images"]["shape_signature"][0])
        self.batch_size = None if number < 0 else number
        self.labels = attached.labels
        self.provenance = attached.provenance

    def predict(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The signature's outputs for images `(n, height, width, channels)`, pixels 0..255.

        For a file that takes uint8, pixels are rounded to whole values in 0..255.
        """
        if self._dtype == np.uint8 and images.dtype != np.uint8:
            images = np.clip(np.rint(images), 0, 255)
        images = images.astype(self._dtype, copy=False)
        step = self.batch_size or _AT_ONCE
        parts = [self._outputs(images[i : i + step]) for i in range(0, len(images), step)]
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if "class_id" not in found:  # a file of probabilities alone
            found["class_id"] = found["probabilities"].argmax(axis=-1).astype("int32")
        return found

    def _outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        number = len(images)
        if self.batch_size is not None and number < self.batch_size:
            images = np.concatenate([images, images[-1:].repeat(self.batch_size - number, axis=0)])
        return {name: rows[:number] for name, rows in self._predict(images=images).items()}

    def class_names(self, number: int) -> list[str]:
        """The names of classes 0 to `number - 1`."""
        return [self.label(class_id) for class_id in range(number)]

    def label(self, class_id: int) -> str:
        """The name of a class; its number where the file has no names."""
        known = self.labels is not None and class_id < len(self.labels)
        return self.labels[class_id] if self.labels is not None and known else str(class_id)


def _read(path: str | os.PathLike[str]) -> bytes:
    if not os.path.isfile(path):
        raise InputError(f"{path} is not a file.")
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def _interpreter_class() -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise InputError(
            "Running TFLite needs ai-edge-litert: pip install 'keras_dpvit[edge]'."
        ) from error
    return Interpreter
