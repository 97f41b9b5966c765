"""The cipher of Qi et al. 2022 for vision transformers: block scrambling and pixel shuffling."""

from typing import Any

import numpy as np

from keras_dpvit._validate import one_of, positive_int
from keras_dpvit.encryption import blocks
from keras_dpvit.encryption.cipher import BlockCipher, check_shape
from keras_dpvit.encryption.index_maps import ByteMap, ImageMap
from keras_dpvit.encryption.keys import SecretKey, as_key
from keras_dpvit.encryption.permutations import checked_permutation, read_only
from keras_dpvit.errors import InputError

_PURPOSE = "vit-blockwise"


class ViTBlockCipher(BlockCipher):
    """Permutes the blocks of an image (K1), then the pixels in every quadrant of a block (K2).

    `B'[i] = B[block_permutation[i]]` over blocks in raster order, and in each unit, flattened in
    raster order, `v'[k] = v[pixel_permutation[k]]`. One K2 for all units, one K1 and K2 for all
    images. With the block as a vision transformer's patch, the transformation can be undone by
    the patch embedding and the position table.

    Guarantee: none in the cryptographic sense; two ciphertexts, or one known plain image, give the
    key away.

    Make one by `from_key` or `from_permutations`.

    Source: Qi, MaungMaung, Kinoshita, Kiya, arXiv 2205.12041, section III-B. `unit="patch"` and
    `channels="independent"` are the later forms of the same group.
    """

    scheme = "vit_block"

    def __init__(
        self,
        block_size: int,
        block_permutation: np.ndarray,
        pixel_permutation: np.ndarray,
        *,
        channels: str,
        unit: str,
        **identity: Any,
    ) -> None:
        super().__init__(block_size, **identity)
        self._block_permutation = block_permutation
        self._pixel_permutation = pixel_permutation
        self._channels = channels
        self._unit = unit

    @classmethod
    def from_key(
        cls,
        key: SecretKey | bytes,
        image_shape: blocks.Shape = (224, 224, 3),
        block_size: int = 16,
        *,
        channels: str = "joint",
        unit: str = "quadrant",
    ) -> "ViTBlockCipher":
        """Derives both permutations from a key.

        Args:
            key: a `SecretKey` or its 32 bytes.
            image_shape: (height, width, channels), multiples of the block.
            block_size: int, even for quadrants; the patch size of the transformer.
            channels: "joint" moves pixels whole (the paper); "independent" moves every value.
            unit: what is shuffled within, "quadrant" (the paper) or "patch", the whole block.

        Raises:
            InputError: if sizes or options do not fit.
        """
        key = as_key(key)
        height, width, depth = shape = check_shape(image_shape)
        side = _unit_side(block_size, channels, unit)
        blocks.check_divisible(height, width, block_size)
        values = side * side * (depth if channels == "independent" else 1)
        return cls(
            block_size,
            read_only(
                key.permutation(f"{_PURPOSE}/K1", blocks.block_count(height, width, block_size))
            ),
            read_only(key.permutation(f"{_PURPOSE}/K2", values)),
            channels=channels,
            unit=unit,
            image_shape=shape,
            kid=key.kid,
        )

    @classmethod
    def from_permutations(
        cls,
        block_size: int,
        block_permutation: Any,
        pixel_permutation: Any,
        *,
        channels: str = "joint",
        unit: str = "quadrant",
        image_shape: blocks.Shape | None = None,
    ) -> "ViTBlockCipher":
        """Takes bare permutations, 0-based gather maps.

        Args:
            block_size: int, even for quadrants.
            block_permutation: whole numbers 0..blocks-1, each once.
            pixel_permutation: 0..n-1 each once, n the pixels of a unit, or for
                `channels="independent"` its pixels times channels (channels fastest).
            channels: see `from_key`.
            unit: see `from_key`.
            image_shape: None takes every shape with the right number of blocks.

        Raises:
            InputError: if sizes or options do not fit.
        """
        side = _unit_side(block_size, channels, unit)
        pixels = side * side
        shuffle = checked_permutation(
            pixel_permutation, "pixel_permutation", pixels if channels == "joint" else None
        )
        if len(shuffle) % pixels:
            raise InputError(
                f"pixel_permutation must have a multiple of {pixels} entries, got {len(shuffle)}."
            )
        cipher = cls(
            block_size,
            checked_permutation(block_permutation, "block_permutation"),
            shuffle,
            channels=channels,
            unit=unit,
            image_shape=None if image_shape is None else check_shape(image_shape),
        )
        if cipher.image_shape is not None:
            cipher.check_image_shape(cipher.image_shape)
        return cipher

    @property
    def channels(self) -> str:
        """The way pixels move: whole ("joint") or value by value ("independent")."""
        return self._channels

    @property
    def unit(self) -> str:
        """The unit that is shuffled within: a "quadrant" of a block or the whole "patch"."""
        return self._unit

    @property
    def block_permutation(self) -> np.ndarray:
        """K1, int64 of shape `(blocks,)`. Secret."""
        return self._block_permutation

    @property
    def pixel_permutation(self) -> np.ndarray:
        """K2, int64 of shape `(values of a unit,)`. Secret."""
        return self._pixel_permutation

    @property
    def key_space_bits(self) -> float:
        return blocks.log2_factorial(len(self._block_permutation)) + blocks.log2_factorial(
            len(self._pixel_permutation)
        )

    def params(self) -> dict[str, Any]:
        return {"block_size": self._block_size, "channels": self._channels, "unit": self._unit}

    def check_image_shape(self, shape: blocks.Shape) -> None:
        super().check_image_shape(shape)
        height, width, depth = shape
        blocks.check_block_count(height, width, self._block_size, len(self._block_permutation))
        side = _unit_side(self._block_size, self._channels, self._unit)
        if self._channels == "independent" and side * side * depth != len(self._pixel_permutation):
            raise InputError(
                f"images must have {len(self._pixel_permutation) // side**2} channels under this "
                f"key, got {depth}."
            )

    def _build_map(self, shape: blocks.Shape) -> ImageMap:
        height, width, depth = shape
        if self._unit == "quadrant":
            units = blocks.quadrant_pixels(height, width, self._block_size)
        else:
            units = blocks.block_pixels(height, width, self._block_size)[:, None]
        if self._channels == "independent":
            units = blocks.with_channels(units, depth)
        index = np.empty(units.size, np.int64)
        index[units] = units[self._block_permutation][..., self._pixel_permutation]
        if self._channels == "joint":
            index = blocks.with_channels(index[:, None], depth).reshape(-1)
        return ByteMap(index, None)


def _unit_side(block_size: Any, channels: Any, unit: Any) -> int:
    """Side of the part of a block whose pixels are shuffled; checks the options on the way."""
    block_size = positive_int(block_size=block_size)
    one_of(("joint", "independent"), channels=channels)
    one_of(("quadrant", "patch"), unit=unit)
    if unit == "patch":
        return block_size
    if block_size % 2:
        raise InputError(f"block_size must be even to have quadrants, got {block_size}.")
    return block_size // 2
