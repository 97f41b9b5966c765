"""Loading a saved model, every class of ours at hand."""

import os
from typing import Any

import keras

# Keras finds a class in a file only once its module is imported.
from keras_dpvit.models import classifier, fused  # noqa: F401
from keras_dpvit.training import optimizers, private_wrapper  # noqa: F401


def load_model(path: str | os.PathLike[str]) -> Any:
    """As `keras.saving.load_model`, for models of this package in a fresh process.

    Args:
        path: a `.keras` file.

    Returns:
        The model, with its privacy ledger, compiled as it was saved.

    Example:
        >>> kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=3).save("model.keras")
        >>> kd.load_model("model.keras").privacy_ledger.epsilon(1e-5)  # never trained
        0.0
    """
    return keras.saving.load_model(path)
