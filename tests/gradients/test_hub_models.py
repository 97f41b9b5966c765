"""Classifiers of KerasHub, built without weights, against one example at a time."""

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.gradients.fallback import VectorizedRule
from keras_dpvit.models.trainable import TRAINABLE

models = keras_hub.models


def vit(dropout=0.0, use_class_token=True, **task):
    backbone = models.ViTBackbone(
        image_shape=(8, 12, 1),
        patch_size=4,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=12,
        dropout_rate=dropout,
        attention_dropout=dropout,
        use_class_token=use_class_token,
    )
    return models.ViTImageClassifier(backbone=backbone, num_classes=3, **task)


def deit():
    backbone = models.DeiTBackbone(
        image_shape=(8, 8, 1),
        patch_size=4,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=12,
    )
    return models.DeiTImageClassifier(backbone=backbone, num_classes=3)


def swin():
    backbone = models.SwinTransformerBackbone(
        image_shape=(16, 16, 1),
        embed_dim=8,
        depths=(1, 1),
        num_heads=(1, 2),
        window_size=2,
        patch_size=2,
        drop_path=0.0,
    )
    return models.SwinTransformerImageClassifier(backbone=backbone, num_classes=3)


def mit():
    backbone = models.MiTBackbone(
        layerwise_depths=[1, 1],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[3, 3],
        layerwise_strides=[2, 2],
        image_shape=(16, 16, 1),
        hidden_dims=[8, 16],
    )
    return models.MiTImageClassifier(backbone=backbone, num_classes=3)


def images(model):
    shape = (3, *model.input_shape[1:])
    return np.random.default_rng(0).uniform(0, 1, shape).astype("float32")


def by_fallback(units):
    return [unit.layer.name for unit in units if isinstance(unit.rule, VectorizedRule)]


@pytest.mark.parametrize("trainable", TRAINABLE)
def test_vit(trainable, check):
    model = vit()
    kd.choose_trainable(model, trainable)
    units = check(model, images(model), 2e-4)
    # The class token and the table of places, which sees no records, are the embedding's own.
    table = ["class_token", "embeddings"] if trainable == "all" else []
    own = [unit for unit in units if isinstance(unit.rule, VectorizedRule)]
    assert [v.name for unit in own for v in unit.variables] == table
    if trainable == "bias":
        names = {v.name for unit in units for v in unit.variables}
        assert names == {"bias", "beta", "kernel"}
        assert [v.path for v in model.trainable_variables if v.name == "kernel"] == [
            "predictions/kernel"
        ]


@pytest.mark.parametrize("trainable", TRAINABLE)
def test_vit_with_dropout(trainable, check_under_noise):
    model = vit(dropout=0.3)
    kd.choose_trainable(model, trainable)
    check_under_noise(model, tf.constant(images(model)), 2e-4)


def test_vit_without_class_token_pools_all_tokens(check):
    model = vit(use_class_token=False, pooling="gap", intermediate_dim=5)
    units = check(model, images(model), 2e-4)
    assert by_fallback(units) == ["vit_patching_and_embedding"]
    kd.choose_trainable(model, "head")
    assert {v.path.split("/")[0] for v in model.trainable_variables} == {
        "pre_logits",
        "predictions",
    }


@pytest.mark.parametrize(("make", "through"), [(deit, 1), (swin, 2)])
def test_deit_and_swin(make, through, check):
    model = make()
    # Swin folds its windows into the examples: only a block around them sees the records.
    assert len(by_fallback(check(model, images(model), 2e-4))) == through


def test_mit_which_drops_at_random(check_under_noise):
    keras.utils.set_random_seed(1)
    model = mit()
    assert by_fallback(check_under_noise(model, tf.constant(images(model)), 2e-4)) == []
