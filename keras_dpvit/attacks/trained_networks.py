"""Networks of the learned attacks: what turns ciphertexts into images, and what judges images.

All of them take pixels 0..255. Widths are arguments; the defaults are the published ones.
"""

from typing import Any

import keras
from keras import ops

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.models.backbone import check_image_shape
from keras_dpvit.models.networks import BlockMixing, BlockwiseConv, PixelShuffle
from keras_dpvit.models.networks.building_blocks import batch_norm

# What the blocks of a ciphertext are read with.
ADAPTATIONS = ("none", "shared", "per_block", "mixed", "per_block_mixed")

_CHANNELS = 16  # behind the pixel shuffle of SIA-GAN
_SLOPE = 0.1


def unet(
    image_shape: tuple[int, int, int],
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024),
    adaptation: str = "none",
    block_size: int = 4,
    weight_decay: float = 0.0,
) -> Any:
    """U-Net: two convolutions at each scale, halving and doubling, with connections across.

    Source: Ronneberger et al., MICCAI 2015; widths as in Ito et al., GCCE 2020.

    Args:
        image_shape: (height, width, channels); sides divisible by 2^(len(widths) - 1).
        widths: channels at each scale, the finest first.
        adaptation: one of `ADAPTATIONS`, how blocks are read in front of it.
        block_size: int, of the encryption; only for an adaptation.
        weight_decay: float, L2 factor of the gradients of all kernels.

    Returns:
        `keras.Model` from pixels 0..255 to images in [0, 1].

    Raises:
        InputError: if sizes do not fit.
    """
    height, width, channels = shape = check_image_shape(image_shape)
    scale = 2 ** (len(widths) - 1)
    if height % scale or width % scale:
        raise InputError(
            f"image_shape must have sides divisible by {scale} for {len(widths)} widths, got "
            f"{height}x{width}."
        )
    images, x = _scaled_input(shape)
    if adaptation != "none":
        x = read_blocks(x, adaptation, block_size, _CHANNELS * block_size**2)
        x = PixelShuffle(block_size)(keras.layers.LeakyReLU(_SLOPE)(x))
    across = []
    for index, filters in enumerate(widths):
        if index:
            across.append(x)
            x = keras.layers.MaxPooling2D(2)(x)
        x = _double(x, filters, weight_decay)
    for filters, other in zip(reversed(widths[:-1]), reversed(across), strict=True):
        x = keras.layers.Conv2DTranspose(
            filters, 2, strides=2, kernel_regularizer=_decay(weight_decay)
        )(x)
        x = _double(keras.layers.Concatenate()([other, x]), filters, weight_decay)
    x = _conv(x, channels, 1, decay=weight_decay)
    return keras.Model(images, keras.layers.Activation("sigmoid")(x), name="unet")


def block_stack(
    image_shape: tuple[int, int, int],
    widths: tuple[int, ...] = (48, 48, 512),
    adaptation: str = "shared",
    block_size: int = 4,
    activation: str = "sigmoid",
    weight_decay: float = 0.0,
) -> Any:
    """Reads each block, works on it with 1x1 convolutions, and spreads it over its pixels.

    The lab's generator: a convolution of the block's size and stride, 1x1 convolutions, a pixel
    shuffle and a last 1x1 convolution. For `PixelEncryption` the blocks are pixels and the
    published widths 64, 128, 256.

    Args:
        image_shape: (height, width, channels), sides divisible by `block_size`.
        widths: channels of the convolutions before the pixel shuffle; the last must be divisible
            by `block_size^2`.
        adaptation: one of `ADAPTATIONS` but "none"; "shared" is the published form.
        block_size: int, of the encryption.
        activation: "sigmoid" for images in [0, 1], "tanh" for images in [-1, 1].
        weight_decay: float, L2 factor of the gradients of the 1x1 kernels.

    Returns:
        `keras.Model` from pixels 0..255 to images.

    Raises:
        InputError: if sizes do not fit.
    """
    shape = check_image_shape(image_shape)
    images, x = _scaled_input(shape)
    x = keras.layers.ReLU()(read_blocks(x, adaptation, block_size, widths[0], spectral=False))
    for filters in widths[1:]:
        x = _conv(x, filters, 1, bias=False, decay=weight_decay)
        x = keras.layers.ReLU()(batch_norm(x))
    x = PixelShuffle(block_size)(x)
    x = _conv(x, shape[2], 1, decay=weight_decay)
    return keras.Model(images, keras.layers.Activation(activation)(x), name="block_stack")


def sia_generator(
    image_shape: tuple[int, int, int],
    width: int = 64,
    residual_blocks: int = 3,
    adaptation: str = "per_block",
    block_size: int = 4,
) -> Any:
    """The generator of SIA-GAN: adaptation to blocks, pixel shuffle, residual blocks.

    Every convolution is spectrally normalised; 1.09 million weights as published, at 32x32x3.
    Source: Madono et al., "SIA-GAN", 2021.

    Args:
        image_shape: (height, width, channels), sides divisible by `block_size`.
        width: int, channels of the residual blocks.
        residual_blocks: int.
        adaptation: one of `ADAPTATIONS` but "none"; "per_block" is the published form, whose
            weights grow with the number of blocks.
        block_size: int, of the encryption; 1 for `PixelEncryption`.

    Returns:
        `keras.Model` from pixels 0..255 to images in [-1, 1].

    Raises:
        InputError: if sizes do not fit.
    """
    shape = check_image_shape(image_shape)
    images, x = _scaled_input(shape)
    x = read_blocks(x, adaptation, block_size, _CHANNELS * block_size**2)
    x = PixelShuffle(block_size)(keras.layers.LeakyReLU(_SLOPE)(x))
    x = _normalised(x, width)
    for _ in range(residual_blocks):
        change = batch_norm(_spectral_conv(_normalised(x, width), width, 3))
        x = keras.layers.Add()([x, change])
    x = _normalised(x, width)
    x = _spectral_conv(x, shape[2], 3)
    return keras.Model(images, keras.layers.Activation("tanh")(x), name="sia_generator")


def sia_discriminator(
    image_shape: tuple[int, int, int], widths: tuple[int, ...] = (128, 256, 512, 1024)
) -> Any:
    """The discriminator of SIA-GAN: convolutions, self-attention, spectral norm throughout.

    13.4 million weights as published, at 32x32x3. Source: as `sia_generator`.

    Args:
        image_shape: (height, width, channels) of natural images.
        widths: channels of the stages that halve the sides, then of the last convolution.

    Returns:
        `keras.Model` from images in [-1, 1] to one score each, `(batch, 1)`.
    """
    images = keras.Input(check_image_shape(image_shape), name="images")
    x = images
    for filters in widths[:-1]:
        for size, stride in ((3, 1), (4, 2)):
            x = _spectral_conv(x, filters, size, stride, bias=True)
            x = keras.layers.LeakyReLU(_SLOPE)(x)
    x = FeatureAttention(name="attention")(x)
    x = _spectral_conv(x, widths[-1], 3, bias=True)
    x = FeatureAttention(name="last_attention")(keras.layers.LeakyReLU(_SLOPE)(x))
    x = keras.layers.Flatten()(x)
    scores = keras.layers.SpectralNormalization(keras.layers.Dense(1))(x)
    return keras.Model(images, scores, name="sia_discriminator")


def dcgan_discriminator(
    image_shape: tuple[int, int, int], widths: tuple[int, int] = (64, 128)
) -> Any:
    """The lab's discriminator: two halving convolutions, one score for each place, the largest.

    Args:
        image_shape: (height, width, channels) of natural images.
        widths: channels of the two convolutions; the second is spectrally normalised.

    Returns:
        `keras.Model` from images in [-1, 1] to one logit each, `(batch, 1)`.
    """
    images = keras.Input(check_image_shape(image_shape), name="images")
    x = keras.layers.LeakyReLU(0.2)(_conv(images, widths[0], 4, 2))
    x = keras.layers.LeakyReLU(0.2)(_spectral_conv(x, widths[1], 4, 2, bias=True))
    x = keras.layers.GlobalMaxPooling2D(keepdims=True)(_conv(x, 1, 4))
    return keras.Model(images, keras.layers.Flatten()(x), name="dcgan_discriminator")


def small_classifier(num_classes: int, image_shape: tuple[int, int, int], width: int = 16) -> Any:
    """Three halving convolutions and a dense layer, from pixels 0..255 to logits.

    Args:
        num_classes: int.
        image_shape: (height, width, channels).
        width: int, channels of the first convolution; doubled twice.
    """
    images, x = _scaled_input(check_image_shape(image_shape))
    for filters in (width, 2 * width, 4 * width):
        x = keras.layers.ReLU()(batch_norm(_conv(x, filters, 4, 2, bias=False)))
    logits = keras.layers.Dense(num_classes)(keras.layers.Flatten()(x))
    return keras.Model(images, logits, name="small_classifier")


def read_blocks(
    x: Any, adaptation: str, block_size: int, filters: int, spectral: bool = True
) -> Any:
    """One vector for each block of an image, batch normalised.

    Args:
        x: `(batch, height, width, channels)`.
        adaptation: "shared" reads all blocks with the same weights, "per_block" each with its
            own; "mixed" and "per_block_mixed" then mix the blocks by a learned matrix, which can
            undo a permutation of blocks.
        block_size: int.
        filters: int, length of a vector.
        spectral: bool, whether shared weights are spectrally normalised; each block's own are.

    Returns:
        `(batch, height / block_size, width / block_size, filters)`.

    Raises:
        InputError: if the adaptation is not known or the sides are not multiples of the block.
    """
    _validate.one_of(ADAPTATIONS[1:], adaptation=adaptation)
    size = _validate.positive_int(block_size=block_size)
    height, width = x.shape[1:3]
    if height % size or width % size:
        raise InputError(
            f"image_shape must have sides divisible by block_size={size}, got {height}x{width}."
        )
    rows, columns = height // size, width // size
    if adaptation.startswith("per_block"):
        x = BlockwiseConv(size, filters)(x)
        # Every block has its own statistics, as it has its own weights.
        x = batch_norm(keras.layers.Reshape((rows * columns * filters,))(x))
    else:
        layer = keras.layers.Conv2D(
            filters, size, strides=size, use_bias=False, kernel_initializer="he_normal"
        )
        x = batch_norm((keras.layers.SpectralNormalization(layer) if spectral else layer)(x))
    if adaptation.endswith("mixed"):
        x = BlockMixing()(keras.layers.Reshape((rows * columns, filters))(x))
    return keras.layers.Reshape((rows, columns, filters))(x)


@keras.saving.register_keras_serializable(package="keras_dpvit")
class FeatureAttention(keras.layers.Layer):
    """Attention between all places of a feature map, added with a learned factor that starts at 0.

    `y = x + gamma * softmax(q k^T) v`, with q and k of an eighth of the channels; all three are
    spectrally normalised 1x1 convolutions. Source: Zhang et al. (SAGAN), ICML 2019.

    Input and output shape:
        `(batch, height, width, channels)`.
    """

    def build(self, input_shape: Any) -> None:
        channels = input_shape[-1]
        narrow = max(1, channels // 8)
        self.projections = [
            keras.layers.SpectralNormalization(keras.layers.Conv2D(filters, 1, name=name))
            for name, filters in (("query", narrow), ("key", narrow), ("value", channels))
        ]
        for projection in self.projections:
            projection.build(input_shape)
        self.gamma = self.add_weight(name="gamma", shape=(), initializer="zeros")

    def call(self, x: Any, training: bool | None = None) -> Any:
        _, height, width, channels = x.shape
        query, key, value = (
            ops.reshape(p, (-1, height * width, p.shape[-1]))
            for p in (projection(x, training=bool(training)) for projection in self.projections)
        )
        weights = ops.softmax(ops.einsum("bqc,bkc->bqk", query, key), axis=-1)
        attended = ops.einsum("bqk,bkc->bqc", weights, value)
        return x + self.gamma * ops.reshape(attended, (-1, height, width, channels))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


def _scaled_input(image_shape: tuple[int, int, int]) -> tuple[Any, Any]:
    """The input, pixels 0..255, and the same between -1 and 1."""
    images = keras.Input(image_shape, name="images")
    return images, keras.layers.Rescaling(1 / 127.5, -1.0)(images)


def _double(x: Any, filters: int, decay: float) -> Any:
    for _ in range(2):
        x = keras.layers.ReLU()(batch_norm(_conv(x, filters, 3, bias=False, decay=decay)))
    return x


def _normalised(x: Any, filters: int) -> Any:
    return keras.layers.LeakyReLU(_SLOPE)(batch_norm(_spectral_conv(x, filters, 3)))


def _spectral_conv(x: Any, filters: int, size: int, stride: int = 1, bias: bool = False) -> Any:
    layer = keras.layers.Conv2D(filters, size, strides=stride, padding="same", use_bias=bias)
    return keras.layers.SpectralNormalization(layer)(x)


def _conv(
    x: Any, filters: int, size: int, stride: int = 1, bias: bool = True, decay: float = 0.0
) -> Any:
    return keras.layers.Conv2D(
        filters,
        size,
        strides=stride,
        padding="same",
        use_bias=bias,
        kernel_initializer="he_normal",
        kernel_regularizer=_decay(decay),
    )(x)


def _decay(factor: float) -> Any:
    """A penalty whose gradient is `factor` times the kernel, so that it enters the momentum."""
    return keras.regularizers.L2(factor / 2) if factor else None
