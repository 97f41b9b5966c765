"""DPViTClassifier: a backbone, average pooling and logits, and the CONV branch beside them."""

from typing import Any

import keras
import numpy as np

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.layers.convolution import ConvBranch
from keras_dpvit.layers.normalization import DPLayerNormalization
from keras_dpvit.models.backbone import DPViTBackbone, deserialized_dtype
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
        head_hidden_dim: int or None, width of a hidden layer with GELU in the head.
        name, trainable: see `keras.Model`.

    Input shape:
        `(batch, height, width, channels)`, pixels 0..255.

    Output shape:
        logits `(batch, num_classes)`, float32.

    Raises:
        InputError: on fewer than 2 classes.

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
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        _validate.positive_int(num_classes=num_classes)
        if num_classes < 2:
            raise InputError(f"num_classes must be at least 2, got {num_classes}.")
        if head_hidden_dim is not None:
            _validate.positive_int(head_hidden_dim=head_hidden_dim)

        # === Functional model ===
        dtype = backbone.dtype_policy
        images = keras.Input(backbone.image_shape, name="images")
        tokens = backbone(images)
        features = None
        if isinstance(tokens, dict):
            tokens, features = tokens["tokens"], tokens["features"]
        if final_norm:
            tokens = DPLayerNormalization(name="final_norm", dtype=dtype)(tokens)
        x = keras.layers.GlobalAveragePooling1D(name="pooler", dtype=dtype)(tokens)
        if head_hidden_dim is not None:
            x = keras.layers.Dense(
                head_hidden_dim, activation="gelu", name="head_hidden", dtype=dtype
            )(x)
        outputs = keras.layers.Dense(num_classes, name="logits", dtype="float32")(x)
        if features is not None:
            branch = ConvBranch(num_classes, backbone.branch_filters, name="conv_branch")
            outputs = keras.layers.Add(name="sum", dtype="float32")([outputs, branch(features)])
        super().__init__(inputs=images, outputs=outputs, name=name)
        if not trainable:  # saying that it is would unfreeze the backbone
            self.trainable = False

        # === Config ===
        self.backbone = backbone
        self.num_classes = num_classes
        self._head = {"final_norm": final_norm, "head_hidden_dim": head_hidden_dim}
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
    def from_preset(cls, name: str, num_classes: int, **overrides: Any) -> "DPViTClassifier":
        """A classifier of a named size; keyword arguments replace the preset's.

        Args:
            name: one of `models.presets.PRESETS`.
            num_classes: int.
            **overrides: arguments of `DPViTBackbone`, or `final_norm` and `head_hidden_dim`.

        Raises:
            InputError: if there is no such preset; the message lists them.
        """
        head = {k: overrides.pop(k) for k in ("final_norm", "head_hidden_dim") if k in overrides}
        return cls(DPViTBackbone.from_preset(name, **overrides), num_classes, **head)
