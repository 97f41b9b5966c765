"""Whole-image forms of the ciphers: one gather and one exclusive-or for a batch of images.

Every scheme builds, once for each image shape, an index that says where each output value comes
from, so that encrypting is a single NumPy call whatever the number of blocks.
"""

import math
from typing import Protocol

import numpy as np


class ImageMap(Protocol):
    """A map of uint8 batches `(n, height, width, channels)`, and the way back."""

    def forward(self, batch: np.ndarray) -> np.ndarray:
        """Encrypts."""

    def backward(self, batch: np.ndarray) -> np.ndarray:
        """Decrypts."""


class ByteMap:
    """Moves single values and inverts some: `out[:, i] = in[:, index[i]] ^ mask[i]`.

    Args:
        index: int64 array of shape `(height * width * channels,)`, or None to move nothing.
        mask: uint8 array of that shape, or None to invert nothing.
    """

    def __init__(self, index: np.ndarray | None, mask: np.ndarray | None) -> None:
        self._index = index
        self._inverse = None if index is None else np.argsort(index)
        self._mask = mask

    def forward(self, batch: np.ndarray) -> np.ndarray:
        values = _flat(batch)
        if self._index is not None:
            values = np.take(values, self._index, axis=1)
        if self._mask is not None:
            values = values ^ self._mask
        return values.reshape(batch.shape)

    def backward(self, batch: np.ndarray) -> np.ndarray:
        values = _flat(batch)
        if self._mask is not None:
            values = values ^ self._mask
        if self._inverse is not None:
            values = np.take(values, self._inverse, axis=1)
        return values.reshape(batch.shape)


class NibbleMap:
    """Moves and inverts half bytes: of m values, nibbles 0..m-1 are the low, m..2m-1 the high.

    `nibble_out[:, i] = nibble_in[:, index[i]] ^ (15 where mask[i])`.

    Args:
        index: int64 permutation of shape `(2 * height * width * channels,)`.
        mask: bool array of that shape.
    """

    def __init__(self, index: np.ndarray, mask: np.ndarray) -> None:
        self._index = index
        self._inverse = np.argsort(index)
        low, high = np.split(mask.astype(np.uint8) * 15, 2)
        self._mask = low | (high << 4)

    def forward(self, batch: np.ndarray) -> np.ndarray:
        values = _flat(batch)
        return (self._take(values, self._index) ^ self._mask).reshape(batch.shape)

    def backward(self, batch: np.ndarray) -> np.ndarray:
        values = _flat(batch) ^ self._mask
        return self._take(values, self._inverse).reshape(batch.shape)

    @staticmethod
    def _take(values: np.ndarray, index: np.ndarray) -> np.ndarray:
        nibbles = np.concatenate([values & 15, values >> 4], axis=1)
        low, high = np.split(index, 2)
        return np.take(nibbles, low, axis=1) | (np.take(nibbles, high, axis=1) << 4)


def _flat(batch: np.ndarray) -> np.ndarray:
    """`(n, height * width * channels)`; numpy's -1 would not do for an empty batch."""
    return batch.reshape(len(batch), math.prod(batch.shape[1:]))
