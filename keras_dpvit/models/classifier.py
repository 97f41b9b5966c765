"""DPViTClassifier: a backbone, average pooling and logits, and the CONV branch beside them."""

from typing import Any

import keras
import numpy as np

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.layers.convolution import ConvBranch
from keras_dpvit.layers.normalization import DPLayerNormalization
from keras_dpvit.models import synthetic_weights
from keras_dpvit.models.backbone import DPViTBackbone, deserialized_dtype
from keras_dpvit.models.feature_head import HEADS, feature_vector
from keras_dpvit.models.linear_head import linear_head
from keras_dpvit.models.presets import preset_head
from keras_dpvit.models.private_model import PrivatelyTrainable


@keras.saving.register_keras_serializable(package="keras_dpvit")
class DPViTClassifier(PrivatelyTrainable, keras.Model):
    """An image classifier over a `DPViTBackbone`: mean of the tokens, then one linear layer.

    There is no normalisation before the head (the paper's "without layer normalization") unless
    asked for. Over a backbone with `conv_module="parallel"`, the logits of a `ConvBranch` on the
    same features are added: eq 8's CONV(x) + ViT(x). Compiled with `DPKerasAdamOptimizer` or
    `DPKerasSGDOptimizer`, `fit(x, y)` trains it privately.

    Args:
        backbone: a `DPViTBackbone`.
        num_classes: int, at least 2.
        final_norm: bool, layer normalisation of the tokens before they are averaged (HVT).
        head_hidden_dim: int or None, width of a hidden layer with GELU in a pooled head.
        head: "pooled", the mean of the tokens; "flattened", every token normalised without
            parameters, side by side; "whitened", wavelet features and the tokens of every depth,
            whitened block by block by fixed constants (`WhitenedFeatures`), and logits from zero
            weights: a head that learns under much noise (see `weights` of `from_preset`).
        whitening_rank: int, directions that a whitened head shrinks in each block.
        head_blocks: names of the blocks that a whitened head reads, of "features" (wavelets),
            "stage_1" and so on, and "tokens" (of the last stage); None for all that there are.
        mirrored: bool, for the two flat heads: the mean of an image's features and its mirror
            image's.
        name, trainable: see `keras.Model`.

    Input shape:
        `(batch, height, width, channels)`, pixels 0..255.

    Output shape:
        logits `(batch, num_classes)`, float32.

    Raises:
        InputError: on fewer than 2 classes, or an argument that another head has.

    Example:
        ```python
        model = keras_dpvit.DPViTClassifier.from_preset("dpvit_small_28", num_classes=10)
        logits = model(images)
        ```

    Example:
        >>> model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=10)
        >>> model.predict(np.zeros((2, 8, 8, 1)), verbose=0).shape
        (2, 10)
    """

    def __init__(
        self,
        backbone: DPViTBackbone,
        num_classes: int,
        final_norm: bool = False,
        head_hidden_dim: int | None = None,
        head: str = "pooled",
        whitening_rank: int = 200,
        head_blocks: list[str] | None = None,
        mirrored: bool = False,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        _validate.positive_int(num_classes=num_classes)
        if num_classes < 2:
            raise InputError(f"num_classes must be at least 2, got {num_classes}.")
        if head_hidden_dim is not None:
            _validate.positive_int(head_hidden_dim=head_hidden_dim)

        _validate.one_of(HEADS, head=head)
        _validate.positive_int(whitening_rank=whitening_rank)
        if head != "pooled" and (final_norm or head_hidden_dim is not None):
            raise InputError(f"final_norm and head_hidden_dim need head='pooled', got {head!r}.")
        if head == "pooled" and mirrored:
            raise InputError("mirrored needs head='flattened' or 'whitened', got 'pooled'.")

        # === Functional model ===
        images = keras.Input(backbone.image_shape, name="images")
        if head == "pooled":
            outputs = _pooled_head(images, backbone, num_classes, final_norm, head_hidden_dim)
        else:
            x = feature_vector(images, backbone, head, whitening_rank, head_blocks, mirrored)
            outputs = keras.layers.Dense(
                num_classes,
                # Its bias is the weight of the constant behind whitened features.
                use_bias=head == "flattened",
                kernel_initializer="zeros",
                name="logits",
                dtype="float32",
            )(x)
        super().__init__(inputs=images, outputs=outputs, name=name)
        if not trainable:  # saying that it is would unfreeze the backbone
            self.trainable = False

        # === Config ===
        self.backbone = backbone
        self.num_classes = num_classes
        self._head = {
            "final_norm": final_norm,
            "head_hidden_dim": head_hidden_dim,
            "head": head,
            "whitening_rank": whitening_rank,
            "head_blocks": None if head_blocks is None else list(head_blocks),
            "mirrored": mirrored,
        }
        self._observe()

    def attention_maps(self, images: Any) -> dict[str, np.ndarray]:
        """See `DPViTBackbone.attention_maps`."""
        return self.backbone.attention_maps(images)

    def token_footprints(self) -> dict[str, np.ndarray]:
        """See `DPViTBackbone.token_footprints`."""
        return self.backbone.token_footprints()

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "trainable": self.trainable,
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "num_classes": self.num_classes,
            **self._head,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "DPViTClassifier":
        config = deserialized_dtype(config)
        config["backbone"] = keras.saving.deserialize_keras_object(
            config["backbone"], custom_objects=custom_objects
        )
        return cls(**config)

    @classmethod
    def from_preset(
        cls, name: str, num_classes: int, weights: str | None = None, **overrides: Any
    ) -> "DPViTClassifier":
        """A classifier of a named size; keyword arguments replace the preset's.

        Args:
            name: one of `models.presets.PRESETS`.
            num_classes: int.
            weights: None, or "synthetic" for the backbone and the constants of a whitened head as
                they were learned from made-up images (`datasets.synthetic_shapes`): no record is
                behind them. Or a file of such weights from `trainers.pretrain`.
            **overrides: arguments of `DPViTBackbone`, or of the head.

        Raises:
            InputError: if there is no such preset, or it has no such weights; the message lists
                those that there are.
        """
        head = {**preset_head(name)}
        head.update({k: overrides.pop(k) for k in _HEAD_ARGUMENTS if k in overrides})
        model = cls(DPViTBackbone.from_preset(name, **overrides), num_classes, **head)
        if weights is not None:
            synthetic_weights.load(model, name, weights)
        return model

    def features_model(self) -> Any:
        """The model from images to the input of the logits layer, for features kept on disk."""
        return keras.Model(self.input, self.get_layer("logits").input, name="features")

    def head_model(self) -> Any:
        """The logits layer, shared with this model, over features as `features_model` gives them.

        Raises:
            InputError: if a branch stands beside the logits layer.
        """
        return linear_head(self).head_model


_HEAD_ARGUMENTS = (
    "final_norm",
    "head_hidden_dim",
    "head",
    "whitening_rank",
    "head_blocks",
    "mirrored",
)


def _pooled_head(
    images: Any,
    backbone: DPViTBackbone,
    num_classes: int,
    final_norm: bool,
    head_hidden_dim: int | None,
) -> Any:
    """Logits from the mean of the tokens, and from a parallel branch if there is one."""
    dtype = backbone.dtype_policy
    tokens, features = backbone(images), None
    if isinstance(tokens, dict):
        tokens, features = tokens["tokens"], tokens["features"]
    if final_norm:
        tokens = DPLayerNormalization(name="final_norm", dtype=dtype)(tokens)
    x = keras.layers.GlobalAveragePooling1D(name="pooler", dtype=dtype)(tokens)
    if head_hidden_dim is not None:
        x = keras.layers.Dense(head_hidden_dim, activation="gelu", name="head_hidden", dtype=dtype)(
            x
        )
    outputs = keras.layers.Dense(num_classes, name="logits", dtype="float32")(x)
    if not backbone.has_branch:
        return outputs
    branch = ConvBranch(num_classes, backbone.branch_filters, name="conv_branch")
    return keras.layers.Add(name="sum", dtype="float32")([outputs, branch(features)])
