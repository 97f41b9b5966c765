"""ViT-B/16 of KerasHub."""

from typing import Any

from keras_dpvit.errors import InputError
from keras_dpvit.models.backbone import check_image_shape

IMAGENET_21K = "vit_base_patch16_224_imagenet21k"


def vit_b16(
    num_classes: int,
    preset: str | None = IMAGENET_21K,
    image_shape: tuple[int, int, int] = (224, 224, 3),
    patch_size: int = 16,
    num_layers: int = 12,
    num_heads: int = 12,
    hidden_dim: int = 768,
    mlp_dim: int = 3072,
) -> Any:
    """A `keras_hub.models.ViTImageClassifier` without preprocessor; sizes of ViT-B/16.

    Source: Dosovitskiy et al., ICLR 2021.

    Args:
        num_classes: int.
        preset: name of a KerasHub preset, whose weights are downloaded and whose sizes count; None
            starts from random weights with the sizes below.
        image_shape: (height, width, channels), pixels scaled to -1..1 by the caller.
        patch_size: int.
        num_layers: int.
        num_heads: int.
        hidden_dim: int.
        mlp_dim: int.

    Raises:
        InputError: if KerasHub is not installed.
    """
    try:
        import keras_hub
    except ImportError as error:
        raise InputError("ViT-B/16 needs KerasHub: pip install keras-hub.") from error
    if preset is not None:
        backbone = keras_hub.models.ViTBackbone.from_preset(preset)
    else:
        backbone = keras_hub.models.ViTBackbone(
            image_shape=check_image_shape(image_shape),
            patch_size=patch_size,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            mlp_dim=mlp_dim,
        )
    return keras_hub.models.ViTImageClassifier(backbone=backbone, num_classes=num_classes)
