"""What `describe` says of models, against sizes worked out by other means."""

import json
import math

import keras
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.layers import ScatteringTransform
from keras_dpvit.models.description import PUBLISHED, describe, short_number
from keras_dpvit.models.macs import macs
from keras_dpvit.models.presets import PRESETS

# Worked out beforehand from the paper's tables, with a final normalisation (2 d), a key bias (12 d)
# and a position bias (4 H), which this network does without.
WITH_DEAD_WEIGHTS = {
    4: (10_011_448, 724_755_888),
    6: (22_094_560, 1_570_789_512),
    8: (38_896_264, 2_739_260_256),
    12: (86_655_448, 6_043_513_104),
}

VARIANTS = {
    "plain": {},
    "deep": {"stage_depths": (3, 2), "num_heads": 8, "mlp_ratio": 3},
    "1d": {"relative": "1d", "gate": "independent"},
    "2d": {"pool_axis": "2d"},
    "first block": {"pool_placement": "first_block", "stage_depths": (2, 2)},
    "bare": {"position_table": "none", "input_scaling": "none"},
    "stem": {"conv_module": "stem", "conv_filters": 5, "input_scaling": "range"},
    "parallel": {"conv_module": "parallel", "conv_filters": 6},
    "scattering": {"features": "scattering", "patch_size": 1, "conv_module": "parallel"},
    "head": {"final_norm": True, "head_hidden_dim": 24},
    "resized": {"image_shape": (14, 6, 1), "resize_to": (8, 8, 3)},
    "noise": {"attention_noise_stddev": 0.1, "norm_noise_stddev": 0.1},
}


def tiny(**changes):
    return kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=5, **changes)


@pytest.mark.parametrize("heads", WITH_DEAD_WEIGHTS)
def test_paper_sizes_are_exact(described_presets, heads):
    facts, _ = described_presets[f"dpvit_paper_h{heads}"]
    parameters, products = WITH_DEAD_WEIGHTS[heads]
    width = 64 * heads
    assert facts["parameters"] == parameters - (2 * width + 12 * width + 4 * heads)
    assert facts["macs"] == products
    assert [stage["block_tokens"] for stage in facts["stages"]] == [
        [127] * 4,
        [63] * 3,
        [31] * 3,
        [15] * 2,
    ]


@pytest.mark.parametrize("name", PUBLISHED)
def test_paper_sizes_are_near_the_printed_ones(described_presets, name):
    facts, _ = described_presets[name]
    assert facts["parameters"] == pytest.approx(PUBLISHED[name]["parameters"], rel=0.02)
    assert facts["macs"] == pytest.approx(PUBLISHED[name]["macs"], rel=0.025)


def by_hand(arguments, classes):
    """Parameters and products of a network with one pooling between stages, from its settings."""
    height, width, channels = arguments["image_shape"]
    p, d, heads = arguments["patch_size"], arguments["hidden_dim"], arguments["num_heads"]
    hidden, tokens = arguments["mlp_ratio"] * d, height * width // p**2
    parameters = p * p * channels * d + d + tokens * d + d * classes + classes
    products = tokens * p * p * channels * d + d * classes
    for stage, depth in enumerate(arguments["stage_depths"]):
        if stage:
            tokens = (tokens - 2) // 2 + 1
            parameters += tokens * d
        attention, mlp, norms = 4 * d * d + 3 * d, 2 * d * hidden + hidden + d, 4 * d
        parameters += depth * (attention + mlp + norms) + 3 * heads + heads
        products += depth * (4 * tokens * d * d + 2 * tokens**2 * d + 2 * tokens * d * hidden)
        products += 3 * heads * tokens**2
    return parameters, products


@pytest.mark.parametrize("name", ["dpvit_tiny_8", "dpvit_small_28", "dpvit_small_32"])
def test_small_sizes_by_hand(described_presets, name):
    facts, _ = described_presets[name]
    expected = by_hand(PRESETS[name]["arguments"], PRESETS[name]["num_classes"])
    assert (facts["parameters"], facts["macs"]) == expected


def traced_products(function, image_shape):
    """Multiply-accumulates of all matrix products and convolutions in TensorFlow's graph."""
    spec = tf.TensorSpec((1, *image_shape), tf.float32)
    graph = tf.function(lambda x: function(x, training=False)).get_concrete_function(spec).graph
    count = 0
    for op in graph.get_operations():
        if op.type in ("MatMul", "BatchMatMulV2"):
            name = "transpose_a" if op.type == "MatMul" else "adj_x"
            summed = op.inputs[0].shape[-2 if op.get_attr(name) else -1]
        elif op.type == "Conv2D":
            summed = math.prod(op.inputs[1].shape[:3])
        elif op.type == "Einsum":
            assert op.get_attr("equation") == b"ab,cdb->acd"
            summed = op.inputs[0].shape[1]
        else:
            continue
        count += math.prod(op.outputs[0].shape) * summed
    return count


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_costs_are_those_of_the_graph_that_runs(changes):
    model = tiny(**changes)
    facts = describe(model)
    assert facts["macs"] == traced_products(model, model.input_shape[1:]) > 0
    assert facts["parameters"] == model.count_params()
    json.dumps(facts, allow_nan=False)


@pytest.mark.parametrize(
    ("image_shape", "arguments"),
    [((16, 8, 3), (2, 4, 2)), ((16, 16, 2), (3, 3)), ((8, 8, 1), (1, 2, 1))],
)
def test_scattering_counts_the_products_it_does(image_shape, arguments):
    layer = ScatteringTransform(*arguments)
    layer.build((None, *image_shape))
    assert macs(layer, (None, *image_shape)) == traced_products(layer, image_shape)


def test_depthwise_convolution_is_tokens_by_kernel_by_width():
    # TensorFlow does it by products element by element, which the graph does not set apart.
    with_convolution, without = describe(tiny(conv_module="depthwise")), describe(tiny())
    assert with_convolution["macs"] - without["macs"] == 3 * 32 * (16 + 8)
    assert with_convolution["parameters"] - without["parameters"] == 2 * 3 * 32


def test_parts_are_in_the_order_of_the_data():
    facts = describe(tiny(conv_module="parallel", final_norm=True))
    assert facts["image_shape"] == [8, 8, 1]
    assert facts["num_classes"] == 5
    found = [(p["name"], p["stage"], p["output"], p["tokens"]) for p in facts["parts"]]
    assert found == [
        ("image_standardization", None, [8, 8, 1], None),
        ("patch_embedding", None, [16, 32], 16),
        ("position_table", None, [16, 32], 16),
        ("stage_1_block_1", 1, [16, 32], 16),
        ("stage_2_pooling", 2, [8, 32], 8),
        ("stage_2_position_table", 2, [8, 32], 8),
        ("stage_2_block_1", 2, [8, 32], 8),
        ("final_norm", None, [8, 32], 8),
        ("pooler", None, [32], None),
        ("logits", None, [5], None),
        ("conv_branch", None, [5], None),
        ("sum", None, [5], None),
    ]
    assert facts["parts"][3]["what"] == "threshold attention, 4 heads, MLP 64"
    assert {part["what"] for part in facts["parts"]} >= {"mean of the tokens", "linear to 5"}


def test_stages_add_up_their_parts():
    facts = describe(tiny(stage_depths=(2, 3), pool_placement="first_block"))
    first, second = facts["stages"]
    assert (first["tokens"], first["block_tokens"], first["blocks"]) == (16, [16, 16], 2)
    assert (second["tokens"], second["block_tokens"], second["width"]) == (8, [16, 8, 8], 32)
    for stage in facts["stages"]:
        inside = [part for part in facts["parts"] if part["stage"] == stage["stage"]]
        for name in ("parameters", "macs"):
            assert stage[name] == sum(part[name] for part in inside) > 0


def test_backbone_and_frozen_weights():
    model = tiny()
    model.backbone.trainable = False
    facts = describe(model)
    assert facts["trainable_parameters"] == 32 * 5 + 5
    assert facts["parameters"] > 1000 * 10
    backbone = describe(model.backbone)
    assert backbone["num_classes"] is None
    assert backbone["parameters"] == facts["parameters"] - (32 * 5 + 5)


class Scale(keras.layers.Layer):
    def build(self, input_shape):
        self.factor = self.add_weight(shape=())


def test_unknown_layer_with_weights_is_an_error():
    layer = Scale(name="mine")
    layer.build((None, 4))
    with pytest.raises(InputError, match="'mine' of type Scale, which has weights and no rule"):
        macs(layer, (None, 4))
    layer.trainable = False
    with pytest.raises(InputError, match="Scale"):
        macs(layer, (None, 4))
    assert macs(keras.layers.Flatten(), (None, 4, 4)) == 0


def test_other_models_are_refused():
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(InputError, match="model must be a DPViTClassifier or a DPViTBackbone"):
        kd.describe(other)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (50_176, "50.2 k"),
        (560_128, "560 k"),
        (999_499, "999 k"),
        (999_500, "1.00 M"),
        (22_089_160, "22.1 M"),
        (1_570_789_512, "1.57 G"),
    ],
)
def test_short_numbers(number, words):
    assert short_number(number) == words
