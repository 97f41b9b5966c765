"""Learnable encryption (LE, Tanaka 2018) and its extension (ELE, Madono et al. 2020).

Both shuffle and invert the half bytes (nibbles) of every block: a block of D values has L = 2 D
nibbles, first the low ones of all values, then the high ones, values in the order (row, column,
channel).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_dpvit._validate import one_of, positive_int
from keras_dpvit.encryption import blocks
from keras_dpvit.encryption.cipher import BlockCipher, check_shape
from keras_dpvit.encryption.index_maps import ImageMap, NibbleMap
from keras_dpvit.encryption.keys import SecretKey, as_key
from keras_dpvit.encryption.permutations import checked_permutation, read_only
from keras_dpvit.errors import InputError

VARIANTS = ("tanaka", "paper")


class _NibbleCipher(BlockCipher):
    """The base of LE and ELE: permutations of nibbles, and given masks or none."""

    def __init__(
        self,
        block_size: int,
        permutations: np.ndarray,
        masks: np.ndarray | None,
        *,
        variant: str,
        **identity: Any,
    ) -> None:
        super().__init__(block_size, **identity)
        self._permutations = permutations
        self._given_masks = masks
        self._variant = variant

    def params(self) -> dict[str, Any]:
        return {"block_size": self._block_size, "variant": self._variant}


class LearnableEncryption(_NibbleCipher):
    """LE: shuffles and inverts the nibbles of every block, with one key for all blocks.

    * `variant="tanaka"`, which made the published figures: the permutation decides what is
      inverted, `r = key > L/2`, before and after the shuffle:
      `out[i] = n[key[i]] ^ 15 (r[key[i]] ^ r[i])`.
    * `variant="paper"`: an independent mask r, before the shuffle: `out[i] = n[key[i]] ^ 15
      r[key[i]]`.

    Guarantee: none in the cryptographic sense; three chosen blocks give the key away.

    Make one by `from_key` or `from_permutations`.

    Source: Tanaka, "Learnable Image Encryption", ICCE-TW 2018.
    """

    scheme = "le"

    @classmethod
    def from_key(
        cls,
        key: SecretKey | bytes,
        image_shape: blocks.Shape = (32, 32, 3),
        block_size: int = 4,
        *,
        variant: str = "tanaka",
    ) -> "LearnableEncryption":
        """Derives the permutation, and the mask of the paper's variant, from a key.

        Args:
            key: a `SecretKey` or its 32 bytes.
            image_shape: (height, width, channels), multiples of the block.
            block_size: int.
            variant: "tanaka" or "paper".

        Raises:
            InputError: if sizes or options do not fit.
        """
        key = as_key(key)
        shape, nibbles = _sizes(image_shape, block_size, variant)
        return cls(
            block_size,
            read_only(key.permutation("le/K1", nibbles)),
            read_only(key.bits("le/mask", nibbles)) if variant == "paper" else None,
            variant=variant,
            image_shape=shape,
            kid=key.kid,
        )

    @classmethod
    def from_permutations(
        cls,
        block_size: int,
        nibble_permutation: Any,
        *,
        inversion_mask: Any = None,
        variant: str = "tanaka",
    ) -> "LearnableEncryption":
        """Takes a bare permutation of a block's nibbles, a 0-based gather map.

        Args:
            block_size: int.
            nibble_permutation: 0..L-1 each once; L gives the channels.
            inversion_mask: L zeros and ones for `variant="paper"`, else None.
            variant: "tanaka" or "paper".

        Raises:
            InputError: if sizes or options do not fit.
        """
        values = positive_int(block_size=block_size) ** 2
        permutation = checked_permutation(nibble_permutation, "nibble_permutation")
        if len(permutation) % (2 * values):
            raise InputError(
                f"nibble_permutation must have a multiple of {2 * values} entries for blocks of "
                f"{block_size}x{block_size}, got {len(permutation)}."
            )
        mask = _check_masks(inversion_mask, (len(permutation),), variant, "inversion_mask")
        return cls(block_size, permutation, mask, variant=variant)

    @property
    def nibble_permutation(self) -> np.ndarray:
        """The key, int64 of shape `(L,)`. Secret."""
        return self._permutations

    @property
    def inversion_mask(self) -> np.ndarray:
        """Mask of the nibbles that are inverted, bool of shape `(L,)`. Secret."""
        return _reversals(self._permutations, self._given_masks)

    @property
    def key_space_bits(self) -> float:
        nibbles = len(self._permutations)
        free = nibbles if self._variant == "paper" else 0
        return blocks.log2_factorial(nibbles) + free

    def check_image_shape(self, shape: blocks.Shape) -> None:
        super().check_image_shape(shape)
        height, width, depth = shape
        blocks.check_divisible(height, width, self._block_size)
        _check_depth(depth, self._block_size, len(self._permutations))

    def _build_map(self, shape: blocks.Shape) -> ImageMap:
        count = blocks.block_count(shape[0], shape[1], self._block_size)
        mask = _net_mask(self._permutations, self._given_masks)
        return _nibble_map(
            shape,
            self._block_size,
            np.arange(count),
            np.broadcast_to(self._permutations, (count, len(mask))),
            np.broadcast_to(mask, (count, len(mask))),
        )


class ExtendedLearnableEncryption(_NibbleCipher):
    """ELE: LE with a separate key for each block position, then a permutation of the blocks.

    `out_block[i] = scrambled[block_permutation[i]]`, where block j was scrambled with key j.

    Guarantee: none in the cryptographic sense; known or chosen plain images give the key away.

    Make one by `from_key` or `from_permutations`.

    Source: Madono et al., "Block-wise Scrambled Image Recognition Using Adaptation Network",
    arXiv 2001.07761.
    """

    scheme = "ele"

    def __init__(
        self,
        block_size: int,
        block_permutation: np.ndarray,
        permutations: np.ndarray,
        masks: np.ndarray | None,
        **about: Any,
    ) -> None:
        super().__init__(block_size, permutations, masks, **about)
        self._block_permutation = block_permutation

    @classmethod
    def from_key(
        cls,
        key: SecretKey | bytes,
        image_shape: blocks.Shape = (32, 32, 3),
        block_size: int = 4,
        *,
        variant: str = "tanaka",
    ) -> "ExtendedLearnableEncryption":
        """Derives all permutations, and the masks of the paper's variant, from a key.

        Args: as for `LearnableEncryption.from_key`.

        Raises:
            InputError: if sizes or options do not fit.
        """
        key = as_key(key)
        shape, nibbles = _sizes(image_shape, block_size, variant)
        count = blocks.block_count(shape[0], shape[1], block_size)
        keys = [key.permutation(f"ele/K2/block={i}", nibbles) for i in range(count)]
        masks = None
        if variant == "paper":
            masks = read_only(
                np.array([key.bits(f"ele/mask/block={i}", nibbles) for i in range(count)])
            )
        return cls(
            block_size,
            read_only(key.permutation("ele/K1", count)),
            read_only(np.array(keys)),
            masks,
            variant=variant,
            image_shape=shape,
            kid=key.kid,
        )

    @classmethod
    def from_permutations(
        cls,
        block_size: int,
        block_permutation: Any,
        nibble_permutations: Sequence[Any],
        *,
        inversion_masks: Any = None,
        variant: str = "tanaka",
    ) -> "ExtendedLearnableEncryption":
        """Takes bare permutations, 0-based gather maps.

        Args:
            block_size: int.
            block_permutation: 0..blocks-1 each once.
            nibble_permutations: one for each block, 0..L-1 each once.
            inversion_masks: zeros and ones `(blocks, L)` for `variant="paper"`, else None.
            variant: "tanaka" or "paper".

        Raises:
            InputError: if sizes or options do not fit.
        """
        order = checked_permutation(block_permutation, "block_permutation")
        if len(nibble_permutations) != len(order):
            raise InputError(
                f"nibble_permutations must be {len(order)}, one for each block, "
                f"got {len(nibble_permutations)}."
            )
        values = positive_int(block_size=block_size) ** 2
        first = len(nibble_permutations[0])
        keys = read_only(
            np.array(
                [checked_permutation(p, "nibble_permutations", first) for p in nibble_permutations]
            )
        )
        if first % (2 * values):
            raise InputError(
                f"nibble_permutations must have a multiple of {2 * values} entries for blocks of "
                f"{block_size}x{block_size}, got {first}."
            )
        masks = _check_masks(inversion_masks, keys.shape, variant, "inversion_masks")
        return cls(block_size, order, keys, masks, variant=variant)

    @property
    def block_permutation(self) -> np.ndarray:
        """int64 of shape `(blocks,)`. Secret."""
        return self._block_permutation

    @property
    def nibble_permutations(self) -> np.ndarray:
        """int64 of shape `(blocks, L)`, by source block. Secret."""
        return self._permutations

    @property
    def key_space_bits(self) -> float:
        count, nibbles = self._permutations.shape
        free = nibbles if self._variant == "paper" else 0
        each = blocks.log2_factorial(nibbles) + free
        return count * each + blocks.log2_factorial(count)

    def check_image_shape(self, shape: blocks.Shape) -> None:
        super().check_image_shape(shape)
        height, width, depth = shape
        blocks.check_block_count(height, width, self._block_size, len(self._block_permutation))
        _check_depth(depth, self._block_size, self._permutations.shape[1])

    def _build_map(self, shape: blocks.Shape) -> ImageMap:
        order = self._block_permutation
        masks = [
            _net_mask(key, None if self._given_masks is None else self._given_masks[i])
            for i, key in enumerate(self._permutations)
        ]
        return _nibble_map(
            shape, self._block_size, order, self._permutations[order], np.array(masks)[order]
        )


def _sizes(image_shape: Any, block_size: Any, variant: Any) -> tuple[blocks.Shape, int]:
    """The image shape and the nibbles of a block, checked."""
    height, width, depth = shape = check_shape(image_shape)
    block_size = positive_int(block_size=block_size)
    one_of(VARIANTS, variant=variant)
    blocks.check_divisible(height, width, block_size)
    return shape, 2 * block_size * block_size * depth


def _check_masks(masks: Any, shape: tuple[int, ...], variant: str, name: str) -> np.ndarray | None:
    """Masks as bools; the variant says whether there must be any."""
    one_of(VARIANTS, variant=variant)
    if variant == "tanaka":
        if masks is not None:
            raise InputError(f"{name} must be left out for variant 'tanaka'.")
        return None
    array = np.asarray(masks)
    if array.shape != shape or not np.isin(array, (0, 1)).all():
        raise InputError(f"{name} must be zeros and ones of shape {shape} for variant 'paper'.")
    return read_only(array.astype(bool))


def _check_depth(depth: int, block_size: int, nibbles: int) -> None:
    if 2 * block_size * block_size * depth != nibbles:
        raise InputError(
            f"images must have {nibbles // (2 * block_size**2)} channels under this key, "
            f"got {depth}."
        )


def _reversals(permutation: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The positions at which a nibble is inverted; strictly above the middle without a mask."""
    return permutation > len(permutation) / 2 if mask is None else mask


def _net_mask(permutation: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Mask of output nibbles inverted in all; without a mask they are a second time, after."""
    reversals = _reversals(permutation, mask)
    before = reversals[permutation]
    return before ^ reversals if mask is None else before


def _nibble_map(
    shape: blocks.Shape,
    block_size: int,
    order: np.ndarray,
    permutations: np.ndarray,
    masks: np.ndarray,
) -> NibbleMap:
    """The whole-image form: output block i is block `order[i]`, by `permutations[i]`, `masks[i]`.

    Args:
        shape: of an image.
        block_size: int.
        order: int64 `(blocks,)`.
        permutations: int64 `(blocks, L)`.
        masks: bool `(blocks, L)`.
    """
    height, width, depth = shape
    values = blocks.with_channels(blocks.block_pixels(height, width, block_size), depth)
    nibbles = np.concatenate([values, values + height * width * depth], axis=1)
    index = np.empty(nibbles.size, np.int64)
    index[nibbles] = np.take_along_axis(nibbles[order], permutations, axis=1)
    mask = np.empty(nibbles.size, bool)
    mask[nibbles] = masks
    return NibbleMap(index, mask)
