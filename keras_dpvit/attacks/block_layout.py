"""Images cut into the units that a scheme works in, and columns matched to equal columns."""

import collections
from collections.abc import Hashable, Sequence

import numpy as np

from keras_dpvit.encryption import blocks


def unit_positions(
    image_shape: blocks.Shape, block_size: int, channels: str, unit: str
) -> np.ndarray:
    """Positions in the flattened image of what the ViT cipher moves.

    Args:
        image_shape: (height, width, channels).
        block_size: int.
        channels: "joint" moves pixels whole, "independent" every value.
        unit: "quadrant" or "patch".

    Returns:
        int64 array of shape `(blocks, units in a block, moved things in a unit, values in one)`.
    """
    height, width, depth = image_shape
    if unit == "quadrant":
        pixels = blocks.quadrant_pixels(height, width, block_size)
    else:
        pixels = blocks.block_pixels(height, width, block_size)[:, None]
    values = pixels[..., None] * depth + np.arange(depth)
    if channels == "independent":
        values = values.reshape(*pixels.shape[:2], -1, 1)
    return values


def take(images: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Values of a batch at positions of the flattened image: `(n, *positions.shape)`."""
    return images.reshape(len(images), -1)[:, positions]


def put(values: np.ndarray, positions: np.ndarray, image_shape: blocks.Shape) -> np.ndarray:
    """The inverse of `take`, for positions that cover the image."""
    flat = np.empty((len(values), int(np.prod(image_shape))), values.dtype)
    flat[:, positions] = values
    return flat.reshape(len(values), *image_shape)


def block_nibbles(images: np.ndarray, block_size: int) -> np.ndarray:
    """Half bytes of every block: the low ones of all values, then the high ones.

    Returns:
        uint8 `(n, blocks, 2 * values of a block)`, values in the order (row, column, channel).
    """
    _, height, width, depth = images.shape
    pixels = blocks.block_pixels(height, width, block_size)
    values = take(images, blocks.with_channels(pixels, depth))
    return np.concatenate([values & 15, values >> 4], axis=-1)


def from_block_nibbles(
    nibbles: np.ndarray, block_size: int, image_shape: blocks.Shape
) -> np.ndarray:
    """The inverse of `block_nibbles`."""
    low, high = np.split(nibbles, 2, axis=-1)
    pixels = blocks.block_pixels(image_shape[0], image_shape[1], block_size)
    return put(low | (high << 4), blocks.with_channels(pixels, image_shape[2]), image_shape)


def digits(numbers: np.ndarray, base: int, bound: int) -> np.ndarray:
    """Digits of numbers below `bound`, least significant first: uint8 `(digits, *shape)`."""
    rows: list[np.ndarray] = []
    reach = 1
    while reach < bound or not rows:
        rows.append(numbers // reach % base)
        reach *= base
    return np.array(rows, np.uint8)


def match_equal(sources: Sequence[Hashable], targets: Sequence[Hashable]) -> np.ndarray:
    """Finds for every target a source that equals it, each source used once.

    Equal sources are interchangeable to whoever sees only these, so any of them is taken; a target
    without an equal takes what is left over.

    Returns:
        int64 permutation of shape `(len(targets),)`.
    """
    free: dict[Hashable, collections.deque[int]] = collections.defaultdict(collections.deque)
    for i, source in enumerate(sources):
        free[source].append(i)
    found = np.full(len(targets), -1, np.int64)
    for i, target in enumerate(targets):
        if free[target]:
            found[i] = free[target].popleft()
    left = [i for queue in free.values() for i in queue]
    found[found < 0] = left
    return found
