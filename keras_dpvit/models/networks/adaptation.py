"""Adaptation networks: learned layers that undo an encryption in front of a classifier."""

from typing import Any

import keras

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.models.networks.blockwise import BlockMixing, BlockwiseConv
from keras_dpvit.models.networks.building_blocks import batch_norm, conv
from keras_dpvit.models.networks.pixel_shuffle import PixelShuffle

ADAPTATIONS = ("none", "le", "tanaka", "ele")

_CHANNELS = 16  # after the pixel shuffle; Tanaka's has 32
_MATRIX_FACTOR = 0.001
_VARIATION_FACTOR = 0.1


def adapt(x: Any, kind: str, block_size: int = 4) -> Any:
    """Puts an adaptation network behind a tensor of images.

    Args:
        x: images between 0 and 1, `(batch, height, width, channels)`.
        kind: "none" leaves them. "tanaka" is the one of Tanaka 2018: all blocks share their
            convolutions. "le" is the simpler one behind the published figures of LE (Madono et
            al., arXiv 2001.07761): one shared convolution. "ele" is theirs for ELE: each block has
            its own weights and a learned matrix mixes the blocks, with a penalty that draws it
            towards a permutation and one on the variation of the output. How the variation is
            averaged is not printed; here it is the mean over all places and channels.
        block_size: int, of the encryption.

    Returns:
        `(batch, height, width, 16)`, with "tanaka" 32 channels, or x itself.

    Raises:
        InputError: if `kind` is not known or the sides are not multiples of `block_size`.
    """
    _validate.one_of(ADAPTATIONS, adaptation=kind)
    if kind == "none":
        return x
    size = _validate.positive_int(block_size=block_size)
    height, width = x.shape[1:3]
    if height % size or width % size:
        raise InputError(
            f"image_shape must have sides divisible by block_size={size}, got {height}x{width}."
        )
    return {"le": _shared, "tanaka": _tanaka, "ele": _per_block}[kind](x, size)


def _shared(x: Any, size: int) -> Any:
    x = batch_norm(conv(x, _CHANNELS * size**2, size, size, use_bias=True))
    x = keras.layers.LeakyReLU(0.1)(x)
    return PixelShuffle(size, name="pixel_shuffle")(x)


def _tanaka(x: Any, size: int) -> Any:
    values = size**2 * x.shape[-1]
    x = keras.layers.ReLU()(conv(batch_norm(x), values, size, size, use_bias=True))
    x = keras.layers.ReLU()(conv(batch_norm(x), values, 1, use_bias=True))
    x = conv(batch_norm(x), 2 * _CHANNELS * size**2, 1, use_bias=True)
    return PixelShuffle(size, name="pixel_shuffle")(x)


def _per_block(x: Any, size: int) -> Any:
    rows, columns = x.shape[1] // size, x.shape[2] // size
    width = _CHANNELS * size**2
    x = BlockwiseConv(size, width, name="block_projection")(x)
    # Every block has its own statistics, as it has its own convolution.
    x = batch_norm(keras.layers.Reshape((rows * columns * width,))(x))
    x = keras.layers.LeakyReLU(0.2)(keras.layers.Reshape((rows * columns, width))(x))
    x = BlockMixing(_MATRIX_FACTOR, name="block_mixing")(x)
    x = keras.layers.Reshape((rows, columns, width))(x)
    return PixelShuffle(size, _VARIATION_FACTOR, name="pixel_shuffle")(x)
