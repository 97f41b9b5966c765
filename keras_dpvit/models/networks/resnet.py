"""ResNet-18 in the form for small images."""

from typing import Any

import keras

from keras_dpvit import _validate
from keras_dpvit.models.backbone import check_image_shape
from keras_dpvit.models.networks.building_blocks import (
    batch_norm,
    classifier,
    conv,
    image_input,
)


def resnet18(
    num_classes: int,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    width: int = 64,
    name: str = "resnet18",
) -> Any:
    """ResNet-18 with a 3x3 stem of stride 1 and without the first pooling.

    Four stages of two basic blocks, `width` channels in the first and twice as many in each that
    follows; projections where the shape changes. 11,173,962 trainable parameters for 10 classes.
    Source: He et al., CVPR 2016.

    Args:
        num_classes: int.
        image_shape: (height, width, channels); pixels 0..255.
        width: int, channels of the first stage; 64 is the published one.
        name: of the model.

    Returns:
        `keras.Model` from images to logits.

    Raises:
        InputError: on sizes that are not whole numbers above 0.
    """
    _validate.positive_int(num_classes=num_classes)
    _validate.positive_int(width=width)
    images, x = image_input(check_image_shape(image_shape))
    x = keras.layers.ReLU()(batch_norm(conv(x, width, 3)))
    for stage in range(4):
        for index in range(2):
            x = _basic_block(x, width * 2**stage, stride=2 if stage and not index else 1)
    return classifier(images, x, num_classes, name)


def _basic_block(x: Any, filters: int, stride: int) -> Any:
    shortcut = x
    if stride > 1 or x.shape[-1] != filters:
        if stride > 1:
            # A strided 1x1 convolution takes every second place. Written out, for oneDNN's own
            # backward pass of it writes outside of its memory where channels are few.
            shortcut = keras.layers.MaxPooling2D(1, strides=stride)(x)
        shortcut = keras.layers.Conv2D(filters, 1, use_bias=False, kernel_initializer="he_normal")(
            shortcut
        )
        shortcut = batch_norm(shortcut)
    x = keras.layers.ReLU()(batch_norm(conv(x, filters, 3, stride)))
    x = batch_norm(conv(x, filters, 3))
    return keras.layers.ReLU()(keras.layers.Add()([x, shortcut]))
