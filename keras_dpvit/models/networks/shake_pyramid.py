"""ShakePyramidNet: PyramidNet with ShakeDrop, behind an adaptation network or not."""

import math
from typing import Any

import keras
from keras import ops

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.models.backbone import check_image_shape
from keras_dpvit.models.networks.adaptation import ADAPTATIONS, adapt
from keras_dpvit.models.networks.building_blocks import (
    batch_norm,
    classifier,
    conv,
    image_input,
)
from keras_dpvit.models.networks.shake_drop import ShakeDrop

_STAGES = 3
_STEM = 16


@keras.saving.register_keras_serializable(package="keras_dpvit")
class ZeroChannels(keras.layers.Layer):
    """Appends channels of zeros, so that a narrower shortcut can be added to a wider branch.

    Args:
        channels: int, how many there are afterwards.

    Input shape:
        `(..., channels in)`.

    Output shape:
        `(..., channels)`.
    """

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = _validate.positive_int(channels=channels)

    def call(self, x: Any) -> Any:
        more = self.channels - x.shape[-1]
        return ops.pad(x, ((0, 0),) * (len(x.shape) - 1) + ((0, more),))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape[:-1], self.channels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "channels": self.channels}


def _check_sizes(shape: tuple[int, int, int], depth: int, final_survival: float) -> None:
    if shape[0] % 4 or shape[1] % 4:
        raise InputError(f"image_shape must have sides that are multiples of 4, got {shape}.")
    if depth < 8 or (depth - 2) % 6:
        raise InputError(f"depth must be 6 n + 2 with n above 0, got {depth}.")
    if not 0 <= final_survival <= 1:
        raise InputError(f"final_survival must be in [0, 1], got {final_survival!r}.")


def shake_pyramid_net(
    num_classes: int,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    depth: int = 110,
    alpha: int = 270,
    final_survival: float = 0.5,
    adaptation: str = "none",
    block_size: int = 4,
    seed: int | None = None,
    name: str = "shake_pyramid_net",
) -> Any:
    """PyramidNet of basic blocks with ShakeDrop; 28.5 million parameters as published.

    Unit i of n (from 1) has `16 + ceil(alpha * i / n)` channels and survives with probability
    `1 - (1 - final_survival) * i / n`. A unit is BN, convolution, BN, ReLU, convolution, BN; the
    shortcut has no parameters. Sources: Han, Kim, Kim, CVPR 2017; Yamada et al., arXiv 1802.02375;
    sizes as in Madono et al., arXiv 2001.07761.

    Args:
        num_classes: int.
        image_shape: (height, width, channels), sides multiples of 4; pixels 0..255.
        depth: int, `6 n + 2` with n units in each of the three stages.
        alpha: int, by how many channels the network widens in all.
        final_survival: float in [0, 1], of the last unit.
        adaptation: what undoes the encryption in front; see `adaptation.adapt`.
        block_size: int, of the encryption, for `adaptation`.
        seed: int or None, of ShakeDrop.
        name: of the model.

    Returns:
        `keras.Model` from images to logits.

    Raises:
        InputError: on sizes that do not fit.
    """
    _validate.positive_int(num_classes=num_classes)
    _validate.positive_int(alpha=alpha)
    _validate.one_of(ADAPTATIONS, adaptation=adaptation)
    shape = check_image_shape(image_shape)
    _check_sizes(shape, depth, final_survival)
    images, x = image_input(shape)
    x = adapt(x, adaptation, block_size)
    x = batch_norm(conv(x, _STEM, 3))
    units = (depth - 2) // 2
    for index in range(1, units + 1):
        stage, place = divmod(index - 1, units // _STAGES)
        x = _unit(
            x,
            _STEM + math.ceil(alpha * index / units),
            stride=2 if stage and not place else 1,
            survival=1 - (1 - final_survival) * index / units,
            seed=None if seed is None else seed + index,
        )
    x = keras.layers.ReLU()(batch_norm(x))
    return classifier(images, x, num_classes, name)


def _unit(x: Any, filters: int, stride: int, survival: float, seed: int | None) -> Any:
    shortcut = keras.layers.AveragePooling2D(stride)(x) if stride > 1 else x
    shortcut = ZeroChannels(filters)(shortcut)
    x = conv(batch_norm(x), filters, 3, stride)
    x = conv(keras.layers.ReLU()(batch_norm(x)), filters, 3)
    x = ShakeDrop(survival, seed=seed)(batch_norm(x))
    return keras.layers.Add()([x, shortcut])
