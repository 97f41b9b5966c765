"""The layers that hold patches and places, and the models that cannot be transformed.

The rooms of models are imported inside functions: `encryption` stands alone until it is handed a
model, and then knows whose it is by its class.
"""

import dataclasses
from typing import Any

import numpy as np

from keras_dpvit.encryption.blocks import Shape
from keras_dpvit.encryption.patch_moves import PatchMoves, sources
from keras_dpvit.encryption.vit_block import ViTBlockCipher
from keras_dpvit.errors import InputError


@dataclasses.dataclass
class KeyedPart:
    """The variables of one transformer that a key moves.

    Attributes:
        image_shape: (height, width, channels).
        patch_size: int.
        projection: variable whose values, as `(patch values, width)`, weigh a patch's values, row
            by row and channels fastest.
        positions: variables `(leading + patches, width)`.
        leading: int, positions before the patches' own: a class token's.
        scaling: None, or a function of images `(batch, height, width, channels)` before the model.
    """

    image_shape: Shape
    patch_size: int
    projection: Any
    positions: list[Any]
    leading: int = 0
    scaling: Any = None

    def apply(self, moves: PatchMoves) -> None:
        """Moves the weights as the cipher moves the images."""
        import keras

        kernel = keras.ops.convert_to_numpy(self.projection)
        rows = kernel.reshape(len(moves.shuffle), -1)[moves.shuffle]
        self.projection.assign(rows.reshape(kernel.shape))
        for table in self.positions:
            values = keras.ops.convert_to_numpy(table)
            head, rest = values[: self.leading], values[self.leading :]
            table.assign(np.concatenate([head, rest[moves.order]]))

    def check_cipher(self, cipher: ViTBlockCipher) -> None:
        """Raises InputError if what stands before the model does not commute with the cipher.

        It is tried on one image of noise: scaling by channel commutes with pixels that move whole
        and not with values that change channels; resizing commutes with neither.
        """
        if self.scaling is None:
            return
        image = np.random.default_rng(0).integers(0, 256, (1, *self.image_shape), dtype=np.uint8)
        first = np.asarray(self.scaling(cipher.encrypt(image)))
        moved = np.asarray(self.scaling(image))
        if moved.shape[1:] == tuple(self.image_shape):
            index = sources(cipher, self.image_shape)
            moved = moved.reshape(1, -1)[:, index.reshape(-1)].reshape(moved.shape)
        if first.shape != moved.shape or not np.allclose(first, moved, atol=1e-5):
            raise InputError(
                "model must have a preprocessor that treats all places alike, and all channels "
                'alike under channels="independent": its own resizes or scales channels apart.'
            )


def copy_of(model: Any) -> Any:
    """A model of the same class, config, weights and privacy ledger, not compiled."""
    if _is_fused(model):
        members = [copy_of(member) for member in model.members]
        return type(model)(members, model.members_data, name=model.name)
    if _is_wrapper(model):
        new = type(model)(copy_of(model.network), model.trainable_part, name=model.name)
    else:
        new = _built_like(model)
        new.set_weights(model.get_weights())
    if hasattr(model, "privacy_ledger"):
        new.start_from(model.privacy_ledger, model.privacy_notes)
    return new


def _built_like(model: Any) -> Any:
    config = model.get_config()
    backbone = getattr(model, "backbone", None)
    if _is_hub(model) and backbone is not None:
        # KerasHub's config of the backbone leaves these two out.
        inner = {
            **backbone.get_config(),
            "use_patch_bias": backbone.use_patch_bias,
            "data_format": backbone.data_format,
        }
        config["backbone"] = type(backbone).from_config(inner)
    return type(model).from_config(config)


def holders_of(model: Any) -> list[Any]:
    """The models that are told the id of the key: itself, or the members of a fused one."""
    return list(model.members) if _is_fused(model) else [model]


def kid_of(model: Any) -> str | None:
    """The id of the key that a model is under, where it names one.

    KerasHub's models keep it in memory and in no file.
    """
    return next((getattr(each, "encryption_kid", None) for each in holders_of(model)), None)


def started_from_outside(model: Any) -> bool:
    """True if the weights may have started from public ones: a preset's, or others without ledger.

    Told by the class for KerasHub's models and by the privacy notes for ours.
    """
    each = holders_of(model)
    inner = [one.network if _is_wrapper(one) else one for one in each]
    return any(map(_is_hub, inner)) or any(getattr(one, "privacy_notes", ()) for one in each)


def parts_of(model: Any) -> list[KeyedPart]:
    """The transformers of a model.

    Raises:
        InputError: if the output depends on places by more than the position table, or the model
            is of another class.
    """
    if _is_fused(model):
        return [part for member in model.members for part in parts_of(member)]
    if _is_wrapper(model):
        return parts_of(model.network)
    if _is_ours(model):
        return [_our_part(model.backbone)]
    if _is_hub(model):
        return [_hub_part(model)]
    raise InputError(
        "model must be a DPViTClassifier, a FusedClassifier or KerasHub's ViTImageClassifier, "
        f"got {type(model).__name__}."
    )


def _is_ours(model: Any) -> bool:
    from keras_dpvit.models.classifier import DPViTClassifier

    return isinstance(model, DPViTClassifier)


def _is_fused(model: Any) -> bool:
    from keras_dpvit.models.fused import FusedClassifier

    return isinstance(model, FusedClassifier)


def _is_wrapper(model: Any) -> bool:
    return hasattr(model, "privacy_ledger") and hasattr(model, "network")


def _is_hub(model: Any) -> bool:
    """True for KerasHub's classifier, told by names: KerasHub need not be installed."""
    kinds = [c for c in type(model).__mro__ if c.__module__.startswith("keras_hub.")]
    return any(kind.__name__ == "ViTImageClassifier" for kind in kinds)


# Layers of the backbone that treat all places alike, or are dealt with by the key.
_OUR_LAYERS = (
    "InputLayer",
    "ImageStandardization",
    "Rescaling",
    "PatchEmbedding",
    "PositionTable",
    "TransformerBlock",
)
_REASONS = {
    "ConvStem": 'a convolution looks across patches: conv_module must be "none"',
    "TokenDepthwiseConv": 'a convolution looks across patches: conv_module must be "none"',
    "ConvBranch": 'a convolution looks across patches: conv_module must be "none"',
    "ScatteringTransform": 'wavelets look across patches: features must be "pixels"',
    "TokenMaxPooling": "pooling joins neighbours in raster order: stage_depths must name one stage "
    "and pool_first_stage be False",
    "ThresholdAttention": "its position gate is made of the distances between places, and holding "
    'them in the key\'s order would write the key into the model: first_attention must be "self"',
}


def _our_part(backbone: Any) -> KeyedPart:
    inside = {type(layer).__name__: layer for layer in backbone.layers}
    names = [type(layer).__name__ for layer in backbone.layers]
    names += [type(block.attention).__name__ for block in backbone.blocks]
    if isinstance(backbone.output, dict):
        names.append("ConvBranch")
    for name in names:
        if name in _REASONS:
            raise InputError(f"model cannot be transformed, for {_REASONS[name]}.")
        if name not in (*_OUR_LAYERS, "SelfAttention"):
            raise InputError(f"model cannot be transformed: nothing is known about {name}.")
    embedding = inside["PatchEmbedding"]
    tables = [layer.table for layer in backbone.layers if type(layer).__name__ == "PositionTable"]
    return KeyedPart(
        backbone.image_shape, embedding.patch_size, embedding.projection.kernel, tables
    )


def _hub_part(model: Any) -> KeyedPart:
    backbone = model.backbone
    if backbone.data_format != "channels_last":
        raise InputError("model must have channels last.")
    height, width = backbone.patch_size
    if height != width:
        raise InputError(f"model must have square patches, got {height}x{width}.")
    pooled = model.pooling == "gap" or (model.pooling == "token" and backbone.use_class_token)
    if not pooled:
        raise InputError(
            'model must answer from its class token or the mean of its tokens (pooling="gap"): its '
            "output is taken from tokens that stand for places."
        )
    layer = backbone.get_layer("vit_patching_and_embedding")
    rows, columns, channels = backbone.image_shape
    return KeyedPart(
        (rows, columns, channels),
        height,
        layer.patch_embedding.kernel,
        [layer.position_embedding.embeddings],
        leading=int(backbone.use_class_token),
        scaling=model.preprocessor,
    )
