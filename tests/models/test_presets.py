"""Named sizes."""

import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.models.presets import PRESETS, preset_arguments, preset_for


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_classifies(name):
    model = kd.DPViTClassifier.from_preset(name, num_classes=7)
    shape = PRESETS[name]["arguments"]["image_shape"]
    assert model.input_shape == (None, *shape)
    assert model.output_shape == (None, 7)
    images = np.random.default_rng(0).integers(0, 256, (2, *shape))
    logits = model(images.astype("float32")).numpy()
    assert logits.shape == (2, 7)
    assert np.isfinite(logits).all()
    assert preset_for(shape) == name


@pytest.mark.parametrize(
    ("name", "tokens"), [("dpvit_tiny_8", 8), ("dpvit_small_28", 8), ("dpvit_small_32", 32)]
)
def test_tokens_of_the_last_stage(name, tokens):
    width = PRESETS[name]["arguments"]["hidden_dim"]
    assert kd.DPViTBackbone.from_preset(name).output_shape == (None, tokens, width)


def test_overrides_replace_the_preset_for_one_model_only():
    model = kd.DPViTBackbone.from_preset("dpvit_tiny_8", hidden_dim=12, stage_depths=[2])
    assert model.output_shape == (None, 16, 12)
    assert kd.DPViTBackbone.from_preset("dpvit_tiny_8").output_shape == (None, 8, 32)
    preset_arguments("dpvit_tiny_8")["hidden_dim"] = 1
    assert preset_arguments("dpvit_tiny_8")["hidden_dim"] == 32


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
    listed = "dpvit_small_28, dpvit_small_32, dpvit_tiny_8"
    assert str(caught.value) == f"preset must be one of {listed}, got 'dpvit_huge_9000'."


def test_images_without_a_preset_list_those_there_are():
    with pytest.raises(InputError, match=r"images of 9x9x1: one of .*dpvit_tiny_8") as caught:
        preset_for((9, 9, 1))
    assert "\n" not in str(caught.value)
