"""Chosen plaintext: an adversary who may have a few images of its choice encrypted.

Every scheme here moves values and inverts some, by a map that depends on the key alone. Images that
number the places tell the map: one to six images, whatever the size of the key space.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_dpvit._validate import one_of
from keras_dpvit.attacks import block_layout, known_plaintext
from keras_dpvit.encryption import (
    SCHEMES,
    ExtendedLearnableEncryption,
    ImageCipher,
    LearnableEncryption,
    PixelEncryption,
    ViTBlockCipher,
    color,
)
from keras_dpvit.encryption.blocks import Shape
from keras_dpvit.errors import InputError

Encrypt = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class NibbleMap:
    """The effect of any of the schemes on an image: `out[i] = in[index[i]] ^ 15 inverted[i]`.

    Attributes:
        index: int64 `(2 m,)` for ciphertexts of m values; nibbles 0..m-1 are the low halves.
        inverted: bool `(2 m,)`.
    """

    index: np.ndarray
    inverted: np.ndarray

    def agreement(self, other: "NibbleMap") -> float:
        """Share of the nibbles that both maps treat alike; 1 for equal maps."""
        alike = (self.index == other.index) & (self.inverted == other.inverted)
        return float(np.mean(alike))


def recover_map(encrypt: Encrypt, image_shape: Shape) -> NibbleMap:
    """The whole map of any scheme, without knowing which: all zeros, then digits of the places.

    Args:
        encrypt: takes and returns uint8 `(n, height, width, channels)`.
        image_shape: (height, width, channels) of what is given to it.

    Returns:
        The map, exact if `encrypt` is such a map: 6 chosen images at 224x224x3.
    """
    size = int(np.prod(image_shape))
    numbers = block_layout.digits(np.arange(2 * size), 16, 2 * size)
    low, high = np.split(numbers, 2, axis=1)
    probes = np.concatenate([np.zeros((1, size), np.uint8), low | (high << 4)])
    seen = encrypt(probes.reshape(-1, *image_shape)).reshape(len(probes), -1)
    nibbles = np.concatenate([seen & 15, seen >> 4], axis=1)
    read = (nibbles[1:] ^ nibbles[0]).astype(np.int64)
    index = (read * 16 ** np.arange(len(read))[:, None]).sum(0)
    return NibbleMap(index, nibbles[0] == 15)


def map_of(cipher: ImageCipher, image_shape: Shape) -> NibbleMap:
    """The map of a cipher, for comparing a recovered key with the true one.

    Of EtC in grayscale it is the map between gray images, after the colour transform.
    """
    if cipher.params().get("mode") != "grayscale":
        return recover_map(cipher.encrypt, image_shape)
    if cipher.params()["color_transform"] != "reversible":
        raise InputError("color_transform must be 'reversible' to compare keys of grayscale EtC.")
    height, width, _ = image_shape

    def encrypt(gray: np.ndarray) -> np.ndarray:
        return cipher.encrypt(color.from_reversible(color.stacked(gray)))

    return recover_map(encrypt, (height, 3 * width, 1))


def recover(scheme: str, encrypt: Encrypt, image_shape: Shape, params: dict[str, Any]) -> Any:
    """The key of a scheme, as a cipher that does what the victim's does.

    Args:
        scheme: a name of `keras_dpvit.encryption.SCHEMES`.
        encrypt: the victim's; takes and returns uint8 `(n, height, width, channels)`.
        image_shape: (height, width, channels) of plain images.
        params: the scheme's public options, as `ImageCipher.params` tells them.

    Returns:
        An `ImageCipher` with the same map. What it is made of equals the victim's permutations for
        the ViT cipher, EtC and PE; for LE and ELE it is the "paper" variant of the same map.

    Raises:
        InputError: for an unknown scheme, or PE with a key for each image.
    """
    one_of(SCHEMES, scheme=scheme)
    if params.get("key_per_image"):
        raise InputError("A key per image leaves nothing to recover: no two images share one.")
    if scheme == "vit_block":
        return _vit_block(encrypt, image_shape, **params)
    if scheme == "le":
        return _learnable(encrypt, image_shape, params["block_size"])
    if scheme == "ele":
        return _extended(encrypt, image_shape, params["block_size"])
    if scheme == "pe":
        return _pixel(encrypt, image_shape, params["shuffle_colors"])
    # Noise has no two blocks alike, under any turn; so it may be any noise.
    noise = np.random.default_rng(0).integers(0, 256, (1, *image_shape), dtype=np.uint8)
    return known_plaintext.recover("etc", noise, encrypt(noise), params)


def _vit_block(
    encrypt: Encrypt, image_shape: Shape, block_size: int, channels: str, unit: str
) -> ViTBlockCipher:
    """Numbers of blocks and of pixels in their units, as digits to base 256, a digit a channel."""
    positions = block_layout.unit_positions(image_shape, block_size, channels, unit)
    count, _, size, depth = positions.shape
    grid = np.arange(count)[:, None], np.arange(size)[None]
    of_block = block_layout.digits(np.broadcast_to(grid[0], (count, size)), 256, count)
    of_pixel = block_layout.digits(np.broadcast_to(grid[1], (count, size)), 256, size)
    planes = np.concatenate([of_block, of_pixel])
    images = -(-len(planes) // depth)
    padded = np.zeros((images * depth, count, size), np.uint8)
    padded[: len(planes)] = planes
    values = padded.reshape(images, depth, count, size).transpose(0, 2, 3, 1)[:, :, None]
    values = np.broadcast_to(values, (images, *positions.shape))
    seen = block_layout.take(encrypt(block_layout.put(values, positions, image_shape)), positions)
    read = seen[:, :, 0].transpose(0, 3, 1, 2).reshape(-1, count, size).astype(np.int64)
    powers = 256 ** np.arange(len(planes))[:, None, None]
    block = (read[: len(of_block)] * powers[: len(of_block)]).sum(0)
    pixel = (read[len(of_block) : len(planes)] * powers[: len(of_pixel)]).sum(0)
    return ViTBlockCipher.from_permutations(
        block_size, block[:, 0], pixel[0], channels=channels, unit=unit, image_shape=image_shape
    )


def _learnable(encrypt: Encrypt, image_shape: Shape, block_size: int) -> LearnableEncryption:
    """A block of zeros tells what is inverted, further blocks the digits of each nibble's place."""
    length = 2 * block_size**2 * image_shape[2]
    probes = np.concatenate(
        [np.zeros((1, length), np.uint8), block_layout.digits(np.arange(length), 16, length)]
    )
    in_image = image_shape[0] * image_shape[1] // block_size**2
    images = -(-len(probes) // in_image)
    nibbles = np.zeros((images * in_image, length), np.uint8)
    nibbles[: len(probes)] = probes
    plain = block_layout.from_block_nibbles(
        nibbles.reshape(images, in_image, length), block_size, image_shape
    )
    seen = block_layout.block_nibbles(encrypt(plain), block_size).reshape(-1, length)[: len(probes)]
    read = (seen[1:] ^ seen[0]).astype(np.int64)
    order = (read * 16 ** np.arange(len(read))[:, None]).sum(0)
    mask = np.empty(length, np.int64)
    mask[order] = seen[0] == 15
    return LearnableEncryption.from_permutations(
        block_size, order, inversion_mask=mask, variant="paper"
    )


def _extended(encrypt: Encrypt, image_shape: Shape, block_size: int) -> ExtendedLearnableEncryption:
    """Recovers ELE as LE, in all blocks at once; images of block numbers tell where blocks went."""
    length = 2 * block_size**2 * image_shape[2]
    count = image_shape[0] * image_shape[1] // block_size**2
    places = block_layout.digits(np.arange(length), 16, length)
    numbers = block_layout.digits(np.arange(count), 256, count)
    # A value that is a block's number has its low digit in the low nibble.
    halves = np.stack([numbers & 15, numbers >> 4], axis=-1)
    probes = np.concatenate(
        [
            np.zeros((1, count, length), np.uint8),
            np.broadcast_to(places[:, None], (len(places), count, length)),
            np.repeat(halves, length // 2, axis=-1),
        ]
    )
    seen = block_layout.block_nibbles(
        encrypt(block_layout.from_block_nibbles(probes, block_size, image_shape)), block_size
    )
    read = (seen[1:] ^ seen[0]).astype(np.int64)
    orders = (read[: len(places)] * 16 ** np.arange(len(places))[:, None, None]).sum(0)
    back = np.argsort(orders, axis=-1)[None]
    numbered = np.take_along_axis(read[len(places) :], back, axis=-1)
    values = numbered[..., 0] + 16 * numbered[..., length // 2]
    moved = (values * 256 ** np.arange(len(values))[:, None]).sum(0)
    keys = np.empty((count, length), np.int64)
    masks = np.empty((count, length), np.int64)
    keys[moved] = orders
    masks[moved] = np.take_along_axis(seen[0] == 15, back[0], axis=-1)
    return ExtendedLearnableEncryption.from_permutations(
        block_size, moved, list(keys), inversion_masks=masks, variant="paper"
    )


def _pixel(encrypt: Encrypt, image_shape: Shape, shuffle_colors: bool) -> PixelEncryption:
    """Channels 1, 2, 3 everywhere: what is above 127 was inverted, the rest is the order."""
    depth = image_shape[2]
    plain = np.broadcast_to(np.arange(1, depth + 1, dtype=np.uint8), (1, *image_shape))
    seen = encrypt(np.ascontiguousarray(plain))[0]
    inverted = seen > 127
    source = np.where(inverted, 255 - seen, seen).astype(np.int64) - 1
    mask = np.empty(image_shape, np.int64)
    np.put_along_axis(mask, source, inverted, axis=-1)
    colors = None
    if shuffle_colors and depth == len(color.ORDERS[0]):
        colors = np.argmax((source[..., None, :] == color.ORDERS).all(-1), axis=-1)
    return PixelEncryption.from_permutations(mask, colors)
