"""The network's parts in their order: poolings, position tables, features and the CONV module."""

import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.layers import (
    ConvStem,
    PositionTable,
    ScatteringTransform,
    ThresholdAttention,
    TokenDepthwiseConv,
    TokenMaxPooling,
)
from keras_dpvit.layers.pooling import grid_coordinates, pool_coordinates


def of_type(model, cls):
    return [layer for layer in model.layers if isinstance(layer, cls)]


def names(model):
    return [layer.name for layer in model.layers[1:]]  # without the input


def token_counts(model):
    return [block.input.shape[1] for block in model.blocks]


@pytest.fixture(scope="module")
def hvt():
    """HVT's sizes (224 pixels, patch 16, pooling 3/2 after the first block), a narrow one."""
    return kd.DPViTBackbone(
        (224, 224, 3),
        patch_size=16,
        hidden_dim=4,
        num_heads=2,
        stage_depths=(1, 2, 1, 1),
        mlp_ratio=1,
        pool_size=3,
        pool_placement="first_block",
        pool_first_stage=True,
    )


def test_hvt_pools_after_the_first_block_of_each_stage(hvt):
    tokens = [table.table.shape[0] for table in of_type(hvt, PositionTable)]
    assert tokens == [196, 97, 48, 23, 11]
    assert token_counts(hvt) == [196, 97, 48, 48, 23]
    assert hvt.output_shape == (None, 11, 4)
    assert names(hvt) == [
        "image_standardization",
        "patch_embedding",
        "position_table",
        "stage_1_block_1",
        "stage_1_pooling",
        "stage_1_position_table",
        "stage_2_block_1",
        "stage_2_pooling",
        "stage_2_position_table",
        "stage_2_block_2",
        "stage_3_block_1",
        "stage_3_pooling",
        "stage_3_position_table",
        "stage_4_block_1",
        "stage_4_pooling",
        "stage_4_position_table",
    ]


def test_blocks_after_a_pooling_know_where_its_tokens_lie(hvt):
    coordinates = grid_coordinates(14, 14)
    for block in hvt.blocks:
        if isinstance(block.attention, ThresholdAttention):
            np.testing.assert_allclose(block.attention.coordinates, coordinates, atol=1e-6)
            coordinates = pool_coordinates(coordinates, 3, 2, 0)


def test_pooling_stands_at_the_start_of_a_stage_by_default(small_backbone):
    model = small_backbone(stage_depths=(1, 2), pool_first_stage=True)
    assert names(model) == [
        "image_standardization",
        "patch_embedding",
        "position_table",
        "stage_1_pooling",
        "stage_1_position_table",
        "stage_1_block_1",
        "stage_2_pooling",
        "stage_2_position_table",
        "stage_2_block_1",
        "stage_2_block_2",
    ]
    assert token_counts(model) == [2, 1, 1]


@pytest.mark.parametrize("pool_first_stage", [False, True])
def test_first_stage_pools_only_where_told(small_backbone, pool_first_stage):
    model = small_backbone(pool_placement="first_block", pool_first_stage=pool_first_stage)
    expected = ["stage_1_pooling"] * pool_first_stage + ["stage_2_pooling"]
    assert [layer.name for layer in of_type(model, TokenMaxPooling)] == expected


def halved(stages, pool_axis):
    """A network on a grid of 4 rows and 8 columns that pools before each stage but the first."""
    return kd.DPViTBackbone(
        (4, 8, 1),
        patch_size=1,
        hidden_dim=4,
        num_heads=2,
        mlp_ratio=1,
        stage_depths=(1,) * stages,
        pool_axis=pool_axis,
    )


@pytest.mark.parametrize(("pool_axis", "tokens"), [("1d", [32, 16, 8, 4]), ("2d", [32, 8, 2])])
def test_grid_shrinks_along_one_side_or_both(pool_axis, tokens):
    assert token_counts(halved(len(tokens), pool_axis)) == tokens


def test_a_grid_of_one_row_is_not_halved_again():
    with pytest.raises(kd.InputError, match="pool_size=2 must not exceed the 1 tokens pooled"):
        halved(4, "2d")


def test_pooling_over_the_grid_keeps_the_cells_square():
    model = kd.DPViTBackbone(
        (8, 12, 1), patch_size=2, hidden_dim=8, num_heads=2, pool_axis="2d", stage_depths=(1, 1)
    )
    (pooling,) = of_type(model, TokenMaxPooling)
    assert pooling.grid == (4, 6)
    expected = 2 * grid_coordinates(2, 3) + 0.5
    np.testing.assert_allclose(model.blocks[1].attention.coordinates, expected)


@pytest.mark.parametrize(
    ("position_table", "expected"),
    [
        ("per_stage", ["position_table", "stage_2_position_table"]),
        ("input", ["position_table"]),
        ("none", []),
    ],
)
@pytest.mark.parametrize("pool_placement", ["stage_start", "first_block"])
def test_position_tables_stand_where_told(
    small_backbone, images, position_table, expected, pool_placement
):
    model = small_backbone(position_table=position_table, pool_placement=pool_placement)
    assert [layer.name for layer in of_type(model, PositionTable)] == expected
    assert model(images).shape == (6, 2, 8)


def flow(model, images):
    """What the layers give one after another, by name."""
    x, outputs = images, {}
    for layer in model.layers[1:]:
        x = outputs[layer.name] = layer(x)
    return outputs


@pytest.mark.parametrize("conv_module", ["none", "stem", "depthwise"])
@pytest.mark.parametrize("features", ["pixels", "scattering"])
def test_output_is_the_layers_one_after_another(
    make_variant, variant_images, conv_module, features
):
    variant = {"conv_module": conv_module, "conv_filters": 3, "features": features}
    model = make_variant({**variant, "scattering_scales": 1}).backbone
    last = list(flow(model, variant_images).values())[-1]
    np.testing.assert_allclose(model(variant_images), last, rtol=1e-4, atol=1e-5)


# The CONV module.


def test_without_a_conv_module_there_is_none(small_backbone):
    assert not of_type(small_backbone(), (ConvStem, TokenDepthwiseConv))


@pytest.mark.parametrize("features", ["pixels", "scattering"])
def test_stem_stands_between_features_and_patches(make_variant, variant_images, features):
    variant = {"conv_module": "stem", "conv_filters": 3, "features": features}
    model = make_variant({**variant, "scattering_scales": 1}).backbone
    order = names(model)
    assert order.index("patch_embedding") == order.index("conv_stem") + 1
    outputs = flow(model, variant_images)
    assert outputs["conv_stem"].shape[-1] == 3
    assert outputs["patch_embedding"].shape == (3, 16 if features == "pixels" else 4, 8)


def test_depthwise_stands_before_the_blocks_of_each_stage(small_backbone):
    model = small_backbone(conv_module="depthwise", stage_depths=(2, 1))
    order = names(model)
    for stage in (1, 2):
        convolution = order.index(f"stage_{stage}_convolution")
        assert order[convolution + 1] == f"stage_{stage}_block_1"
    assert len(of_type(model, TokenDepthwiseConv)) == 2


def test_depthwise_starts_as_the_network_without(small_backbone, images):
    model, plain = small_backbone(conv_module="depthwise"), small_backbone()
    convolutions = {id(v) for layer in of_type(model, TokenDepthwiseConv) for v in layer.weights}
    plain.set_weights([w.numpy() for w in model.weights if id(w) not in convolutions])
    np.testing.assert_array_equal(model(images), plain(images))
    of_type(model, TokenDepthwiseConv)[0].kernel.assign(np.ones((3, 8)))
    assert np.abs(model(images) - plain(images)).max() > 1e-3


@pytest.mark.parametrize("variant_name", ["parallel", "scattering_parallel"])
def test_parallel_backbone_gives_its_features_too(
    make_variant, variants, variant_images, variant_name
):
    variant = variants[variant_name]
    model = make_variant(variant).backbone
    alone = make_variant({**variant, "conv_module": "none"}).backbone
    outputs = model(variant_images)
    assert set(outputs) == {"tokens", "features"}
    np.testing.assert_array_equal(outputs["tokens"], alone(variant_images))
    x = variant_images
    for layer in model.layers[1 : names(model).index("patch_embedding") + 1]:
        x = layer(x)
    np.testing.assert_array_equal(outputs["features"], x)


# Scattering features.


def numpy_groups(features, groups):
    shape = features.shape
    parts = features.reshape(*shape[:3], groups, -1)
    parts = parts - parts.mean(axis=(1, 2, 4), keepdims=True)
    return (parts / np.sqrt((parts**2).mean(axis=(1, 2, 4), keepdims=True) + 1e-4)).reshape(shape)


@pytest.mark.parametrize(
    ("image_shape", "patch_size", "features", "tokens"),
    [((28, 28, 1), 1, (7, 7, 81), 49), ((32, 32, 3), 2, (8, 8, 243), 16)],
)
def test_scattering_features_are_normalised_and_not_learned(
    image_shape, patch_size, features, tokens
):
    model = kd.DPViTClassifier(
        kd.DPViTBackbone(
            image_shape,
            patch_size=patch_size,
            features="scattering",
            conv_module="parallel",
            input_scaling="range",
            hidden_dim=8,
            stage_depths=(1,),
        ),
        3,
    )
    images = np.random.default_rng(0).integers(0, 256, (2, *image_shape)).astype("float32")
    outputs = model.backbone(images)
    assert outputs["tokens"].shape == (2, tokens, 8)
    expected = ScatteringTransform()(images / 127.5 - 1).numpy()
    assert expected.shape[1:] == features
    expected = numpy_groups(expected.astype("float64"), 27)
    np.testing.assert_allclose(outputs["features"], expected, atol=2e-3)
    for name in ("scattering", "feature_normalization"):
        assert model.backbone.get_layer(name).weights == []
    # The branch is linear in the features, and the patches are projected from them.
    size = np.prod(features)
    assert [tuple(w.shape) for w in model.get_layer("conv_branch").weights] == [(size, 3), (3,)]
    kernel = model.backbone.get_layer("patch_embedding").projection.kernel
    assert kernel.shape == (patch_size**2 * features[-1], 8)
    assert np.isfinite(model(images)).all()


def test_scales_reach_the_scattering(make_variant):
    for scales, side in ((1, 4), (2, 2)):
        variant = {"features": "scattering", "scattering_scales": scales, "patch_size": 1}
        model = make_variant(variant).backbone
        (scattering,) = of_type(model, ScatteringTransform)
        assert scattering.scales == scales
        assert model.get_layer("patch_embedding").grid == (side, side)


@pytest.mark.parametrize(
    ("changes", "filters"),
    [
        ({"conv_filters": 5}, 5),
        ({"features": "scattering", "scattering_scales": 1, "conv_filters": 5}, 0),
    ],
)
def test_only_a_branch_over_pixels_has_filters(small_classifier, changes, filters):
    model = small_classifier(image_shape=(8, 8, 1), conv_module="parallel", **changes)
    assert model.backbone.branch_filters == filters
    assert model.get_layer("conv_branch").filters == filters
