"""Ciphertext only: the key of the ViT cipher from nothing but encrypted photographs."""

import numpy as np

from keras_dpvit.attacks import block_layout, jigsaw
from keras_dpvit.attacks.pixel_order import recover_pixel_order
from keras_dpvit.encryption import ViTBlockCipher
from keras_dpvit.encryption.blocks import check_divisible
from keras_dpvit.encryption.cipher import shape_of
from keras_dpvit.errors import InputError


def recover(encrypted: np.ndarray, block_size: int = 16, seed: int = 0) -> ViTBlockCipher:
    """Both permutations of the ViT cipher (quadrants, joint channels), under one key.

    First K2, from correlations of pixels and seams inside blocks; then K1, a jigsaw puzzle whose
    pieces are the blocks. Blocks that look alike in all images, such as black ones, cannot be told
    apart by anyone, and K1 is then guessed there.

    Args:
        encrypted: uint8 `(n, height, width, channels)`; n = 2 suffices for most photographs.
        block_size: int.
        seed: of the random starts.

    Returns:
        The cipher that the attack believes in; it decrypts all images under the key.

    Raises:
        InputError: if there is no image, or its size does not fit.

    Source: after Chuman and Kiya's jigsaw attacks on such schemes (arXiv 2211.02369), with the
    quadratic assignment for K2 added.
    """
    if encrypted.ndim != 4 or not len(encrypted):
        raise InputError(
            f"encrypted must be (n, height, width, channels), n > 0, got {encrypted.shape}."
        )
    shape = height, width, depth = shape_of(encrypted)
    check_divisible(height, width, block_size)
    positions = block_layout.unit_positions(shape, block_size, "joint", "quadrant")
    quadrants = block_layout.take(encrypted, positions)
    pixel = recover_pixel_order(quadrants, seed)
    half = block_size // 2
    upright = quadrants[:, :, :, np.argsort(pixel)]
    pieces = upright.reshape(len(encrypted), len(positions), 2, 2, half, half, depth)
    pieces = pieces.transpose(0, 1, 2, 4, 3, 5, 6)
    pieces = pieces.reshape(len(encrypted), len(positions), block_size, block_size, depth)
    placed = jigsaw.solve(pieces, height // block_size, width // block_size)
    # placed[i] is the shuffled block that belongs at i; the cipher's map is the other way round.
    return ViTBlockCipher.from_permutations(
        block_size, np.argsort(placed), pixel, image_shape=shape
    )
