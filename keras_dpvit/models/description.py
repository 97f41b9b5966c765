"""A model's parts, sizes and costs, read off the model itself."""

import functools
import math
import re
from typing import Any

import keras

from keras_dpvit.errors import InputError
from keras_dpvit.layers.attention import ThresholdAttention
from keras_dpvit.layers.color import LumaChroma
from keras_dpvit.layers.convolution import ConvBranch, ConvStem, TokenDepthwiseConv
from keras_dpvit.layers.embedding import PatchEmbedding, PositionTable
from keras_dpvit.layers.normalization import DPLayerNormalization, ImageStandardization
from keras_dpvit.layers.pooling import TokenMaxPooling
from keras_dpvit.layers.resizing import AntialiasedResizing
from keras_dpvit.layers.scattering import ScatteringTransform
from keras_dpvit.layers.transformer import TransformerBlock
from keras_dpvit.layers.whitening import JoinedFeatures, WhitenedFeatures
from keras_dpvit.models.backbone import DPViTBackbone
from keras_dpvit.models.classifier import DPViTClassifier
from keras_dpvit.models.macs import macs

# Parameters and multiply-accumulates as the paper prints them (Tables 1 and 3), without units.
PUBLISHED: dict[str, dict[str, float]] = {
    "dpvit_paper_h4": {"parameters": 9.87e6, "macs": 0.712e9},
    "dpvit_paper_h6": {"parameters": 22.14e6, "macs": 1.58e9},
    "dpvit_paper_h8": {"parameters": 38.26e6, "macs": 2.68e9},
    "dpvit_paper_h12": {"parameters": 86.23e6, "macs": 6.12e9},
}


def printed(name: str, figure: float) -> str:
    """A published figure with the unit it is meant in: 9870000 parameters are "9.87 M"."""
    return f"{figure / 1e6:g} M" if name == "parameters" else f"{figure / 1e9:g} G"


def describe(model: Any) -> dict[str, Any]:
    """The parts of a model in the order of the data, with shapes, parameters and costs.

    Every number is taken from the layers' own shapes. Costs are multiply-accumulates for one image
    as `models.macs` counts them; `ScatteringTransform`'s are products of real numbers.

    Args:
        model: a `DPViTClassifier` or a `DPViTBackbone`.

    Returns:
        a dict that JSON can hold: "image_shape"; "num_classes", None for a backbone; "parts", each
        with "name", "what", "stage" (None outside the stages), "output" (shape without the
        batch), "tokens" and "width" of a sequence (None of anything else), "parameters" and
        "macs"; "stages", each with "stage", "tokens" that leave it, "block_tokens" that each block
        sees, "blocks", "width", "parameters" and "macs"; and of the whole model "parameters",
        "trainable_parameters" and "macs".

    Raises:
        InputError: if the model is another one, or has a layer of weights whose cost is unknown.

    Example:
        >>> model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=3)
        >>> kd.describe(model)["parameters"] == model.count_params()
        True
    """
    layers = layers_in_order(model)
    parts = [_part(layer) for layer in layers]
    return {
        "image_shape": [int(side) for side in model.input_shape[1:]],
        "num_classes": getattr(model, "num_classes", None),
        "parts": parts,
        "stages": _stages(parts, [isinstance(layer, TransformerBlock) for layer in layers]),
        "parameters": sum(part["parameters"] for part in parts),
        "trainable_parameters": _size(model.trainable_weights),
        "macs": sum(part["macs"] for part in parts),
    }


def layers_in_order(model: Any) -> list[Any]:
    """The layers of a backbone or classifier in the order of the data, without the inputs.

    Raises:
        InputError: if the model is another one.
    """
    if not isinstance(model, (DPViTBackbone, DPViTClassifier)):
        raise InputError(
            f"model must be a DPViTClassifier or a DPViTBackbone, got {type(model).__name__}."
        )
    return [layer for layer in _opened(model) if not isinstance(layer, keras.layers.InputLayer)]


def _opened(model: Any) -> list[Any]:
    """The layers of a model and of the models in it."""
    layers: list[Any] = []
    for layer in model.layers:
        layers += _opened(layer) if isinstance(layer, keras.Model) else [layer]
    return layers


def stage_of(layer: Any) -> int | None:
    """The stage, from 1, in which a backbone's layer stands; None outside the stages."""
    match = re.match(r"stage_(\d+)_", layer.name)
    return int(match[1]) if match else None


def _part(layer: Any) -> dict[str, Any]:
    output = [int(side) for side in layer.output.shape[1:]]
    tokens, width = output if len(output) == 2 else (None, None)
    several = isinstance(layer.input, (list, tuple))
    return {
        "name": layer.name,
        "what": what(layer),
        "stage": stage_of(layer),
        "output": output,
        "tokens": tokens,
        "width": width,
        "parameters": _size(layer.weights),
        "macs": 0 if several else int(macs(layer, tuple(layer.input.shape))),
    }


def _stages(parts: list[dict[str, Any]], is_block: list[bool]) -> list[dict[str, Any]]:
    stages = []
    for number in sorted({part["stage"] for part in parts if part["stage"] is not None}):
        inside = [i for i, part in enumerate(parts) if part["stage"] == number]
        blocks = [parts[i] for i in inside if is_block[i]]
        stages.append(
            {
                "stage": number,
                "tokens": parts[inside[-1]]["tokens"],
                "block_tokens": [block["tokens"] for block in blocks],
                "blocks": len(blocks),
                "width": parts[inside[-1]]["width"],
                "parameters": sum(parts[i]["parameters"] for i in inside),
                "macs": sum(parts[i]["macs"] for i in inside),
            }
        )
    return stages


def _size(weights: list[Any]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)


@functools.singledispatch
def what(layer: Any) -> str:
    """The layer in a few words; the name of its class where there is no rule."""
    return type(layer).__name__


@what.register(ImageStandardization)
def _(layer: ImageStandardization) -> str:
    return "each image to mean 0, deviation 1"


@what.register(keras.layers.Rescaling)
def _(layer: Any) -> str:
    return "pixels 0..255 to -1..1"


@what.register(AntialiasedResizing)
def _(layer: AntialiasedResizing) -> str:
    return f"resized to {layer.height}x{layer.width}, fixed"


@what.register(keras.layers.Concatenate)
def _(layer: Any) -> str:
    return "channels side by side"


@what.register(ScatteringTransform)
def _(layer: ScatteringTransform) -> str:
    return f"wavelet scattering, {layer.scales} scales, {layer.orientations} angles, fixed"


@what.register(keras.layers.GroupNormalization)
def _(layer: Any) -> str:
    return f"normalisation over {layer.groups} groups of channels"


@what.register(LumaChroma)
def _(layer: LumaChroma) -> str:
    return "luma, and red and blue less luma"


@what.register(WhitenedFeatures)
def _(layer: WhitenedFeatures) -> str:
    return f"centred, {layer.directions.shape[1]} directions shrunk, length 1"


@what.register(JoinedFeatures)
def _(layer: JoinedFeatures) -> str:
    return "blocks side by side, and a constant"


@what.register(ConvStem)
def _(layer: ConvStem) -> str:
    return f"two 3x3 convolutions, {layer.filters} channels"


@what.register(PatchEmbedding)
def _(layer: PatchEmbedding) -> str:
    return f"{layer.patch_size}x{layer.patch_size} patches, linear to {layer.hidden_dim}"


@what.register(PositionTable)
def _(layer: PositionTable) -> str:
    return "learned positions, added"


@what.register(TokenMaxPooling)
def _(layer: TokenMaxPooling) -> str:
    window = f"{layer.pool_size}"
    if layer.grid is not None:
        window = f"{layer.pool_size}x{layer.pool_size}"
    return f"max-pooling over {window} tokens, stride {layer.stride}"


@what.register(TokenDepthwiseConv)
def _(layer: TokenDepthwiseConv) -> str:
    return f"depthwise convolution over {layer.kernel_size} tokens"


@what.register(TransformerBlock)
def _(layer: TransformerBlock) -> str:
    attention = layer.attention
    kind = "threshold attention" if isinstance(attention, ThresholdAttention) else "self-attention"
    return f"{kind}, {attention.num_heads} heads, MLP {layer.mlp_hidden.units}"


@what.register(DPLayerNormalization)
def _(layer: DPLayerNormalization) -> str:
    return "layer normalisation"


@what.register(keras.layers.GlobalAveragePooling1D)
def _(layer: Any) -> str:
    return "mean of the tokens"


@what.register(keras.layers.Dense)
def _(layer: Any) -> str:
    activation = keras.activations.serialize(layer.activation)
    return f"linear to {layer.units}" + (
        "" if activation == "linear" else f", {activation.upper()}"
    )


@what.register(ConvBranch)
def _(layer: ConvBranch) -> str:
    before = f"3x3 convolution, {layer.filters} channels, " if layer.filters else ""
    return f"{before}linear to {layer.num_classes}"


@what.register(keras.layers.Add)
def _(layer: Any) -> str:
    return "sum of both branches"


def short_number(number: float) -> str:
    """Three digits and a unit: 560128 is "560 k"."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if round(number) >= limit * 0.9995:
            scaled = number / limit
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f} {unit}"
    return f"{number:.0f}"
