"""One long vector of an image's features for a linear head, as functional Keras calls."""

from typing import Any

import keras

from keras_dpvit.errors import InputError
from keras_dpvit.layers.whitening import JoinedFeatures, WhitenedFeatures
from keras_dpvit.models.backbone import DPViTBackbone

HEADS = ("pooled", "flattened", "whitened")


def feature_vector(
    images: Any,
    backbone: DPViTBackbone,
    head: str,
    whitening_rank: int,
    head_blocks: list[str] | None,
    mirrored: bool,
) -> Any:
    """The input of the logits layer under a "flattened" or "whitened" head.

    Tokens are normalised one by one, without parameters, and laid side by side. A whitened head
    does the same with everything that the backbone gives (features, tokens of each stage), whitens
    each of these blocks (`WhitenedFeatures`) and joins them.

    Args:
        images: Keras tensor `(batch, height, width, channels)`.
        backbone: a `DPViTBackbone`.
        head: "flattened" or "whitened".
        whitening_rank: int, see `WhitenedFeatures`.
        head_blocks: names of the blocks that a whitened head reads; None for all.
        mirrored: bool, the mean of the features of an image and of its mirror image.

    Returns:
        Keras tensor `(batch, width)`.

    Raises:
        InputError: if the backbone gives no such block; the message lists those that it gives.
    """
    given = sorted(backbone.output) if isinstance(backbone.output, dict) else ["tokens"]
    names = list(given if head_blocks is None else head_blocks)
    if not names or not set(names) <= set(given) or len(set(names)) < len(names):
        raise InputError(
            f"head_blocks must be some of {', '.join(given)}, each once, got {head_blocks}."
        )
    blocks = _flat_blocks(backbone, ["tokens"] if head == "flattened" else sorted(names))
    flat = (MirrorAverage(blocks, name="mirror") if mirrored else blocks)(images)
    if head == "flattened":
        return flat["tokens"]
    dtype = "float32"
    white = [
        WhitenedFeatures(whitening_rank, name=f"whitened_{name}", dtype=dtype)(block)
        for name, block in flat.items()
    ]
    return JoinedFeatures(name="joined_features", dtype=dtype)(white)


def _flat_blocks(backbone: DPViTBackbone, names: list[str]) -> Any:
    """The model from images to flat vectors by name."""
    dtype, images = backbone.dtype_policy, keras.Input(backbone.image_shape, name="images")
    outputs, flat = backbone(images), {}
    outputs = outputs if isinstance(outputs, dict) else {"tokens": outputs}
    for name in names:
        x = outputs[name]
        if name != "features":  # wavelet features are normalised already, over groups of channels
            x = keras.layers.LayerNormalization(
                center=False, scale=False, name=f"normalized_{name}", dtype=dtype
            )(x)
        flat[name] = keras.layers.Flatten(name=f"flat_{name}", dtype=dtype)(x)
    return keras.Model(images, flat, name="blocks")


@keras.saving.register_keras_serializable(package="keras_dpvit")
class MirrorAverage(keras.Model):
    """The mean of a network's outputs for an image and for its mirror image.

    In training the network is called twice, so that each row of each layer is one record's, as
    the gradients of single records need. Otherwise it is called once, on the images and behind them
    their mirror images: an export then holds the network, and its constants, once. No row depends
    on another row's image in either way.

    Args:
        network: a model of images that returns a dict of tensors, the batch first.

    Input shape: `(batch, height, width, channels)`; output shapes: the network's.
    """

    def __init__(self, network: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = network

    def call(self, images: Any, training: bool | None = None) -> dict[str, Any]:
        turned = keras.ops.flip(images, axis=2)
        if training:
            first, second = (self.network(x, training=True) for x in (images, turned))
            return {name: (first[name] + second[name]) / 2 for name in first}
        both = self.network(keras.ops.concatenate([images, turned], axis=0), training=training)
        return {name: _mean_of_halves(x) for name, x in both.items()}

    def get_config(self) -> dict[str, Any]:
        network = keras.saving.serialize_keras_object(self.network)
        return {"name": self.name, "network": network}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "MirrorAverage":
        network = keras.saving.deserialize_keras_object(
            config["network"], custom_objects=custom_objects
        )
        return cls(network, name=config["name"])


def _mean_of_halves(x: Any) -> Any:
    return keras.ops.mean(keras.ops.reshape(x, (2, -1, *x.shape[1:])), axis=0)
