"""TFLite for edge devices."""

import os
import pathlib
import tempfile
from typing import Any

import tensorflow as tf

from keras_dpvit.errors import InputError
from keras_dpvit.export.serving import ServedModel


def tflite(model: Any, path: str | os.PathLike[str]) -> None:
    """Writes a float32 TFLite file for one image at a time.

    Input `images`, float32 `(1, height, width, channels)` in 0..255; outputs "probabilities",
    "class_id" and, for a fused model, "weights" and "member_probabilities", by signature
    `serving_default`. A file of the same name is replaced whole.

    Args:
        model: a `FusedClassifier` or a classifier that returns logits, without noise at inference.
        path: the file.

    Raises:
        InputError: if the model draws noise at inference, or the place cannot be written.
    """
    served = ServedModel(model)
    content = convert(served)
    path = pathlib.Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        partial.unlink(missing_ok=True)


def convert(served: ServedModel) -> bytes:
    """The flatbuffer of a served model.

    Raises:
        InputError: if the model draws noise at inference.
    """
    if served.draws_noise:
        raise InputError("model must not draw noise at inference: TFLite has no op for it.")
    module = tf.Module()
    module.model_variables = served.model_variables
    module.serving_default = served.numeric_function(batch_size=1)
    with tempfile.TemporaryDirectory() as directory:
        tf.saved_model.save(
            module, directory, signatures={"serving_default": module.serving_default}
        )
        converter = tf.lite.TFLiteConverter.from_saved_model(
            directory, signature_keys=["serving_default"]
        )
        content: bytes = converter.convert()
    return content
