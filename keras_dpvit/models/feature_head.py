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
    blocks = _Blocks(backbone, ["tokens"] if head == "flattened" else sorted(names))
    flat = blocks(images)
    if mirrored:
        turned = blocks(keras.ops.flip(images, axis=2))
        flat = {
            name: keras.layers.Average(name=f"both_{name}", dtype=backbone.dtype_policy)(
                [block, turned[name]]
            )
            for name, block in flat.items()
        }
    if head == "flattened":
        return flat["tokens"]
    dtype = "float32"
    white = [
        WhitenedFeatures(whitening_rank, name=f"whitened_{name}", dtype=dtype)(block)
        for name, block in flat.items()
    ]
    return JoinedFeatures(name="joined_features", dtype=dtype)(white)


class _Blocks:
    """Flat vectors by name, of one or another batch of images."""

    def __init__(self, backbone: DPViTBackbone, names: list[str]) -> None:
        self._backbone, self._names = backbone, names
        dtype = backbone.dtype_policy
        self._layers = {
            name: (
                keras.layers.LayerNormalization(
                    center=False, scale=False, name=f"normalized_{name}", dtype=dtype
                ),
                keras.layers.Flatten(name=f"flat_{name}", dtype=dtype),
            )
            for name in self._names
        }

    def __call__(self, images: Any) -> dict[str, Any]:
        outputs = self._backbone(images)
        outputs = outputs if isinstance(outputs, dict) else {"tokens": outputs}
        flat = {}
        for name in self._names:
            normalize, flatten = self._layers[name]
            # Wavelet features are normalised already, over groups of channels.
            block = outputs[name] if name == "features" else normalize(outputs[name])
            flat[name] = flatten(block)
        return flat
