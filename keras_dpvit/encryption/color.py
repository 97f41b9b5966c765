"""Orders of the colour channels, and colour transforms between RGB and one gray plane."""

from typing import Any

import numpy as np

from keras_dpvit.encryption.permutations import read_only
from keras_dpvit.errors import InputError

# Gather maps: output channel c is input channel ORDERS[code][c].
ORDERS = read_only(np.array([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]))

# What the published EtC code does instead, because it exchanges channels in place.
LEGACY_ORDERS = read_only(
    np.array([[0, 1, 2], [1, 1, 2], [2, 1, 2], [0, 2, 2], [2, 2, 2], [1, 2, 1]])
)


def checked_codes(values: Any, name: str, shape: tuple[int, ...], bound: int) -> np.ndarray:
    """A read-only int64 copy of small numbers given by the user.

    Raises:
        InputError: unless they are whole numbers in 0..bound-1 of this shape.
    """
    array = np.asarray(values)
    whole = array.dtype.kind in "iub" and array.shape == shape
    if not whole or (array.size and (array.min() < 0 or array.max() >= bound)):
        raise InputError(f"{name} must be whole numbers in 0..{bound - 1} of shape {shape}.")
    return read_only(array.astype(np.int64))


def to_reversible(images: np.ndarray) -> np.ndarray:
    """RGB to a luminance and two colour differences, exactly invertible in 8 bits.

    The reversible colour transform of JPEG 2000 (part 1, annex G.2),
    `Y = floor((R + 2 G + B) / 4)`, `U = B - G`, `V = R - G`, with the differences taken modulo
    256 and stored offset by 128, and Y formed from the differences that are stored. Nothing is
    lost, no ninth bit is needed, and only where a difference leaves -128..127 do values wrap.

    Args:
        images: uint8 `(n, height, width, 3)`.

    Returns:
        uint8 of the same shape: Y, U, V.
    """
    red, green, blue = (images[..., c].astype(np.int16) for c in range(3))
    u, v = _wrapped(blue - green), _wrapped(red - green)
    y = green + ((u + v) >> 2)
    return np.stack([y, u + 128, v + 128], axis=-1).astype(np.uint8)


def from_reversible(planes: np.ndarray) -> np.ndarray:
    """The inverse of `to_reversible`."""
    y, u, v = (planes[..., c].astype(np.int16) for c in range(3))
    u, v = u - 128, v - 128
    green = y - ((u + v) >> 2)
    return np.stack([v + green, green, u + green], axis=-1).astype(np.uint8)


def to_ycbcr(images: np.ndarray) -> np.ndarray:
    """RGB to JPEG's YCbCr (JFIF, full range), rounded to uint8; the rounding is lossy."""
    red, green, blue = (images[..., c].astype(np.float64) for c in range(3))
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = np.stack([y, (blue - y) / 1.772 + 128, (red - y) / 1.402 + 128], axis=-1)
    return np.clip(np.rint(planes), 0, 255).astype(np.uint8)


def from_ycbcr(planes: np.ndarray) -> np.ndarray:
    """RGB from JPEG's YCbCr, rounded to uint8."""
    y, cb, cr = (planes[..., c].astype(np.float64) for c in range(3))
    blue, red = y + 1.772 * (cb - 128), y + 1.402 * (cr - 128)
    green = (y - 0.299 * red - 0.114 * blue) / 0.587
    return np.clip(np.rint(np.stack([red, green, blue], axis=-1)), 0, 255).astype(np.uint8)


def side_by_side(planes: np.ndarray) -> np.ndarray:
    """`(n, height, width, 3)` to `(n, height, 3 width, 1)`, the planes from left to right."""
    count, height, width, _ = planes.shape
    moved = planes.transpose(0, 1, 3, 2).reshape(count, height, 3 * width, 1)
    return np.ascontiguousarray(moved)


def stacked(gray: np.ndarray) -> np.ndarray:
    """The inverse of `side_by_side`."""
    count, height, width, _ = gray.shape
    return np.ascontiguousarray(gray.reshape(count, height, 3, width // 3).transpose(0, 1, 3, 2))


def _wrapped(difference: np.ndarray) -> np.ndarray:
    """Differences modulo 256, in -128..127."""
    return (difference + 128) % 256 - 128
