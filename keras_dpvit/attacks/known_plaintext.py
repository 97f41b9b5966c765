"""Known plaintext: an adversary who has some images plain and encrypted."""

from typing import Any

import numpy as np

from keras_dpvit._validate import one_of
from keras_dpvit.attacks import block_layout
from keras_dpvit.encryption import (
    SCHEMES,
    EncryptionThenCompression,
    ExtendedLearnableEncryption,
    LearnableEncryption,
    PixelEncryption,
    ViTBlockCipher,
    blocks,
    color,
)
from keras_dpvit.encryption.cipher import shape_of
from keras_dpvit.errors import InputError


def recover(scheme: str, plain: np.ndarray, encrypted: np.ndarray, params: dict[str, Any]) -> Any:
    """A key that explains the pairs, as a cipher.

    It is the victim's wherever the pairs decide it: where two places agree in all plain images they
    are told apart by nothing and one of them is guessed. For LE and ELE the cipher is the "paper"
    variant of the same map.

    Args:
        scheme: a name of `keras_dpvit.encryption.SCHEMES`.
        plain: uint8 `(n, height, width, channels)`.
        encrypted: their ciphertexts. For the ViT cipher they may have gone through lossy
            compression.
        params: the scheme's public options, as `ImageCipher.params` tells them.

    Raises:
        InputError: for an unknown scheme, no or unequal numbers of images, or a key per image.
    """
    one_of(SCHEMES, scheme=scheme)
    if not 0 < len(plain) == len(encrypted):
        raise InputError(
            f"plain and encrypted must have the same length, 1 at least, got {len(plain)} and "
            f"{len(encrypted)}."
        )
    if params.get("key_per_image"):
        raise InputError("A key per image leaves nothing to recover: no two images share one.")
    if scheme == "vit_block":
        return _vit_block(plain, encrypted, **params)
    if scheme == "le":
        return _learnable(plain, encrypted, params["block_size"])
    if scheme == "ele":
        return _extended(plain, encrypted, params["block_size"])
    if scheme == "pe":
        return _pixel(plain, encrypted, params["shuffle_colors"])
    return _compressible(plain, encrypted, params)


def _vit_block(
    plain: np.ndarray, encrypted: np.ndarray, block_size: int, channels: str, unit: str
) -> ViTBlockCipher:
    """Blocks by their sorted values, which K2 leaves alone; then pixels by their values.

    A second look at the blocks, now with their pixels in order, helps where values are not exact.
    """
    positions = block_layout.unit_positions(shape_of(plain), block_size, channels, unit)
    count, _, size, _ = positions.shape
    # Blocks first, then images, units, pixels, values.
    known, seen = (block_layout.take(x, positions).swapaxes(0, 1) for x in (plain, encrypted))
    block = _assigned(*(np.sort(x, axis=3).reshape(count, -1) for x in (seen, known)))
    pixel = _assigned(*(np.moveaxis(x, 3, 0).reshape(size, -1) for x in (seen, known[block])))
    block = _assigned(seen.reshape(count, -1), known[:, :, :, pixel].reshape(count, -1))
    return ViTBlockCipher.from_permutations(
        block_size, block, pixel, channels=channels, unit=unit, image_shape=shape_of(plain)
    )


def _assigned(seen: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Assigns a row of `known` to each of `seen`, with the least sum of absolute differences."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    cost = cdist(seen.astype(np.float64), known.astype(np.float64), "cityblock")
    return np.asarray(linear_sum_assignment(cost)[1], np.int64)


def _canonical(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nibble columns up to inversion: that of the two whose first is below 8, and which it was."""
    flipped = columns[..., :1] > 7
    return np.where(flipped, 15 - columns, columns), flipped[..., 0]


def _learnable(plain: np.ndarray, encrypted: np.ndarray, block_size: int) -> LearnableEncryption:
    """Each nibble place has its course over all blocks; equal courses are the same place."""
    sides = []
    for images in (plain, encrypted):
        nibbles = block_layout.block_nibbles(images, block_size)
        sides.append(_canonical(nibbles.reshape(-1, nibbles.shape[-1]).T))
    (known, known_flips), (seen, seen_flips) = sides
    order = block_layout.match_equal([c.tobytes() for c in known], [c.tobytes() for c in seen])
    mask = np.empty(len(order), np.int64)
    mask[order] = known_flips[order] ^ seen_flips
    return LearnableEncryption.from_permutations(
        block_size, order, inversion_mask=mask, variant="paper"
    )


def _extended(
    plain: np.ndarray, encrypted: np.ndarray, block_size: int
) -> ExtendedLearnableEncryption:
    """Courses over the images: a block is known by the set of its courses, a nibble by its own."""
    sides, prints = [], []
    for images in (plain, encrypted):
        courses = np.moveaxis(block_layout.block_nibbles(images, block_size), 0, -1)
        columns, flips = _canonical(courses)
        named = [[c.tobytes() for c in block] for block in columns]
        sides.append((named, flips))
        prints.append([b"".join(sorted(block)) for block in named])
    (known, known_flips), (seen, seen_flips) = sides
    moved = block_layout.match_equal(*prints)
    keys, masks = np.empty(known_flips.shape, np.int64), np.empty(known_flips.shape, np.int64)
    for i, source in enumerate(moved):
        order = block_layout.match_equal(known[source], seen[i])
        keys[source] = order
        masks[source, order] = known_flips[source, order] ^ seen_flips[i]
    return ExtendedLearnableEncryption.from_permutations(
        block_size, moved, list(keys), inversion_masks=masks, variant="paper"
    )


def _pixel(plain: np.ndarray, encrypted: np.ndarray, shuffle_colors: bool) -> PixelEncryption:
    """The first order of the channels of a pixel, each inverted or not, that fits."""
    shape = shape_of(plain)
    depth = shape[2]
    # May output channel c be input channel d, as it is or inverted, in all the pairs?
    direct = (encrypted[..., :, None] == plain[..., None, :]).all(0)
    inverse = (encrypted[..., :, None] == 255 - plain[..., None, :]).all(0)
    recolored = shuffle_colors and depth == len(color.ORDERS[0])
    orders = color.ORDERS if recolored else np.arange(depth)[None]
    places = np.arange(depth)
    fits = np.stack([(direct | inverse)[..., places, order].all(-1) for order in orders], -1)
    code = np.argmax(fits, axis=-1)
    source = orders[code]
    inverted = ~np.take_along_axis(direct, source[..., None], axis=-1)[..., 0]
    mask = np.empty(shape, np.int64)
    np.put_along_axis(mask, source, inverted, axis=-1)
    return PixelEncryption.from_permutations(mask, code if recolored else None)


def _compressible(
    plain: np.ndarray, encrypted: np.ndarray, params: dict[str, Any]
) -> EncryptionThenCompression:
    """Blocks by what no step changes, the smallest hash among a block's images under all steps."""
    if params.get("legacy_channel_bug"):
        raise InputError("legacy_channel_bug loses channels: no key can decrypt the images.")
    side, gray = params["block_size"], params["mode"] == "grayscale"
    if gray:
        reversible = params["color_transform"] == "reversible"
        plain = color.side_by_side((color.to_reversible if reversible else color.to_ycbcr)(plain))
    known, steps = _block_hashes(plain, side)
    seen, _ = _block_hashes(encrypted, side)
    moved = block_layout.match_equal(known.min(1).tolist(), seen.min(1).tolist())
    chosen = steps[np.argmax(known[moved] == seen[:, :1], axis=1)]
    rotations, flips, negatives, colors = chosen.T
    return EncryptionThenCompression.from_permutations(
        side,
        moved,
        rotations,
        flips,
        negatives,
        None if gray else colors,
        mode=params["mode"],
        color_transform=params.get("color_transform", "reversible"),
    )


def _block_hashes(images: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all blocks under all steps, the first of which changes nothing.

    Returns:
        uint64 `(blocks, steps)`, and int64 `(steps, 4)`: rotation, flip, negative, colour.
    """
    height, width, depth = shape_of(images)
    pixels = blocks.block_pixels(height, width, side)
    values = np.moveaxis(images.reshape(len(images), -1, depth)[:, pixels], 0, 1)
    grid = np.arange(side * side).reshape(side, side)
    orders = color.ORDERS if depth == len(color.ORDERS[0]) else np.arange(depth)[None]
    generator = np.random.default_rng(0)
    # Sums modulo 2^64 with random weights: two different blocks collide with negligible chance.
    weights = generator.integers(0, 2**64, values[0].shape, dtype=np.uint64)
    hashes, steps = [], []
    for rotation in range(4):
        for flip in range(2):
            turned = np.rot90(grid, rotation)[:, :: -1 if flip else 1].reshape(-1)
            for negative in range(2):
                source = (255 - values if negative else values)[:, :, turned]
                for code, order in enumerate(orders):
                    weighted = source[..., order].astype(np.uint64) * weights
                    hashes.append(weighted.reshape(len(values), -1).sum(1, dtype=np.uint64))
                    steps.append((rotation, flip, negative, code))
    return np.stack(hashes, axis=1), np.array(steps)
