"""SavedModel for TensorFlow Serving."""

import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_dpvit.export.files import new_directory
from keras_dpvit.export.serving import ServedModel


def saved_model(
    model: Any, path: str | os.PathLike[str], *, class_names: Sequence[str] | None = None
) -> None:
    """Writes a SavedModel that TensorFlow loads and runs without Keras or this package.

    Its `serving_default` signature takes `images`, float32 `(batch, height, width, channels)` in
    0..255, and returns "probabilities", "class_id", "label" and, for a fused model, "weights" and
    "member_probabilities". Optimizer, ledger and training noise stay behind.

    Args:
        model: a `FusedClassifier` or a classifier that returns logits.
        path: a new directory; for TF Serving its name is a version number.
        class_names: names in the order of the classes; None numbers them.

    Raises:
        InputError: if `path` exists, or the names are not as many as the classes.
    """
    served = ServedModel(model, class_names)
    signature = served.predict_function(batch_size=None)
    with new_directory(path) as work:
        write_saved_model(served, signature, str(work))


def write_saved_model(served: ServedModel, signature: Any, directory: str) -> None:
    """Writes the module into a directory that exists; see `saved_model`."""
    module = tf.Module()
    module.model_variables = served.model_variables
    module.serving_default = signature
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(
        module, directory, signatures={"serving_default": signature}, options=options
    )
