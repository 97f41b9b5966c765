"""Named sizes."""

import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.layers import PositionTable, ThresholdAttention
from keras_dpvit.models.presets import (
    CNN_PRESETS,
    PRESETS,
    preset_arguments,
    preset_for,
    preset_image_shape,
)

SCATTER = [f"dpvit_scatter_{side}" for side in (28, 32, 64, 96, 128, 224)]
SMALL = ["dpvit_tiny_8", "dpvit_small_28", "dpvit_small_32", *SCATTER]
PAPER = {"dpvit_paper_h4": 4, "dpvit_paper_h6": 6, "dpvit_paper_h8": 8, "dpvit_paper_h12": 12}


def test_every_preset_is_tested_here():
    assert set(PRESETS) == {*SMALL, *PAPER}


@pytest.mark.parametrize("name", SMALL)
def test_small_presets_build_and_classify(name):
    model = kd.DPViTClassifier.from_preset(name, num_classes=7)
    shape = PRESETS[name]["arguments"]["image_shape"]
    assert model.input_shape == (None, *shape)
    assert model.output_shape == (None, 7)
    images = np.random.default_rng(0).integers(0, 256, (2, *shape))
    logits = model(images.astype("float32")).numpy()
    assert logits.shape == (2, 7)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize(
    ("name", "tokens"), [("dpvit_tiny_8", 8), ("dpvit_small_28", 8), ("dpvit_small_32", 32)]
)
def test_tokens_of_the_last_stage(name, tokens):
    width = PRESETS[name]["arguments"]["hidden_dim"]
    assert kd.DPViTBackbone.from_preset(name).output_shape == (None, tokens, width)


@pytest.mark.parametrize(("name", "num_heads"), PAPER.items())
def test_arguments_of_the_paper_sizes(name, num_heads):
    assert preset_arguments(name) == {
        "image_shape": (224, 224, 3),
        "patch_size": 14,
        "hidden_dim": 64 * num_heads,
        "num_heads": num_heads,
        "stage_depths": (4, 3, 3, 2),
        "mlp_ratio": 4,
        "pool_size": 3,
        "pool_stride": 2,
        "pool_first_stage": True,
    }
    assert PRESETS[name]["num_classes"] == 1000


@pytest.mark.parametrize(("name", "num_heads"), PAPER.items())
def test_paper_sizes_build_narrow(name, num_heads):
    # As wide as in the paper, the largest takes 350 MB.
    model = kd.DPViTBackbone.from_preset(name, hidden_dim=num_heads, mlp_ratio=1)
    assert [block.input.shape[1] for block in model.blocks] == [127] * 4 + [63] * 3 + [31] * 3 + [
        15
    ] * 2
    local = [isinstance(block.attention, ThresholdAttention) for block in model.blocks]
    assert [n for n, it_is in enumerate(local) if it_is] == [0, 4, 7, 10]
    tables = [layer for layer in model.layers if isinstance(layer, PositionTable)]
    assert [table.table.shape[0] for table in tables] == [256, 127, 63, 31, 15]
    assert all(block.attention.num_heads == num_heads for block in model.blocks)
    assert model.output_shape == (None, 15, num_heads)


@pytest.mark.parametrize("name", PRESETS)
def test_descriptions_say_for_which_images(name):
    preset = PRESETS[name]
    height, width, _ = preset["arguments"]["image_shape"]
    assert preset["description"].startswith(f"{height}x{width} ")
    assert preset["num_classes"] >= 2
    if name in PAPER:
        assert f"{PAPER[name]} heads" in preset["description"]


@pytest.mark.parametrize(
    ("image_shape", "name"),
    [
        ((8, 8, 1), "dpvit_tiny_8"),
        ((28, 28, 1), "dpvit_small_28"),
        ([32, 32, 3], "dpvit_small_32"),
        ((224, 224, 3), "dpvit_paper_h4"),
    ],
)
def test_images_choose_the_smallest_preset_of_their_size(image_shape, name):
    assert preset_for(image_shape) == name


def test_overrides_replace_the_preset_for_one_model_only():
    model = kd.DPViTBackbone.from_preset("dpvit_tiny_8", hidden_dim=12, stage_depths=[2])
    assert model.output_shape == (None, 16, 12)
    assert kd.DPViTBackbone.from_preset("dpvit_tiny_8").output_shape == (None, 8, 32)
    preset_arguments("dpvit_tiny_8")["hidden_dim"] = 1
    assert preset_arguments("dpvit_tiny_8")["hidden_dim"] == 32


def test_overrides_of_the_head_go_to_the_classifier():
    head = {"final_norm": True, "head_hidden_dim": 6}
    model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", 3, hidden_dim=12, **head)
    assert head.items() <= model.get_config().items()
    assert model.backbone.output_shape == (None, 8, 12)
    with pytest.raises(TypeError, match="head_width"):
        kd.DPViTClassifier.from_preset("dpvit_tiny_8", 3, head_width=6)


@pytest.mark.parametrize(
    "make",
    [
        lambda name: kd.DPViTBackbone.from_preset(name),
        lambda name: kd.DPViTClassifier.from_preset(name, num_classes=3),
        preset_arguments,
    ],
)
def test_unknown_preset_lists_those_there_are(make):
    with pytest.raises(InputError) as caught:
        make("dpvit_huge_9000")
    listed = ", ".join(sorted([*SMALL, *PAPER]))
    assert str(caught.value) == f"preset must be one of {listed}, got 'dpvit_huge_9000'."


def test_image_shapes_of_presets():
    assert preset_image_shape("dpvit_scatter_96") == (96, 96, 3)
    assert preset_image_shape("cnn_32") == CNN_PRESETS["cnn_32"] == (32, 32, 3)
    with pytest.raises(InputError, match=r"one of cnn_32, dpvit_paper_h12, .*'soup'"):
        preset_image_shape("soup")


def test_images_without_a_preset_list_those_there_are():
    with pytest.raises(InputError) as caught:
        preset_for((9, 9, 1))
    message = str(caught.value)
    assert message.startswith("preset must be named for images of 9x9x1: one of ")
    assert all(name in message for name in PRESETS)
    assert "\n" not in message
