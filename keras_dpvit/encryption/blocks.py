"""Places of the pixels of blocks in a flattened image."""

import math

import numpy as np

from keras_dpvit.errors import InputError

Shape = tuple[int, int, int]


def check_divisible(height: int, width: int, block_size: int) -> None:
    """Raises InputError unless both sides are multiples of the block."""
    if height % block_size or width % block_size:
        raise InputError(
            f"images must have sides that are multiples of the block size {block_size}, "
            f"got {height}x{width}."
        )


def block_count(height: int, width: int, block_size: int) -> int:
    """The number of blocks of an image."""
    return (height // block_size) * (width // block_size)


def check_block_count(height: int, width: int, block_size: int, blocks: int) -> None:
    """Raises InputError unless the image has as many blocks as the permutation entries."""
    check_divisible(height, width, block_size)
    count = block_count(height, width, block_size)
    if count != blocks:
        raise InputError(
            f"images of {height}x{width} have {count} blocks of {block_size}x{block_size}, "
            f"but block_permutation has {blocks} entries."
        )


def block_pixels(height: int, width: int, block_size: int) -> np.ndarray:
    """Positions in the flattened image of every block's pixels.

    Args:
        height: int, a multiple of `block_size`.
        width: int, a multiple of `block_size`.
        block_size: int.

    Returns:
        int64 array of shape `(blocks, block_size^2)`, blocks and their pixels in raster order.
    """
    check_divisible(height, width, block_size)
    grid = np.arange(height * width, dtype=np.int64)
    grid = grid.reshape(height // block_size, block_size, width // block_size, block_size)
    return grid.transpose(0, 2, 1, 3).reshape(-1, block_size * block_size)


def quadrant_pixels(height: int, width: int, block_size: int) -> np.ndarray:
    """Like `block_pixels`, each block cut into its four quadrants.

    Returns:
        int64 array of shape `(blocks, 4, (block_size / 2)^2)`, quadrants and pixels in raster
        order.
    """
    half = block_size // 2
    blocks = block_pixels(height, width, block_size).reshape(-1, 2, half, 2, half)
    return blocks.transpose(0, 1, 3, 2, 4).reshape(-1, 4, half * half)


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Positions of bytes from positions of pixels: the last axis grows by the channels.

    Args:
        pixels: int64 array of shape `(..., n)`.
        channels: int.

    Returns:
        int64 array of shape `(..., n * channels)`, channels fastest.
    """
    spread = pixels[..., None] * channels + np.arange(channels, dtype=np.int64)
    return spread.reshape(*pixels.shape[:-1], -1)


def log2_factorial(n: int) -> float:
    """The logarithm to base 2 of n!."""
    return math.lgamma(n + 1) / math.log(2)
