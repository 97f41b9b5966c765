"""Figures about predictions on held-out images."""

import math
from typing import Any

import numpy as np


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts of how often each class was taken for each.

    Args:
        truth: int `(images,)`, the right classes.
        predicted: int `(images,)`, the predicted ones.
        num_classes: int.

    Returns:
        int64 `(classes, classes)`; rows are right classes, columns predicted ones.
    """
    pairs = truth.astype("int64") * num_classes + predicted.astype("int64")
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_scores(confusion: np.ndarray) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each class.

    Args:
        confusion: int `(classes, classes)`, see `confusion_matrix`.

    Returns:
        For each class "images", "precision", "recall" and "f1"; None where the ratio is 0 / 0:
        recall of a class without images, precision of one that was never predicted.
    """
    scores = []
    for right, images, predicted in zip(
        np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0), strict=True
    ):
        scores.append(
            {
                "images": int(images),
                "precision": float(right / predicted) if predicted else None,
                "recall": float(right / images) if images else None,
                "f1": float(2 * right / (images + predicted)) if images + predicted else None,
            }
        )
    return scores


def calibration(probabilities: np.ndarray, truth: np.ndarray, num_bins: int = 10) -> dict[str, Any]:
    """The gap between the highest probability and how often it is right.

    The expected calibration error weighs the distance in each bin of equal width by the share of
    images in it (Guo et al. 2017, On Calibration of Modern Neural Networks, eq 3).

    Args:
        probabilities: float `(images, classes)`.
        truth: int `(images,)`.
        num_bins: int.

    Returns:
        "expected_error" in 0..1, and "bins", each with "low", "high", "images", and the means
        "confidence" and "accuracy" (None in an empty bin).
    """
    confidence = probabilities.max(axis=1).astype("float64")
    right = probabilities.argmax(axis=1) == truth
    numbers = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    bins, error = [], 0.0
    for i in range(num_bins):
        inside = numbers == i
        count = int(inside.sum())
        means = (float(confidence[inside].mean()), float(right[inside].mean())) if count else None
        if means is not None:
            error += count / len(truth) * abs(means[0] - means[1])
        bins.append(
            {
                "low": i / num_bins,
                "high": (i + 1) / num_bins,
                "images": count,
                "confidence": means[0] if means else None,
                "accuracy": means[1] if means else None,
            }
        )
    return {"expected_error": error, "bins": bins}


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share, from `right` of `total` (Wilson 1927)."""
    z = 1.959963984540054
    share, z2 = right / total, z * z / total
    middle = (share + z2 / 2) / (1 + z2)
    half = z * math.sqrt(share * (1 - share) / total + z2 / (4 * total)) / (1 + z2)
    return max(0.0, middle - half), min(1.0, middle + half)
