"""DPViTClassifier: a backbone, average pooling and logits."""

from typing import Any

import keras

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.models.backbone import DPViTBackbone, deserialized_dtype
from keras_dpvit.models.private_training import PrivatelyTrainable


@keras.saving.register_keras_serializable(package="keras_dpvit")
class DPViTClassifier(PrivatelyTrainable, keras.Model):
    """An image classifier over a `DPViTBackbone`: mean of the tokens, then one linear layer.

    There is no normalisation before the head (the paper's "without layer normalization"). Compiled
    with `DPKerasAdamOptimizer` or `DPKerasSGDOptimizer`, `fit(x, y)` trains it privately.

    Args:
        backbone: a `DPViTBackbone`.
        num_classes: int, at least 2.

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
    """

    def __init__(self, backbone: DPViTBackbone, num_classes: int, **kwargs: Any) -> None:
        # === Layers ===
        _validate.positive_int(num_classes=num_classes)
        if num_classes < 2:
            raise InputError(f"num_classes must be at least 2, got {num_classes}.")
        pooler = keras.layers.GlobalAveragePooling1D(name="pooler", dtype=backbone.dtype_policy)
        logits = keras.layers.Dense(num_classes, name="logits", dtype="float32")

        # === Functional model ===
        images = keras.Input(backbone.image_shape, name="images")
        outputs = logits(pooler(backbone(images)))
        super().__init__(inputs=images, outputs=outputs, **kwargs)

        # === Config ===
        self.backbone = backbone
        self.num_classes = num_classes

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "trainable": self.trainable,
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "num_classes": self.num_classes,
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
        """A classifier of a named size; keyword arguments replace the backbone preset's.

        Raises:
            InputError: if there is no such preset; the message lists them.
        """
        return cls(DPViTBackbone.from_preset(name, **overrides), num_classes)
