"""Multiply-accumulates of a layer for one image, a rule for each type of layer.

Counted are products with weights, matrix products and convolutions. Normalisations, softmax,
activations, pooling, additions and the mixing of two attention maps by a gate are not: this is the
convention in which transformers' sizes are published.
"""

import functools
import math
from typing import Any

import keras

from keras_dpvit.errors import InputError
from keras_dpvit.layers.attention import SelfAttention, ThresholdAttention
from keras_dpvit.layers.convolution import ConvBranch, ConvStem, TokenDepthwiseConv
from keras_dpvit.layers.embedding import PatchEmbedding, PositionTable
from keras_dpvit.layers.normalization import DPLayerNormalization, GainAndBias
from keras_dpvit.layers.position_gate import PositionGate
from keras_dpvit.layers.resizing import AntialiasedResizing
from keras_dpvit.layers.scattering import ScatteringTransform
from keras_dpvit.layers.transformer import TransformerBlock
from keras_dpvit.layers.whitening import WhitenedFeatures


@functools.singledispatch
def macs(layer: Any, input_shape: tuple[Any, ...]) -> int:
    """Multiply-accumulates of one built layer for one image.

    A layer of a type without a rule counts nothing if it has no weights.

    Args:
        layer: a built Keras layer.
        input_shape: of its input, the batch first.

    Raises:
        InputError: if the layer has weights and its type no rule.
    """
    if layer.weights:
        raise InputError(
            f"model must be made of layers whose products can be counted, got {layer.name!r} of "
            f"type {type(layer).__name__}, which has weights and no rule."
        )
    return 0


@macs.register(DPLayerNormalization)
@macs.register(GainAndBias)
@macs.register(PositionTable)
def _uncounted(layer: Any, input_shape: tuple[Any, ...]) -> int:
    return 0


@macs.register(WhitenedFeatures)
def _whitened(layer: WhitenedFeatures, input_shape: tuple[Any, ...]) -> int:
    return 2 * math.prod(layer.directions.shape)


@macs.register(keras.layers.Dense)
def _dense(layer: Any, input_shape: tuple[Any, ...]) -> int:
    return math.prod(input_shape[1:-1]) * math.prod(layer.kernel.shape)


@macs.register(keras.layers.Conv2D)
def _convolution(layer: Any, input_shape: tuple[Any, ...]) -> int:
    rows_and_columns = layer.compute_output_shape(input_shape)[1:-1]
    return math.prod(rows_and_columns) * math.prod(layer.kernel.shape)


@macs.register(PatchEmbedding)
def _patch_embedding(layer: PatchEmbedding, input_shape: tuple[Any, ...]) -> int:
    pixels = layer.patch_size**2 * input_shape[-1]
    return macs(layer.projection, (None, *layer.grid, pixels))


@macs.register(PositionGate)
def _position_gate(layer: PositionGate, input_shape: tuple[Any, ...]) -> int:
    heads = layer.position_weights.shape[0]
    return heads * math.prod(layer.encodings.shape)


@macs.register(SelfAttention)
def _self_attention(layer: SelfAttention, input_shape: tuple[Any, ...]) -> int:
    _, tokens, width = input_shape
    projections = (layer.query, layer.key, layer.value, layer.output_projection)
    scores_and_mixing = 2 * tokens**2 * width
    return sum(macs(part, input_shape) for part in projections) + scores_and_mixing


@macs.register(ThresholdAttention)
def _threshold_attention(layer: ThresholdAttention, input_shape: tuple[Any, ...]) -> int:
    return _self_attention(layer, input_shape) + macs(layer.position_gate, input_shape)


@macs.register(TransformerBlock)
def _transformer_block(layer: TransformerBlock, input_shape: tuple[Any, ...]) -> int:
    hidden_shape = layer.mlp_hidden.compute_output_shape(input_shape)
    mlp = macs(layer.mlp_hidden, input_shape) + macs(layer.mlp_output, hidden_shape)
    return macs(layer.attention, input_shape) + mlp


@macs.register(ConvStem)
def _conv_stem(layer: ConvStem, input_shape: tuple[Any, ...]) -> int:
    count = 0
    for convolution in layer.convolutions:
        count += macs(convolution, input_shape)
        input_shape = convolution.compute_output_shape(input_shape)
    return count


@macs.register(TokenDepthwiseConv)
def _depthwise(layer: TokenDepthwiseConv, input_shape: tuple[Any, ...]) -> int:
    return input_shape[1] * math.prod(layer.kernel.shape)


@macs.register(ConvBranch)
def _conv_branch(layer: ConvBranch, input_shape: tuple[Any, ...]) -> int:
    convolution = 0 if layer.convolution is None else macs(layer.convolution, input_shape)
    return convolution + math.prod(layer.linear.kernel.shape)


@macs.register(ScatteringTransform)
def _scattering(layer: ScatteringTransform, input_shape: tuple[Any, ...]) -> int:
    return layer.transform.macs(input_shape[-1])


@macs.register(AntialiasedResizing)
def _resizing(layer: AntialiasedResizing, input_shape: tuple[Any, ...]) -> int:
    return input_shape[-1] * layer.macs
