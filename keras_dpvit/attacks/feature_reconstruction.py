"""Feature reconstruction (FR): edges out of ciphertexts whose values were only inverted.

It needs one ciphertext, no key and no training.
"""

import itertools

import numpy as np

from keras_dpvit.encryption import color

_COLORS = len(color.ORDERS[0])


def reconstruct(encrypted: np.ndarray) -> np.ndarray:
    """Inverts every value whose leading bit is set: `min(v, 255 - v)`.

    That undoes negative-positive inversion up to the sign of each region, which leaves edges.

    Args:
        encrypted: uint8 `(n, height, width, channels)`.

    Returns:
        uint8 of the same shape, values below 128.

    Source: Chang and Case, "Attacks on Image Encryption Schemes for Privacy-Preserving Deep Neural
    Networks", arXiv 2004.13263.
    """
    return np.minimum(encrypted, 255 - encrypted)


def reconstruct_advanced(encrypted: np.ndarray) -> np.ndarray:
    """Gives each pixel the order of channels and the inversions that fit the pixel before it best.

    The pixel before is the left one in the first row and the one above in all others; the first
    pixel of an image is taken as `reconstruct` leaves it. Of all 48 candidates (2 for gray images)
    the nearest in the sum of absolute differences is taken, so errors run on down the columns.

    Args:
        encrypted: uint8 `(n, height, width, channels)`.

    Returns:
        uint8 of the same shape.

    Source: as `reconstruct`.
    """
    _, height, width, depth = encrypted.shape
    orders = color.ORDERS if depth == _COLORS else np.arange(depth)[None]
    result = np.empty_like(encrypted)
    result[:, 0, 0] = reconstruct(encrypted[:, 0, 0])
    for x in range(1, width):
        result[:, 0, x] = _nearest(encrypted[:, 0, x], result[:, 0, x - 1], orders)
    for y in range(1, height):
        result[:, y] = _nearest(encrypted[:, y], result[:, y - 1], orders)
    return result


def _nearest(pixels: np.ndarray, before: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """The candidate for each pixel, of `(..., channels)`, nearest to the pixel before."""
    depth = pixels.shape[-1]
    signs = np.array(list(itertools.product((0, 255), repeat=depth)), np.uint8)
    moved = pixels[..., orders]
    candidates = (moved[..., None, :] ^ signs).reshape(*pixels.shape[:-1], -1, depth)
    distance = np.abs(candidates.astype(np.int16) - before[..., None, :]).sum(-1)
    chosen = np.argmin(distance, axis=-1)[..., None, None]
    return np.take_along_axis(candidates, chosen, axis=-2)[..., 0, :]
