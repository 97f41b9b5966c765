"""DPViTBackbone: patches, stages of transformer blocks, pooling between stages."""

import math
import types
from typing import Any

import keras
import numpy as np

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.layers.embedding import PatchEmbedding
from keras_dpvit.layers.pooling import TokenMaxPooling, pool_coordinates
from keras_dpvit.layers.transformer import TransformerBlock
from keras_dpvit.models.presets import preset_arguments
from keras_dpvit.models.stages import Stages, check_settings, feature_maps


@keras.saving.register_keras_serializable(package="keras_dpvit")
class DPViTBackbone(keras.Model):
    """The hierarchical vision transformer of the DP-ViT paper, up to its last tokens.

    The first block of a stage attends by threshold attention, the others by plain self-attention
    (eq 3; `first_attention` and `other_attention` change it). Tokens are pooled from stage to stage
    (`TokenMaxPooling`), and a new position table is added after each pooling. There is no class
    token and no dropout; nothing crosses examples.

    Args:
        image_shape: (height, width, channels).
        patch_size: int, divides height and width (of the feature maps, for scattering).
        hidden_dim: int, width of a token.
        num_heads: int, divides `hidden_dim`.
        stage_depths: ints, blocks in each stage.
        mlp_ratio: float, hidden width of the MLPs over `hidden_dim`.
        pool_size, pool_stride, pool_padding: ints, see `TokenMaxPooling`.
        pool_first_stage: bool, pooling in the first stage too (the paper's sizes).
        pool_placement: "stage_start", or "first_block" for after a stage's first block (HVT).
        pool_axis: "1d" pools along the sequence (the paper's), "2d" over the grid of tokens.
        position_table: "per_stage", "input" for none after the poolings, or "none".
        position_stddev: float, see `PositionTable`.
        locality_strength, gate, relative, head_offsets: see `PositionGate`.
        qk_scale: bool, see `SelfAttention`.
        attention_noise_stddev, norm_noise_stddev: floats, noise in the layers while training.
        noise_at_inference: bool, that noise at inference too.
        renormalize: bool, see `SelfAttention`.
        input_scaling: "image" standardises each image by its own pixels (`ImageStandardization`),
            "range" maps pixels 0..255 to -1..1, "none" leaves them.
        features: "pixels", or "scattering" for fixed wavelet features (`ScatteringTransform`),
            normalised over groups of channels.
        scattering_scales: int, `J` of the scattering: its maps are smaller by `2^J`.
        scattering_luma: bool, for colour images: wavelet features of luma alone, and chroma
            averaged over `2^J` pixels beside them; a third of the features, and of the time.
        conv_module: where eq 8's CONV stands. "none"; "stem", before the patches (`ConvStem`);
            "depthwise", at the start of each stage (`TokenDepthwiseConv`); "parallel", a branch of
            the classifier's over the same features (`ConvBranch`).
        conv_filters: int, channels of the stem's or branch's convolution.
        first_attention: "threshold", or "self" for plain self-attention in the first block of a
            stage too; nothing but the position table then tells places apart.
        outputs: "tokens", or "all" for what a head over several depths reads (see below).
        resize_to: None, or (height, width, channels) to which images are brought before all else:
            resized (`AntialiasedResizing`), grey repeated in three channels. The sizes above then
            are about these, and the cost of the layers is that of the smaller image.
        seed: int or None, of the layers' noise.
        dtype: Keras dtype or policy.
        name, trainable: see `keras.Model`.

    Input shape:
        `(batch, height, width, channels)`, pixels 0..255.

    Output shape:
        `(batch, tokens of the last stage, hidden_dim)`; with `conv_module="parallel"` a dict of
        these "tokens" and of the "features", `(batch, rows, columns, channels)`. With
        `outputs="all"` the dict has the tokens at the end of earlier stages too, "stage_1" and so
        on.

    Raises:
        InputError: on sizes that do not fit each other.

    Example:
        ```python
        backbone = keras_dpvit.DPViTBackbone.from_preset("dpvit_small_28", hidden_dim=96)
        tokens = backbone(images)
        ```

    Example:
        >>> backbone = kd.DPViTBackbone(
        ...     (8, 8, 1), patch_size=2, hidden_dim=16, num_heads=2, stage_depths=(1,)
        ... )
        >>> backbone.output_shape
        (None, 16, 16)
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
        pool_placement: str = "stage_start",
        pool_axis: str = "1d",
        position_table: str = "per_stage",
        position_stddev: float = 0.02,
        locality_strength: float = 1.0,
        gate: str = "sigmoid",
        relative: str = "2d",
        head_offsets: str = "convit",
        qk_scale: bool = True,
        attention_noise_stddev: float = 0.0,
        norm_noise_stddev: float = 0.0,
        noise_at_inference: bool = False,
        renormalize: bool = True,
        input_scaling: str = "image",
        features: str = "pixels",
        scattering_scales: int = 2,
        scattering_luma: bool = False,
        conv_module: str = "none",
        conv_filters: int = 16,
        first_attention: str = "threshold",
        other_attention: str = "self",
        outputs: str = "tokens",
        resize_to: Any = None,
        seed: int | None = None,
        dtype: Any = None,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        # Here the locals are the arguments: what a config must hold, and all that the parts need.
        given = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        given["image_shape"] = check_image_shape(image_shape)
        given["stage_depths"] = _check_depths(stage_depths)
        given["resize_to"] = None if resize_to is None else check_image_shape(resize_to)
        settings = types.SimpleNamespace(**given)
        check_settings(settings)

        # === Functional model ===
        images = keras.Input(settings.image_shape, name="images")
        maps = feature_maps(images, settings)
        stages = Stages(settings)
        found = {"tokens": stages(maps), "features": maps}
        if outputs == "all":
            found.update({f"stage_{i}": end for i, end in enumerate(stages.ends[:-1], 1)})
        alone = outputs == "tokens" and conv_module != "parallel"
        super().__init__(inputs=images, outputs=found["tokens"] if alone else found, name=name)
        if not trainable:
            self.trainable = False

        # === Config ===
        for own in ("dtype", "name", "trainable"):
            del given[own]
        self._arguments = given
        self.dtype_policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the images."""
        shape: tuple[int, int, int] = self._arguments["image_shape"]
        return shape

    @property
    def has_branch(self) -> bool:
        """True if a parallel branch over the features belongs to the classifier."""
        return bool(self._arguments["conv_module"] == "parallel")

    @property
    def branch_filters(self) -> int:
        """Filters of a parallel branch; none over features that are convolutions already."""
        scattering = self._arguments["features"] == "scattering"
        return 0 if scattering else self._arguments["conv_filters"]

    @property
    def blocks(self) -> list[TransformerBlock]:
        """The transformer blocks, first to last."""
        return [layer for layer in self.layers if isinstance(layer, TransformerBlock)]

    def attention_maps(self, images: Any) -> dict[str, np.ndarray]:
        """Attention weights of every block, without the layers' noise, for plotting.

        Args:
            images: `(batch, height, width, channels)`, pixels 0..255; all at once in memory.

        Returns:
            block name to float32 `(batch, heads, tokens, tokens)`; row i is what token i attends
            to. `token_footprints` says where the tokens lie in the image.
        """
        quiet = self._without_noise()
        inputs = [block.input for block in quiet.blocks]
        tokens = keras.Model(quiet.input, inputs)(keras.ops.convert_to_tensor(images))
        tokens = tokens if isinstance(tokens, list) else [tokens]
        return {
            block.name: keras.ops.convert_to_numpy(block.attention_weights(given))
            for block, given in zip(quiet.blocks, tokens, strict=True)
        }

    def _without_noise(self) -> "DPViTBackbone":
        """Itself, or its like without noise at inference if it has such."""
        if not self._arguments["noise_at_inference"]:
            return self
        quiet = self.from_config({**self.get_config(), "noise_at_inference": False})
        quiet.set_weights(self.get_weights())
        return quiet

    def token_footprints(self) -> dict[str, np.ndarray]:
        """The patches from which each block's tokens were pooled.

        Returns:
            block name to float `(tokens, rows, columns)`: the share of each patch in each token,
            through all poolings. A token's shares sum to 1, and their centre of mass is the
            token's coordinates (column, row).
        """
        found, grid, shares = {}, (0, 0), np.zeros((0, 0))
        for layer in self.layers:
            if isinstance(layer, PatchEmbedding):
                grid, shares = layer.grid, np.eye(math.prod(layer.grid))
            elif isinstance(layer, TokenMaxPooling):
                window = (layer.pool_size, layer.stride, layer.padding)
                shares = pool_coordinates(shares, *window, layer.grid)
            elif isinstance(layer, TransformerBlock):
                found[layer.name] = shares.reshape(-1, *grid)
        return found

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

        Another `image_shape` changes the network, but for presets with a whitened head: they resize
        the images to their own (`resize_to=None` keeps them from it).

        Raises:
            InputError: if there is no such preset; the message lists them.
        """
        return cls(**{**preset_arguments(name, overrides.get("image_shape")), **overrides})


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
    shape = tuple(image_shape) if isinstance(image_shape, (list, tuple)) else ()
    if len(shape) != 3:
        raise InputError(f"image_shape must be (height, width, channels), got {image_shape}.")
    height, width, channels = (_validate.positive_int(image_shape=side) for side in shape)
    return height, width, channels


def _check_depths(stage_depths: Any) -> tuple[int, ...]:
    try:
        depths = tuple(stage_depths)
    except TypeError:
        raise InputError(f"stage_depths must be a list of numbers, got {stage_depths!r}.") from None
    return tuple(_validate.positive_int(stage_depths=depth) for depth in depths)
