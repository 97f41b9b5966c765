"""The backbone: its stages, its sizes, its files."""

import inspect
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.layers import PositionTable, ThresholdAttention, TokenMaxPooling, TransformerBlock
from keras_dpvit.layers.pooling import grid_coordinates, pool_coordinates


def of_type(model, cls):
    return [layer for layer in model.layers if isinstance(layer, cls)]


@pytest.mark.parametrize("pool_first_stage", [False, True])
def test_first_block_of_each_stage_is_local(pool_first_stage):
    depths = (2, 1, 3)
    model = kd.DPViTBackbone(
        (16, 16, 1),
        hidden_dim=8,
        num_heads=2,
        patch_size=2,
        stage_depths=depths,
        pool_first_stage=pool_first_stage,
    )
    blocks = of_type(model, TransformerBlock)
    local = [isinstance(block.attention, ThresholdAttention) for block in blocks]
    assert local == [True, False, True, True, False, False]
    poolings = len(depths) - 1 + pool_first_stage
    assert len(of_type(model, TokenMaxPooling)) == poolings
    assert len(of_type(model, PositionTable)) == 1 + poolings
    # 64 patches, no class token, halved by each pooling.
    assert model.output_shape == (None, 64 // 2**poolings, 8)


def test_local_blocks_get_the_coordinates_of_their_tokens():
    model = kd.DPViTBackbone(
        (8, 12, 1), patch_size=2, hidden_dim=8, num_heads=2, pool_size=3, pool_padding=1
    )
    first, second = (block.attention.coordinates for block in of_type(model, TransformerBlock))
    grid = grid_coordinates(4, 6)
    np.testing.assert_allclose(first, grid)
    np.testing.assert_allclose(second, pool_coordinates(grid, 3, 2, 1), atol=1e-6)


def test_published_sizes_of_rule_a():
    # 224 pixels, patch 14, pooling 3/2 before every stage: 256, then 127, 63, 31, 15 tokens.
    model = kd.DPViTBackbone(
        (224, 224, 3),
        patch_size=14,
        hidden_dim=4,
        num_heads=2,
        stage_depths=(1, 1, 1, 1),
        mlp_ratio=1,
        pool_size=3,
        pool_first_stage=True,
    )
    tables = [table.table.shape[0] for table in of_type(model, PositionTable)]
    assert tables == [256, 127, 63, 31, 15]
    assert model.output_shape == (None, 15, 4)


def standardised(images):
    axes = (1, 2, 3)
    shifted = images - images.mean(axis=axes, keepdims=True)
    return shifted / (images.std(axis=axes, keepdims=True) + 1.0)


@pytest.mark.parametrize(
    ("arguments", "scaled"),
    [
        ({}, standardised),
        ({"input_scaling": "image"}, standardised),
        ({"input_scaling": "range"}, lambda images: images / 127.5 - 1),
    ],
)
def test_pixels_are_scaled_as_told(small_backbone, images, arguments, scaled):
    model, bare = small_backbone(**arguments), small_backbone(input_scaling="none")
    bare.set_weights(model.get_weights())
    np.testing.assert_allclose(model(images), bare(scaled(images)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("training", [False, True])
def test_no_image_touches_another(small_backbone, images, training):
    noise = {"attention_noise_stddev": 0.1, "norm_noise_stddev": 0.1, "seed": 3}
    first, second = small_backbone(**noise), small_backbone(**noise)
    second.set_weights(first.get_weights())
    changed = images.copy()
    changed[2] = 255 - changed[2]
    before = first(images, training=training).numpy()
    after = second(changed, training=training).numpy()
    others = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(before[others], after[others])
    assert np.abs(before[2] - after[2]).max() > 1e-3


def test_noise_is_for_training_only_unless_told_otherwise(small_backbone, images):
    quiet = small_backbone(attention_noise_stddev=0.1)
    np.testing.assert_array_equal(quiet(images), quiet(images))
    assert np.abs(quiet(images, training=True) - quiet(images)).max() > 1e-3
    noisy = small_backbone(norm_noise_stddev=0.1, noise_at_inference=True)
    assert np.abs(noisy(images) - noisy(images)).max() > 1e-3


def test_seed_makes_noise_repeatable_and_blocks_differ(small_backbone, images):
    arguments = {"attention_noise_stddev": 0.1, "stage_depths": (2, 2), "seed": 5}
    models = [small_backbone(**arguments) for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    first, second = (model(images, training=True).numpy() for model in models)
    np.testing.assert_array_equal(first, second)
    parts = [
        part.seed
        for block in of_type(models[0], TransformerBlock)
        for part in (block.attention, block.norm_1, block.norm_2)
    ]
    assert len(set(parts)) == len(parts) == 12


def test_every_weight_has_a_gradient_from_the_start(small_backbone, images):
    model = small_backbone(stage_depths=(2, 1), gate="independent", conv_module="depthwise")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(model(images)) ** 2)
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert np.abs(gradient.numpy()).max() > 1e-5, variable.path


CHANGED = {
    "image_shape": (8, 12, 3),
    "patch_size": 2,
    "hidden_dim": 12,
    "num_heads": 3,
    "stage_depths": (2, 1),
    "mlp_ratio": 1.5,
    "pool_size": 3,
    "pool_stride": 1,
    "pool_padding": 1,
    "pool_first_stage": True,
    "pool_placement": "first_block",
    "pool_axis": "2d",
    "position_table": "input",
    "locality_strength": 0.5,
    "gate": "independent",
    "relative": "1d",
    "head_offsets": "fill",
    "qk_scale": False,
    "renormalize": False,
    "features": "scattering",
    "scattering_scales": 1,
    "scattering_luma": True,
    "conv_module": "parallel",
    "conv_filters": 5,
    "first_attention": "self",
    "other_attention": "threshold",
    "resize_to": [8, 12, 3],
    "outputs": "all",
    "attention_noise_stddev": 0.1,
    "norm_noise_stddev": 0.2,
    "noise_at_inference": True,
    "position_stddev": 0.3,
    "input_scaling": "range",
    "seed": 9,
    "dtype": "mixed_bfloat16",
    "name": "mine",
    "trainable": False,
}


def test_changes_are_changes():
    defaults = inspect.signature(kd.DPViTBackbone).parameters
    same = {name for name, value in CHANGED.items() if value == defaults[name].default}
    assert same == set()


def test_misspelled_arguments_are_refused(small_backbone):
    # Keras' own models take any further keyword argument in silence.
    with pytest.raises(TypeError, match="attention_noise"):
        small_backbone(attention_noise=0.1)


def test_settings_reach_every_block():
    model = kd.DPViTBackbone(**CHANGED)
    names = ("gate", "relative", "head_offsets", "qk_scale", "renormalize", "locality_strength")
    names += ("num_heads", "attention_noise_stddev", "norm_noise_stddev", "noise_at_inference")
    expected = {name: CHANGED[name] for name in names} | {"mlp_dim": 18}
    assert len(model.blocks) == 3
    for block in model.blocks:
        assert expected.items() <= block.get_config().items()
        assert block.dtype_policy.name == "mixed_bfloat16"


def test_blocks_are_named_first_to_last(small_backbone):
    blocks = small_backbone(stage_depths=(2, 1)).blocks
    names = ["stage_1_block_1", "stage_1_block_2", "stage_2_block_1"]
    assert [block.name for block in blocks] == names
    assert all(isinstance(block, TransformerBlock) for block in blocks)


def test_config_holds_every_argument():
    model = kd.DPViTBackbone(**CHANGED)
    arguments = set(inspect.signature(kd.DPViTBackbone).parameters)
    config = json.loads(json.dumps(model.get_config()))
    assert arguments == set(CHANGED) == set(config)
    for name in arguments - {"dtype", "image_shape", "stage_depths"}:
        assert config[name] == CHANGED[name], name
    again = kd.DPViTBackbone.from_config(config)
    assert again.get_config() == model.get_config()
    assert (again.name, again.trainable_variables) == ("mine", [])
    assert again.dtype_policy.name == "mixed_bfloat16"
    assert again.image_shape == (8, 12, 3)
    for layer, twin in zip(model.layers, again.layers, strict=True):
        assert layer.get_config() == twin.get_config()


def leaves(outputs):
    """The backbone's output or outputs, float32."""
    return [tf.cast(tensor, "float32") for tensor in tf.nest.flatten(outputs)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dtype": "mixed_bfloat16", "stage_depths": (2, 1)},
        {
            "conv_module": "parallel",
            "features": "scattering",
            "scattering_scales": 1,
            "patch_size": 1,
        },
        {"conv_module": "stem", "gate": "independent", "pool_placement": "first_block"},
    ],
)
def test_saved_file_gives_the_same_outputs(small_backbone, images, changes, tmp_path):
    model = small_backbone(**changes)
    model.save(tmp_path / "backbone.keras")
    again = keras.saving.load_model(tmp_path / "backbone.keras")
    assert type(again) is kd.DPViTBackbone
    assert again.get_config() == model.get_config()
    for found, expected in zip(leaves(again(images)), leaves(model(images)), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": (8, 8)}, r"image_shape must be \(height, width, channels\)"),
        ({"image_shape": (8, 8, 1, 1)}, r"image_shape must be \(height, width, channels\)"),
        ({"image_shape": (8, 8, 0)}, "image_shape must be a whole number above 0, got 0"),
        ({"image_shape": (8, -8, 1)}, "image_shape must be a whole number above 0, got -8"),
        ({"image_shape": (9, 8, 1)}, r"sides divisible by patch_size=2, got \(9, 8, 1\)"),
        ({"hidden_dim": 9}, "num_heads must divide the width 9, got num_heads=2"),
        ({"hidden_dim": 0}, "hidden_dim must be a whole number above 0"),
        ({"patch_size": 0}, "patch_size must be a whole number above 0"),
        ({"num_heads": 0}, "num_heads must be a whole number above 0"),
        ({"stage_depths": ()}, "stage_depths must name at least one stage"),
        ({"stage_depths": (1, 0)}, "stage_depths must be a whole number above 0"),
        ({"mlp_ratio": 0}, "mlp_ratio must be a finite number above 0"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio must be a finite number above 0"),
        ({"patch_size": 4}, "pool_size=2 must not exceed the 1 tokens pooled"),
        ({"stage_depths": (1,) * 4}, "pool_size=2 must not exceed the 1 tokens pooled"),
        ({"pool_padding": 2}, "padding must be 0..1"),
        ({"input_scaling": "max"}, "input_scaling must be one of image, none, range, got 'max'"),
        ({"first_attention": "none"}, "first_attention must be one of self, threshold, got 'none'"),
        ({"conv_filters": 0}, "conv_filters must be a whole number above 0"),
        ({"features": "edges"}, "features must be one of pixels, scattering, got 'edges'"),
        (
            {"conv_module": "last"},
            "conv_module must be one of depthwise, none, parallel, stem, got 'last'",
        ),
        (
            {"pool_placement": "last"},
            "pool_placement must be one of first_block, stage_start, got 'last'",
        ),
        ({"pool_axis": "3d"}, "pool_axis must be one of 1d, 2d, got '3d'"),
        (
            {"position_table": "sine"},
            "position_table must be one of input, none, per_stage, got 'sine'",
        ),
        ({"gate": "tanh"}, "gate must be one of independent, sigmoid, got 'tanh'"),
        ({"relative": "3d"}, "relative must be one of 1d, 2d, got '3d'"),
        ({"head_offsets": "all"}, "head_offsets must be one of convit, fill, got 'all'"),
        ({"features": "scattering", "scattering_scales": 0}, "scales must be a whole number"),
        ({"features": "scattering", "scattering_scales": 3}, r"multiples of 2\*\*scales = 8"),
        ({"features": "scattering"}, r"sides divisible by patch_size=2, got \(1, 1, 81\)"),
        ({"stage_depths": 3}, "stage_depths must be a list of numbers, got 3"),
        ({"position_stddev": 0}, "stddev must be a finite number above 0"),
        ({"locality_strength": 0}, "locality_strength must be a finite number above 0"),
        ({"attention_noise_stddev": -1}, "attention_noise_stddev must be a finite number, 0"),
        ({"norm_noise_stddev": -1}, "noise_stddev must be a finite number, 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_in_one_line(small_backbone, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        small_backbone(**changes)
    assert "\n" not in str(caught.value)
