"""Loading a saved model, every class of ours at hand."""

import os
import pathlib
from typing import Any

import keras

# Keras finds a class in a file only once its module is imported.
from keras_dpvit.encryption import layer  # noqa: F401
from keras_dpvit.errors import InputError
from keras_dpvit.layers import fixed_normalization  # noqa: F401
from keras_dpvit.models import classifier, fused  # noqa: F401
from keras_dpvit.models.backbone_file import import_hub_for
from keras_dpvit.training import losses, optimizers, private_wrapper  # noqa: F401


def load_model(path: str | os.PathLike[str]) -> Any:
    """As `keras.saving.load_model`, for models of this package in a fresh process.

    KerasHub is imported where the file has parts of it.

    Args:
        path: a `.keras` file.

    Returns:
        The model, with its privacy ledger, compiled as it was saved.

    Raises:
        InputError: for the directory of a SavedModel, or if KerasHub is needed and not installed.

    Example:
        >>> kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=3).save("model.keras")
        >>> kd.load_model("model.keras").privacy_ledger.epsilon(1e-5)  # never trained
        0.0
    """
    place = pathlib.Path(path)
    if (place / "saved_model.pb").is_file():
        raise InputError(
            f"path must be a .keras file; {str(path)!r} is a SavedModel, for servers: call it by "
            "tf.saved_model.load, or load the model.keras that trainers.train wrote beside it."
        )
    import_hub_for(place)
    return keras.saving.load_model(path)
