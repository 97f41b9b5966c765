"""Structural similarity of images, in the two windows of the literature."""

import numpy as np

from keras_dpvit._validate import one_of
from keras_dpvit.errors import InputError

WINDOWS = {"uniform7": 7, "gaussian11": 11}

_RANGE = 255.0
_C1, _C2 = (0.01 * _RANGE) ** 2, (0.03 * _RANGE) ** 2
_SIGMA = 1.5


def ssim(first: np.ndarray, second: np.ndarray, window: str = "uniform7") -> np.ndarray:
    """Mean structural similarity of pairs of images; channels are averaged.

    Args:
        first: uint8 `(n, height, width, channels)`.
        second: uint8 of the same shape.
        window: "uniform7", 7x7 with equal weights and sample covariances, is what the evaluations
            of image encryption use; "gaussian11", 11x11 with standard deviation 1.5, is that of
            `tf.image.ssim`.

    Returns:
        float64 array of shape `(n,)`, at most 1.

    Raises:
        InputError: if shapes differ or images are smaller than the window.

    Source: Wang, Bovik, Sheikh, Simoncelli, IEEE Transactions on Image Processing 13(4), 2004.
    """
    one_of(WINDOWS, window=window)
    if first.shape != second.shape or first.ndim != 4:
        raise InputError(
            "first and second must be two batches (n, height, width, channels) of one shape, got "
            f"{first.shape} and {second.shape}."
        )
    side = WINDOWS[window]
    if min(first.shape[1:3]) < side:
        raise InputError(
            f"images must be at least {side}x{side} for the window {window!r}, got "
            f"{first.shape[1]}x{first.shape[2]}."
        )
    scores = [_one(a, b, window) for a, b in zip(first, second, strict=True)]
    return np.array(scores, np.float64)


def _one(first: np.ndarray, second: np.ndarray, window: str) -> float:
    x, y = first.astype(np.float64), second.astype(np.float64)
    mean_x, mean_y, xx, yy, xy = (_average(v, window) for v in (x, y, x * x, y * y, x * y))
    pixels = WINDOWS["uniform7"] ** 2
    unbiased = pixels / (pixels - 1) if window == "uniform7" else 1.0
    variances = unbiased * (xx - mean_x**2 + yy - mean_y**2)
    covariance = unbiased * (xy - mean_x * mean_y)
    numerator = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    return float(np.mean(numerator / ((mean_x**2 + mean_y**2 + _C1) * (variances + _C2))))


def _average(values: np.ndarray, window: str) -> np.ndarray:
    """Weighted means over all windows that lie inside the image."""
    from scipy import ndimage

    side = WINDOWS[window]
    weights = np.full(side, 1 / side)
    if window == "gaussian11":
        weights = np.exp(-((np.arange(side) - side // 2) ** 2) / (2 * _SIGMA**2))
        weights /= weights.sum()
    for axis in (0, 1):
        values = ndimage.correlate1d(values, weights, axis=axis)
    edge = side // 2
    return values[edge:-edge, edge:-edge]
