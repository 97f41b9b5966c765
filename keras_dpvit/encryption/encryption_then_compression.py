"""Encryption-then-compression (EtC): block scrambling whose ciphertexts JPEG still compresses.

Each block moves, turns, and may be inverted and have its colours exchanged, by its own keys;
the keys are shared by all images.
"""

import math
from typing import Any

import numpy as np

from keras_dpvit._validate import one_of, positive_int
from keras_dpvit.encryption import blocks, color
from keras_dpvit.encryption.cipher import BlockCipher, check_shape, shape_of
from keras_dpvit.encryption.index_maps import ByteMap, ImageMap
from keras_dpvit.encryption.keys import SecretKey, as_key
from keras_dpvit.encryption.permutations import checked_permutation, read_only
from keras_dpvit.errors import InputError

# Each mode with its published block size.
BLOCK_SIZES = {"color": 4, "grayscale": 8}


class EncryptionThenCompression(BlockCipher):
    """EtC: blocks are permuted, rotated, flipped, inverted and, in colour, recoloured.

    * `mode="color"`: (1) block permutation, (2) rotation by k x 90 degrees counter-clockwise, then
      a flip of the columns, (3) 255 - v, (4) one of 6 orders of the channels. Images have 3
      channels, or 1, for which step 4 falls away.
    * `mode="grayscale"`: an RGB image becomes luminance and two chrominance planes side by side,
      one gray image of three times the width, on which steps 1 to 3 run.
      `color_transform="reversible"` is exact (see `color.to_reversible`); "ycbcr" is the
      published one, whose rounding costs up to 2 steps in a value.
    * `legacy_channel_bug=True` reproduces the published colour code, in which 5 of the 6 orders
      lose a channel; `decrypt` is refused.

    Guarantee: none in the cryptographic sense; jigsaw solvers restore both modes.

    Make one by `from_key` or `from_permutations`.

    Sources: Chuman, Sirichotedumrong, Kiya, "Encryption-Then-Compression Systems Using
    Grayscale-Based Image Encryption for JPEG Images", 2018; colour: Kurihara et al. 2015, as used
    by Madono et al., arXiv 2001.07761.
    """

    scheme = "etc"

    def __init__(
        self,
        block_size: int,
        block_permutation: np.ndarray,
        steps: "dict[str, np.ndarray]",
        *,
        mode: str,
        color_transform: str,
        legacy_channel_bug: bool,
        **identity: Any,
    ) -> None:
        super().__init__(block_size, **identity)
        self._block_permutation = block_permutation
        self._steps = steps
        self._mode = mode
        self._color_transform = color_transform
        self._legacy_channel_bug = legacy_channel_bug

    @classmethod
    def from_key(
        cls,
        key: SecretKey | bytes,
        image_shape: blocks.Shape = (32, 32, 3),
        block_size: int | None = None,
        *,
        mode: str = "color",
        color_transform: str = "reversible",
        legacy_channel_bug: bool = False,
    ) -> "EncryptionThenCompression":
        """Derives the permutation and each block's steps from a key.

        Args:
            key: a `SecretKey` or its 32 bytes.
            image_shape: (height, width, channels) of plain images, multiples of the block.
            block_size: int; None takes the published 4 for colour and 8 for grayscale.
            mode: "color" or "grayscale".
            color_transform: "reversible" or "ycbcr", for `mode="grayscale"`.
            legacy_channel_bug: bool, for `mode="color"`.

        Raises:
            InputError: if sizes or options do not fit.
        """
        key = as_key(key)
        height, width, depth = shape = check_shape(image_shape)
        block_size = _check_options(block_size, mode, color_transform, legacy_channel_bug)
        _check_channels(depth, mode, legacy_channel_bug)
        blocks.check_divisible(height, width, block_size)
        count = blocks.block_count(height, width, block_size) * (3 if mode == "grayscale" else 1)
        purpose = f"etc-{mode}"
        steps = {
            "rotations": key.below(f"{purpose}/rotation", count, 4),
            "flips": key.bits(f"{purpose}/flip", count),
            "negatives": key.bits(f"{purpose}/negative", count),
        }
        if mode == "color":
            steps["colors"] = key.below(f"{purpose}/color", count, len(color.ORDERS))
        return cls(
            block_size,
            read_only(key.permutation(f"{purpose}/K1", count)),
            {name: read_only(step) for name, step in steps.items()},
            mode=mode,
            color_transform=color_transform,
            legacy_channel_bug=legacy_channel_bug,
            image_shape=shape,
            kid=key.kid,
        )

    @classmethod
    def from_permutations(
        cls,
        block_size: int,
        block_permutation: Any,
        rotations: Any,
        flips: Any,
        negatives: Any,
        colors: Any = None,
        *,
        mode: str = "color",
        color_transform: str = "reversible",
        legacy_channel_bug: bool = False,
    ) -> "EncryptionThenCompression":
        """Takes bare keys, one entry for each block of the ciphertext.

        Args:
            block_size: int.
            block_permutation: 0..blocks-1 each once, a gather map.
            rotations: 0..3, quarter turns counter-clockwise.
            flips: zeros and ones; flips the columns after the rotation.
            negatives: zeros and ones.
            colors: 0..5 into the orders 012, 021, 102, 120, 201, 210; None in grayscale.
            mode: "color" or "grayscale".
            color_transform: see `from_key`.
            legacy_channel_bug: see `from_key`.

        Raises:
            InputError: if sizes or options do not fit.
        """
        block_size = _check_options(block_size, mode, color_transform, legacy_channel_bug)
        order = checked_permutation(block_permutation, "block_permutation")
        given = {"rotations": (rotations, 4), "flips": (flips, 2), "negatives": (negatives, 2)}
        if mode == "color":
            given["colors"] = (colors, len(color.ORDERS))
        elif colors is not None:
            raise InputError("colors must be left out for mode 'grayscale'.")
        steps = {}
        for name, (values, bound) in given.items():
            steps[name] = color.checked_codes(values, name, (len(order),), bound)
        return cls(
            block_size,
            order,
            steps,
            mode=mode,
            color_transform=color_transform,
            legacy_channel_bug=legacy_channel_bug,
        )

    @property
    def mode(self) -> str:
        """One of `BLOCK_SIZES`."""
        return self._mode

    @property
    def block_permutation(self) -> np.ndarray:
        """int64 of shape `(blocks,)`. Secret."""
        return self._block_permutation

    @property
    def steps(self) -> dict[str, np.ndarray]:
        """Rotations, flips, negatives and, in colour, colors, each `(blocks,)`. Secret."""
        return dict(self._steps)

    @property
    def lossless(self) -> bool:
        if self._mode == "grayscale":
            return self._color_transform == "reversible"
        return not self._legacy_channel_bug

    @property
    def key_space_bits(self) -> float:
        count = len(self._block_permutation)
        each = 3.0 + 1.0  # eight turns and flips, inverted or not
        one_channel = self._image_shape is not None and self._image_shape[2] == 1
        if self._mode == "color" and not one_channel:
            each += math.log2(len(color.ORDERS))
        return blocks.log2_factorial(count) + count * each

    def params(self) -> dict[str, Any]:
        params: dict[str, Any] = {"block_size": self._block_size, "mode": self._mode}
        if self._mode == "grayscale":
            params["color_transform"] = self._color_transform
        elif self._legacy_channel_bug:
            params["legacy_channel_bug"] = True
        return params

    def encrypted_shape(self, image_shape: blocks.Shape) -> blocks.Shape:
        height, width, depth = image_shape
        return (height, 3 * width, 1) if self._mode == "grayscale" else (height, width, depth)

    def check_image_shape(self, shape: blocks.Shape) -> None:
        super().check_image_shape(shape)
        height, width, depth = shape
        _check_channels(depth, self._mode, self._legacy_channel_bug)
        blocks.check_divisible(height, width, self._block_size)
        height, width, _ = self.encrypted_shape(shape)
        blocks.check_block_count(height, width, self._block_size, len(self._block_permutation))

    def _encrypt_batch(self, batch: np.ndarray) -> np.ndarray:
        if self._mode == "grayscale":
            to_planes = color.to_reversible
            if self._color_transform == "ycbcr":
                to_planes = color.to_ycbcr
            batch = color.side_by_side(to_planes(batch))
        return super()._encrypt_batch(batch)

    def _decrypt_batch(self, batch: np.ndarray) -> np.ndarray:
        if self._legacy_channel_bug:
            raise InputError(
                "legacy_channel_bug loses channels as the published code does: its ciphertexts "
                "cannot be decrypted."
            )
        height, width, depth = shape_of(batch)
        if self._mode != "grayscale":
            return super()._decrypt_batch(batch)
        if width % 3 or depth != 1:
            raise InputError(
                "images must be gray, three times as wide as the plain ones, "
                f"got shape {(height, width, depth)}."
            )
        self.check_image_shape((height, width // 3, 3))
        planes = color.stacked(self._map((height, width, 1)).backward(batch))
        if self._color_transform == "ycbcr":
            return color.from_ycbcr(planes)
        return color.from_reversible(planes)

    def _build_map(self, shape: blocks.Shape) -> ImageMap:
        height, width, depth = shape
        side = self._block_size
        pixels = blocks.block_pixels(height, width, side)
        turned = _turns(side)[self._steps["rotations"], self._steps["flips"].astype(np.int64)]
        source = pixels[self._block_permutation[:, None], turned]
        channels = np.broadcast_to(np.arange(depth), (len(source), 1, depth))
        if depth == 3:
            orders = color.LEGACY_ORDERS if self._legacy_channel_bug else color.ORDERS
            channels = orders[self._steps["colors"]][:, None, :]
        values = blocks.with_channels(pixels, depth)
        index = np.empty(values.size, np.int64)
        index[values] = (source[..., None] * depth + channels).reshape(values.shape)
        mask = np.empty(values.size, np.uint8)
        mask[values] = self._steps["negatives"].astype(np.uint8)[:, None] * 255
        return ByteMap(index, mask)


def _turns(side: int) -> np.ndarray:
    """Source pixels of a flattened block, by rotation and flip: `(4, 2, side^2)`."""
    block = np.arange(side * side).reshape(side, side)
    turned = [[np.rot90(block, k), np.rot90(block, k)[:, ::-1]] for k in range(4)]
    return np.array(turned).reshape(4, 2, -1)


def _check_options(
    block_size: Any, mode: Any, color_transform: Any, legacy_channel_bug: Any
) -> int:
    """The block size, checked with the options."""
    one_of(BLOCK_SIZES, mode=mode)
    one_of(("reversible", "ycbcr"), color_transform=color_transform)
    if legacy_channel_bug and mode != "color":
        raise InputError("legacy_channel_bug is for mode 'color'.")
    if block_size is None:
        return BLOCK_SIZES[mode]
    return positive_int(block_size=block_size)


def _check_channels(depth: int, mode: str, legacy_channel_bug: bool) -> None:
    if mode == "grayscale" or legacy_channel_bug:
        if depth != 3:
            raise InputError(f"images must have 3 channels in this mode of EtC, got {depth}.")
    elif depth not in (1, 3):
        raise InputError(f"images must have 1 or 3 channels for EtC, got {depth}.")
