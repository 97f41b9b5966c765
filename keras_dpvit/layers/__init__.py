"""Keras layers of the DP-ViT. No privacy accounting lives here.

Noise in attention and normalisation is a regulariser with a published name: activations are not
what training releases, so it earns no epsilon (docs/privacy.md).
"""

from keras_dpvit.layers.attention import SelfAttention, ThresholdAttention
from keras_dpvit.layers.color import LumaChroma
from keras_dpvit.layers.convolution import ConvBranch, ConvStem, TokenDepthwiseConv
from keras_dpvit.layers.embedding import PatchEmbedding, PositionTable
from keras_dpvit.layers.fusion import AdaptiveWeightedFusion
from keras_dpvit.layers.normalization import (
    DPLayerNormalization,
    GainAndBias,
    ImageStandardization,
)
from keras_dpvit.layers.pooling import TokenMaxPooling
from keras_dpvit.layers.position_gate import PositionGate
from keras_dpvit.layers.resizing import AntialiasedResizing
from keras_dpvit.layers.scattering import ScatteringTransform
from keras_dpvit.layers.transformer import TransformerBlock
from keras_dpvit.layers.whitening import JoinedFeatures, WhitenedFeatures

__all__ = [
    "AdaptiveWeightedFusion",
    "AntialiasedResizing",
    "ConvBranch",
    "ConvStem",
    "DPLayerNormalization",
    "GainAndBias",
    "ImageStandardization",
    "JoinedFeatures",
    "LumaChroma",
    "PatchEmbedding",
    "PositionGate",
    "PositionTable",
    "ScatteringTransform",
    "SelfAttention",
    "ThresholdAttention",
    "TokenDepthwiseConv",
    "TokenMaxPooling",
    "TransformerBlock",
    "WhitenedFeatures",
]
