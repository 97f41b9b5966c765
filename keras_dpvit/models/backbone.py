"""DPViTBackbone: patches, stages of transformer blocks, pooling between stages."""

from typing import Any

import keras
import numpy as np

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.layers.embedding import PatchEmbedding, PositionTable, patch_grid
from keras_dpvit.layers.normalization import ImageStandardization
from keras_dpvit.layers.pooling import TokenMaxPooling, grid_coordinates, pool_coordinates
from keras_dpvit.layers.transformer import TransformerBlock
from keras_dpvit.models.presets import preset_arguments

INPUT_SCALINGS = ("image", "range", "none")


@keras.saving.register_keras_serializable(package="keras_dpvit")
class DPViTBackbone(keras.Model):
    """The hierarchical vision transformer of the DP-ViT paper, up to its last tokens.

    Every stage but the first begins by pooling the tokens (`TokenMaxPooling`) and adding a new
    position table; the first block of a stage attends by threshold attention, the others by plain
    self-attention (eq 3). There is no class token and no dropout; nothing crosses examples.

    Args:
        image_shape: (height, width, channels).
        patch_size: int, divides height and width.
        hidden_dim: int, width of a token.
        num_heads: int, divides `hidden_dim`.
        stage_depths: ints, blocks in each stage.
        mlp_ratio: float, hidden width of the MLPs over `hidden_dim`.
        pool_size, pool_stride, pool_padding: ints, see `TokenMaxPooling`.
        pool_first_stage: bool, pooling before the first stage too (the paper's sizes).
        position_stddev: float, see `PositionTable`.
        locality_strength: float, see `PositionGate`.
        attention_noise_stddev, norm_noise_stddev: floats, noise in the layers while training.
        noise_at_inference: bool, that noise at inference too.
        input_scaling: "image" standardises each image by its own pixels (`ImageStandardization`),
            "range" maps pixels 0..255 to -1..1, "none" leaves them.
        seed: int or None, of the layers' noise.
        dtype: Keras dtype or policy.

    Input shape:
        `(batch, height, width, channels)`, pixels 0..255.

    Output shape:
        `(batch, tokens of the last stage, hidden_dim)`.

    Raises:
        InputError: on sizes that do not fit each other.

    Example:
        ```python
        backbone = keras_dpvit.DPViTBackbone.from_preset("dpvit_small_28", hidden_dim=96)
        tokens = backbone(images)
        ```
    """

    def __init__(
        self,
        image_shape: Any,
        patch_size: int = 4,
        hidden_dim: int = 64,
        num_heads: int = 4,
        stage_depths: Any = (1, 1),
        mlp_ratio: float = 4,
        pool_size: int = 2,
        pool_stride: int = 2,
        pool_padding: int = 0,
        pool_first_stage: bool = False,
        position_stddev: float = 0.02,
        locality_strength: float = 1.0,
        attention_noise_stddev: float = 0.0,
        norm_noise_stddev: float = 0.0,
        noise_at_inference: bool = False,
        input_scaling: str = "image",
        seed: int | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        image_shape = check_image_shape(image_shape)
        stage_depths = tuple(_validate.positive_int(stage_depths=d) for d in stage_depths)
        if not stage_depths:
            raise InputError("stage_depths must name at least one stage.")
        _validate.positive(mlp_ratio=mlp_ratio)

        # === Functional model ===
        images = keras.Input(image_shape, name="images")
        x = _scaled(images, input_scaling, dtype)
        x = PatchEmbedding(patch_size, hidden_dim, name="patch_embedding", dtype=dtype)(x)
        x = PositionTable(position_stddev, name="position_table", dtype=dtype)(x)
        coordinates = grid_coordinates(*patch_grid(image_shape, patch_size))
        block = 0
        for stage, depth in enumerate(stage_depths, 1):
            if stage > 1 or pool_first_stage:
                pool = TokenMaxPooling(
                    pool_size, pool_stride, pool_padding, name=f"stage_{stage}_pooling", dtype=dtype
                )
                x = pool(x)
                coordinates = pool_coordinates(coordinates, pool_size, pool_stride, pool_padding)
                x = PositionTable(
                    position_stddev, name=f"stage_{stage}_position_table", dtype=dtype
                )(x)
            for i in range(depth):
                local = i == 0
                x = TransformerBlock(
                    num_heads,
                    round(hidden_dim * mlp_ratio),
                    attention="threshold" if local else "self",
                    coordinates=np.round(coordinates, 6).tolist() if local else None,
                    locality_strength=locality_strength,
                    attention_noise_stddev=attention_noise_stddev,
                    norm_noise_stddev=norm_noise_stddev,
                    noise_at_inference=noise_at_inference,
                    seed=None if seed is None else seed + 10 * block,
                    name=f"stage_{stage}_block_{i + 1}",
                    dtype=dtype,
                )(x)
                block += 1
        super().__init__(inputs=images, outputs=x, **kwargs)

        # === Config ===
        self._arguments = {
            "image_shape": image_shape,
            "patch_size": patch_size,
            "hidden_dim": hidden_dim,
            "num_heads": num_heads,
            "stage_depths": stage_depths,
            "mlp_ratio": mlp_ratio,
            "pool_size": pool_size,
            "pool_stride": pool_stride,
            "pool_padding": pool_padding,
            "pool_first_stage": pool_first_stage,
            "position_stddev": position_stddev,
            "locality_strength": locality_strength,
            "attention_noise_stddev": attention_noise_stddev,
            "norm_noise_stddev": norm_noise_stddev,
            "noise_at_inference": noise_at_inference,
            "input_scaling": input_scaling,
            "seed": seed,
        }
        self.dtype_policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the images."""
        shape: tuple[int, int, int] = self._arguments["image_shape"]
        return shape

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
            **self._arguments,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "DPViTBackbone":
        return cls(**deserialized_dtype(config))

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> "DPViTBackbone":
        """A backbone of a named size; keyword arguments replace the preset's.

        Raises:
            InputError: if there is no such preset; the message lists them.
        """
        return cls(**{**preset_arguments(name), **overrides})


def _scaled(images: Any, input_scaling: str, dtype: Any) -> Any:
    _validate.one_of(INPUT_SCALINGS, input_scaling=input_scaling)
    if input_scaling == "image":
        return ImageStandardization(name="image_standardization", dtype=dtype)(images)
    if input_scaling == "range":
        return keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="rescaling", dtype=dtype)(images)
    return images


def deserialized_dtype(config: dict[str, Any]) -> dict[str, Any]:
    """The config with its dtype made an object again."""
    config = dict(config)
    if isinstance(config.get("dtype"), dict):
        config["dtype"] = keras.saving.deserialize_keras_object(config["dtype"])
    return config


def check_image_shape(image_shape: Any) -> tuple[int, int, int]:
    """(height, width, channels) as a tuple of ints.

    Raises:
        InputError: if it is something else.
    """
    shape = tuple(image_shape)
    if len(shape) != 3:
        raise InputError(f"image_shape must be (height, width, channels), got {shape}.")
    height, width, channels = (_validate.positive_int(image_shape=side) for side in shape)
    return height, width, channels
