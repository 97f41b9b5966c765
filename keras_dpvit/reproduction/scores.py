"""Scores of a classifier on images that it was not trained on, epoch by epoch."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_dpvit._types import Array

METRICS = ("loss", "accuracy", "top_5", "precision", "recall", "confidence")

_SMALLEST = 1e-12  # a probability, for the logarithm


def scores(probabilities: Array, labels: Array) -> dict[str, float]:
    """Cross-entropy, accuracy, precision and recall, averaged over classes, and confidence.

    Args:
        probabilities: float `(images, classes)`.
        labels: int `(images,)`.

    Returns:
        A value for each of `METRICS`; a class that is never predicted has precision 0, and
        "confidence" is the mean of the largest probability.
    """
    from sklearn.metrics import precision_recall_fscore_support

    classes = np.arange(probabilities.shape[1])
    of_true = probabilities[np.arange(len(labels)), labels]
    found = np.argmax(probabilities, axis=1)
    precision, recall, _, _ = precision_recall_fscore_support(
        labels, found, labels=classes, average="macro", zero_division=0
    )
    better = (probabilities > of_true[:, None]).sum(axis=1)
    return {
        "loss": float(-np.log(np.maximum(of_true, _SMALLEST)).mean()),
        "accuracy": float((found == labels).mean()),
        "top_5": float((better < 5).mean()),
        "precision": float(precision),
        "recall": float(recall),
        "confidence": float(probabilities.max(axis=1).mean()),
    }


def softmax(logits: Array) -> Array:
    """Probabilities of logits `(..., classes)`, in float32."""
    shifted = np.exp((logits - logits.max(axis=-1, keepdims=True)).astype("float32"))
    probabilities: Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


class OutputsByEpoch(keras.callbacks.Callback):
    """Keeps what a network under training says of the same images after every epoch.

    Args:
        logits: a function that computes them, `(images, classes)`.

    Attributes:
        steps: the optimizer's steps up to each time.
        probabilities: float32 `(images, classes)` of each time.
    """

    def __init__(self, logits: Callable[[], Array]) -> None:
        super().__init__()
        self._logits = logits
        self.steps: list[int] = []
        self.probabilities: list[Array] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.keep(int(self.model.optimizer.iterations))

    def keep(self, steps: int) -> None:
        """Keeps what the network says now.

        Args:
            steps: int, those of the training up to now.
        """
        self.steps.append(steps)
        self.probabilities.append(softmax(np.asarray(self._logits())))
