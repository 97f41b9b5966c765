"""The effect of the cipher for vision transformers on an image, in terms of patches."""

import dataclasses

import numpy as np

from keras_dpvit.encryption.blocks import Shape
from keras_dpvit.encryption.vit_block import ViTBlockCipher
from keras_dpvit.errors import InputError


@dataclasses.dataclass(frozen=True, repr=False)
class PatchMoves:
    """The effect of a cipher on an image, in terms of a transformer's patches. Secret.

    Attributes:
        order: int64 `(patches,)`; patch i of the ciphertext is made of patch `order[i]`.
        shuffle: int64 `(patch_size^2 * channels,)`; value j of a patch, row by row and channels
            fastest, was value `shuffle[j]`.
    """

    order: np.ndarray
    shuffle: np.ndarray

    def inverse(self) -> "PatchMoves":
        """The moves of decryption."""
        return PatchMoves(np.argsort(self.order), np.argsort(self.shuffle))


def patch_moves(cipher: ViTBlockCipher, image_shape: Shape, patch_size: int) -> PatchMoves:
    """The moves of patches, and within all patches alike, that a cipher amounts to.

    Args:
        cipher: which cipher.
        image_shape: (height, width, channels).
        patch_size: int, of the transformer; divides height and width.

    Raises:
        InputError: if the images do not fit the cipher, or it mixes patches: unless its blocks are
            the patches, or its quadrants are.
    """
    height, width, channels = image_shape
    rows, columns = height // patch_size, width // patch_size
    source = sources(cipher, image_shape)
    source = source.reshape(rows, patch_size, columns, patch_size, channels)
    values = source.transpose(0, 2, 1, 3, 4).reshape(rows * columns, -1)
    row, column, channel = np.unravel_index(values, image_shape)
    patch = row // patch_size * columns + column // patch_size
    inside = ((row % patch_size) * patch_size + column % patch_size) * channels + channel
    if (patch != patch[:, :1]).any() or (inside != inside[:1]).any():
        raise InputError(
            f"key must be for blocks of the model's patch size {patch_size} (or quadrants of it), "
            f"got block_size={cipher.block_size} with unit={cipher.unit!r}."
        )
    return PatchMoves(patch[:, 0], inside[0])


def sources(cipher: ViTBlockCipher, image_shape: Shape) -> np.ndarray:
    """The origin of every value of a ciphertext, as an index into the flattened image.

    The index itself is encrypted, one byte of it after the other: so it is by construction the
    cipher that the images went through.
    """
    index = np.arange(np.prod(image_shape), dtype="<u4").reshape(image_shape)
    planes = index[..., None].view(np.uint8).transpose(3, 0, 1, 2)
    hidden = cipher.encrypt(np.ascontiguousarray(planes)).transpose(1, 2, 3, 0)
    return np.ascontiguousarray(hidden).view("<u4")[..., 0].astype(np.int64)
