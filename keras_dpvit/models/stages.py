"""The parts of the backbone as functional Keras calls: features, tokens, stages."""

import types
from typing import Any

import keras
import numpy as np

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.layers.color import LumaChroma
from keras_dpvit.layers.convolution import ConvStem, TokenDepthwiseConv, group_normalization
from keras_dpvit.layers.embedding import PatchEmbedding, PositionTable, patch_grid
from keras_dpvit.layers.normalization import ImageStandardization
from keras_dpvit.layers.pooling import (
    TokenMaxPooling,
    grid_coordinates,
    pool_coordinates,
    pooled_grid,
)
from keras_dpvit.layers.resizing import AntialiasedResizing
from keras_dpvit.layers.scattering import ScatteringTransform
from keras_dpvit.layers.transformer import ATTENTIONS, TransformerBlock

INPUT_SCALINGS = ("image", "range", "none")
FEATURES = ("pixels", "scattering")
OUTPUTS = ("tokens", "all")
CONV_MODULES = ("none", "stem", "depthwise", "parallel")
POOL_PLACEMENTS = ("stage_start", "first_block")
POOL_AXES = ("1d", "2d")
POSITION_TABLES = ("per_stage", "input", "none")


def check_settings(settings: types.SimpleNamespace) -> None:
    """Refuses settings that no layer below looks at.

    Args:
        settings: the arguments of `DPViTBackbone`.

    Raises:
        InputError: on the first that is out of range.
    """
    if not settings.stage_depths:
        raise InputError("stage_depths must name at least one stage.")
    _validate.positive(mlp_ratio=settings.mlp_ratio)
    _validate.positive_int(conv_filters=settings.conv_filters)
    _validate.one_of(INPUT_SCALINGS, input_scaling=settings.input_scaling)
    _validate.one_of(FEATURES, features=settings.features)
    _validate.one_of(OUTPUTS, outputs=settings.outputs)
    _validate.one_of(CONV_MODULES, conv_module=settings.conv_module)
    _validate.one_of(POOL_PLACEMENTS, pool_placement=settings.pool_placement)
    _validate.one_of(POOL_AXES, pool_axis=settings.pool_axis)
    _validate.one_of(POSITION_TABLES, position_table=settings.position_table)
    _validate.one_of(ATTENTIONS, first_attention=settings.first_attention)
    _validate.one_of(ATTENTIONS, other_attention=settings.other_attention)
    _check_resizing(settings.image_shape, settings.resize_to)


def _check_resizing(image_shape: Any, resize_to: Any) -> None:
    if resize_to is None or resize_to[2] == image_shape[2] or image_shape[2] == 1:
        return
    raise InputError(
        f"image_shape must have {resize_to[2]} channels, or 1, to be resized to {resize_to}, got "
        f"{image_shape}."
    )


def feature_maps(images: Any, settings: types.SimpleNamespace) -> Any:
    """The maps that patches are cut from: pixels, scattering features or the stem's channels."""
    dtype = settings.dtype
    x = images if settings.resize_to is None else _resized(images, settings.resize_to, dtype)
    if settings.input_scaling == "image":
        x = ImageStandardization(name="image_standardization", dtype=dtype)(x)
    elif settings.input_scaling == "range":
        x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="rescaling", dtype=dtype)(x)
    if settings.features == "scattering":
        x = _scattered(x, settings)
    if settings.conv_module == "stem":
        x = ConvStem(settings.conv_filters, name="conv_stem", dtype=dtype)(x)
    return x


def _resized(x: Any, shape: tuple[int, int, int], dtype: Any) -> Any:
    """Images of the given shape; grey ones in as many equal channels as it has."""
    height, width, channels = shape
    if tuple(x.shape[1:3]) != (height, width):
        x = AntialiasedResizing(height, width, name="resizing", dtype=dtype)(x)
    if x.shape[-1] != channels:
        x = keras.layers.Concatenate(name="repeated_grey", dtype=dtype)([x] * channels)
    return x


def _scattered(x: Any, settings: types.SimpleNamespace) -> Any:
    """Wavelet features: of every channel, or of luma alone with chroma averaged beside them."""
    dtype, chroma = settings.dtype, None
    if settings.scattering_luma:
        x = LumaChroma(name="luma_chroma", dtype=dtype)(x)
        x, chroma = x[..., :1], x[..., 1:]
    scattering = ScatteringTransform(settings.scattering_scales, name="scattering", dtype=dtype)
    x = scattering(x)
    # Second-order paths are weak: Keras' 1e-3 would drown them.
    normalization = group_normalization(
        x.shape[-1], name="feature_normalization", epsilon=1e-4, dtype=dtype
    )
    x = normalization(x)
    if chroma is None:
        return x
    average = keras.layers.AveragePooling2D(
        2**settings.scattering_scales, name="chroma_average", dtype=dtype
    )
    return keras.layers.Concatenate(name="features", dtype=dtype)([x, average(chroma)])


class Stages:
    """Makes tokens of features and runs them through the stages, coordinates beside them.

    Args:
        settings: the arguments of `DPViTBackbone`.
    """

    def __init__(self, settings: types.SimpleNamespace) -> None:
        self._settings = settings
        self._blocks = 0
        self.ends: list[Any] = []  # the tokens at the end of each stage

    def __call__(self, features: Any) -> Any:
        """The last stage's tokens, `(batch, tokens, hidden_dim)`."""
        s = self._settings
        x = PatchEmbedding(s.patch_size, s.hidden_dim, name="patch_embedding", dtype=s.dtype)(
            features
        )
        self._grid = patch_grid(features.shape[1:], s.patch_size)
        self._coordinates = grid_coordinates(*self._grid)
        if s.position_table != "none":
            x = self._position_table(x, "position_table")
        for stage, depth in enumerate(s.stage_depths, 1):
            pools = stage > 1 or s.pool_first_stage
            if pools and s.pool_placement == "stage_start":
                x = self._pool(x, stage)
            if s.conv_module == "depthwise":
                x = TokenDepthwiseConv(name=f"stage_{stage}_convolution", dtype=s.dtype)(x)
            for index in range(depth):
                x = self._block(x, stage, index)
                if pools and index == 0 and s.pool_placement == "first_block":
                    x = self._pool(x, stage)
            self.ends.append(x)
        return x

    def _pool(self, x: Any, stage: int) -> Any:
        s = self._settings
        window = (s.pool_size, s.pool_stride, s.pool_padding)
        grid = self._grid if s.pool_axis == "2d" else None
        x = TokenMaxPooling(*window, grid, name=f"stage_{stage}_pooling", dtype=s.dtype)(x)
        self._coordinates = pool_coordinates(self._coordinates, *window, grid)
        if grid is not None:
            self._grid = pooled_grid(grid, *window)
        if s.position_table == "per_stage":
            x = self._position_table(x, f"stage_{stage}_position_table")
        return x

    def _position_table(self, x: Any, name: str) -> Any:
        return PositionTable(self._settings.position_stddev, name=name, dtype=self._settings.dtype)(
            x
        )

    def _block(self, x: Any, stage: int, index: int) -> Any:
        s = self._settings
        local = (s.first_attention if index == 0 else s.other_attention) == "threshold"
        block = TransformerBlock(
            s.num_heads,
            round(s.hidden_dim * s.mlp_ratio),
            attention="threshold" if local else "self",
            coordinates=np.round(self._coordinates, 6).tolist() if local else None,
            locality_strength=s.locality_strength,
            gate=s.gate,
            relative=s.relative,
            head_offsets=s.head_offsets,
            attention_noise_stddev=s.attention_noise_stddev,
            norm_noise_stddev=s.norm_noise_stddev,
            noise_at_inference=s.noise_at_inference,
            renormalize=s.renormalize,
            qk_scale=s.qk_scale,
            seed=None if s.seed is None else s.seed + 10 * self._blocks,
            name=f"stage_{stage}_block_{index + 1}",
            dtype=s.dtype,
        )
        self._blocks += 1
        return block(x)
