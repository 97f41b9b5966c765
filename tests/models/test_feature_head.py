"""Flat heads of the classifier, and weights learned from made-up images."""

import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.gradients.fallback import VectorizedRule
from keras_dpvit.gradients.layer_rules import clipping_groups, layer_rules
from keras_dpvit.models import feature_head, synthetic_weights
from keras_dpvit.models.presets import (
    PRESETS,
    num_whitened_blocks,
    presets_with_weights,
    synthetic_file,
)

SMALL = {
    "image_shape": (16, 16, 1),
    "features": "scattering",
    "outputs": "all",
    "patch_size": 1,
    "hidden_dim": 8,
    "num_heads": 2,
    "stage_depths": (1, 1),
}


def classifier(**arguments):
    head = {"head": "whitened", "whitening_rank": 6, "mirrored": True, **arguments}
    return kd.DPViTClassifier(kd.DPViTBackbone(**SMALL), 3, **head)


def pictures(count=4, shape=(16, 16, 1), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype("float32")


def shaken(model, seed=0):
    """The model with a head that is not zero."""
    kernel = model.get_layer("logits").kernel
    kernel.assign(np.random.default_rng(seed).normal(size=kernel.shape))
    return model


@pytest.mark.parametrize(
    ("arguments", "width"),
    [
        ({}, 16 * 81 + 16 * 8 + 8 * 8 + 1),
        ({"head_blocks": ["features"]}, 16 * 81 + 1),
        ({"head_blocks": ["tokens", "stage_1"]}, 16 * 8 + 8 * 8 + 1),
        ({"head": "flattened"}, 8 * 8),
    ],
)
def test_what_a_head_reads(arguments, width):
    model = classifier(**arguments)
    assert model.features_model().output_shape == (None, width)
    assert not np.any(model(pictures()).numpy())  # the head starts from zero


def test_features_and_head_are_the_model_in_two_parts():
    model = shaken(classifier())
    features = model.features_model()(pictures())
    np.testing.assert_allclose(
        model.head_model()(features).numpy(), model(pictures()).numpy(), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(np.linalg.norm(features[:, :-1], axis=1), 1, atol=1e-5)


def test_a_mirrored_head_answers_a_mirror_image_alike():
    x = pictures()
    model, plain = shaken(classifier()), shaken(classifier(mirrored=False))
    flipped = x[:, :, ::-1]
    np.testing.assert_allclose(model(x).numpy(), model(flipped).numpy(), atol=2e-5)
    assert not np.allclose(plain(x).numpy(), plain(flipped).numpy(), atol=1e-2)


def test_a_mirrored_head_is_the_same_in_training():
    model, x = shaken(classifier()), pictures()
    inside, outside = model(x, training=True).numpy(), model(x, training=False).numpy()
    np.testing.assert_allclose(inside, outside, rtol=1e-4, atol=2e-5)


def spoiled_rows(model, row=1):
    """The rows that a spoiled image changes."""
    x = pictures()
    before = model(x).numpy()
    x[row] = np.nan
    after = model(x).numpy()
    return [i for i in range(len(x)) if not np.array_equal(before[i], after[i])]


def test_mirror_images_in_one_batch_touch_their_own_image_alone(monkeypatch):
    model = shaken(classifier())
    assert spoiled_rows(model) == [1]

    def halves_taken_wrongly(x):
        return keras.ops.mean(keras.ops.reshape(x, (-1, 2, *x.shape[1:])), axis=1)

    monkeypatch.setattr(feature_head, "_mean_of_halves", halves_taken_wrongly)
    assert spoiled_rows(model) == [0, 2]


def test_in_training_each_row_is_a_records(monkeypatch):
    model, x = shaken(classifier()), pictures(8)
    kd.check_examples_independent(model, images=x)
    rules = layer_rules(model)
    assert not [rule for rule in rules if isinstance(rule.rule, VectorizedRule)]
    assert len(clipping_groups(model, rules, "block")) == len(rules)
    assert len(set(clipping_groups(model, rules, "block"))) > 3  # not one around all of it

    # The faulty twin: mirror images stand among the records in training too.
    def call(self, images, training=None):
        return original(self, images, training=False)

    original = feature_head.MirrorAverage.call
    monkeypatch.setattr(feature_head.MirrorAverage, "call", call)
    with pytest.raises(InputError, match="belongs to two layers"):
        layer_rules(shaken(classifier()))


def test_a_mirror_average_round_trips():
    (layer,) = (x for x in classifier().layers if isinstance(x, feature_head.MirrorAverage))
    again = feature_head.MirrorAverage.from_config(layer.get_config())
    assert again.name == layer.name
    again.set_weights(layer.get_weights())
    for name, found in again(pictures()).items():
        np.testing.assert_allclose(found, layer(pictures())[name], atol=1e-6)


def test_images_do_not_mix():
    model, x = shaken(classifier()), pictures()
    alone = np.concatenate([model(x[i : i + 1]).numpy() for i in range(len(x))])
    np.testing.assert_allclose(model(x).numpy(), alone, atol=1e-5)


def test_a_saved_model_is_the_same(tmp_path):
    model = shaken(classifier(head_blocks=["features", "tokens"]))
    model.get_layer("whitened_features").directions.assign_add(
        np.ones(model.get_layer("whitened_features").directions.shape, "int8")
    )
    model.save(tmp_path / "model.keras")
    again = kd.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(pictures()).numpy(), model(pictures()).numpy(), atol=1e-6)
    fresh = classifier(head_blocks=["features", "tokens"])
    model.save_weights(tmp_path / "model.weights.h5")
    kd.load_initial_weights(fresh, tmp_path / "model.weights.h5")
    np.testing.assert_allclose(fresh(pictures()).numpy(), model(pictures()).numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"head": "round"}, "head must be one of flattened, pooled, whitened"),
        ({"head": "pooled"}, "mirrored needs head='flattened' or 'whitened'"),
        ({"final_norm": True}, "final_norm and head_hidden_dim need head='pooled'"),
        ({"head_blocks": ["stage_9"]}, "head_blocks must be some of features, stage_1, tokens"),
        ({"head_blocks": []}, "head_blocks must be some of"),
        ({"head_blocks": ["tokens", "tokens"]}, "head_blocks must be some of .*, each once"),
        ({"whitening_rank": 0}, "whitening_rank must be a whole number above 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        classifier(**arguments)


def test_a_branch_has_no_head_of_its_own():
    arguments = {**SMALL, "outputs": "tokens", "conv_module": "parallel"}
    model = kd.DPViTClassifier(kd.DPViTBackbone(**arguments), 3)
    with pytest.raises(InputError, match="model must have a head of one linear layer"):
        model.head_model()


@pytest.mark.parametrize("preset", presets_with_weights())
def test_shipped_weights_fit_their_preset(preset):
    model = kd.DPViTClassifier.from_preset(preset, 5, weights="synthetic")
    layers = synthetic_weights.whitened_layers(model)
    assert len(layers) == num_whitened_blocks(preset)
    for layer in layers:
        strengths = layer.strengths.numpy()
        assert np.isfinite(strengths).all()
        assert (strengths[:-1] > 0).all()
    shapes = kd.datasets.synthetic_shapes(4, 6, PRESETS[preset]["arguments"]["image_shape"], 123)
    features = model.features_model()(shapes.images).numpy()
    # Of one family they lie closer together than of two, though it never saw these families.
    products = (features @ features.T).reshape(4, 6, 4, 6).mean(axis=(1, 3))
    assert (np.diag(products)[:, None] >= products).all()
    assert not model.privacy_ledger.all_entries()
    assert model.privacy_notes == (synthetic_weights.NOTE,)


def test_shipped_weights_are_small():
    sizes = {}
    for preset in presets_with_weights():
        with synthetic_file(preset) as path:
            sizes[path] = path.stat().st_size
    assert len(presets_with_weights()) == 6
    assert len(sizes) == 3  # presets for larger images share a file
    assert sum(sizes.values()) < 10e6


def test_lower_ranks_shrink_to_their_own_last_variance():
    model = kd.DPViTClassifier.from_preset(
        "dpvit_scatter_28", 2, weights="synthetic", whitening_rank=20, head_blocks=["tokens"]
    )
    (layer,) = synthetic_weights.whitened_layers(model)
    assert layer.directions.shape[1] == 20
    assert layer.strengths.numpy()[-1] == 0


def test_weights_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(InputError, match="made for the preset's own sizes"):
        kd.DPViTClassifier.from_preset("dpvit_scatter_28", 2, weights="synthetic", hidden_dim=32)
    with pytest.raises(
        InputError, match="weights must be 'synthetic', for one of dpvit_scatter_128"
    ):
        kd.DPViTClassifier.from_preset("dpvit_tiny_8", 2, weights="synthetic")
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(InputError, match="weights cannot be read from"):
        kd.DPViTClassifier.from_preset("dpvit_scatter_28", 2, weights=str(damaged))


def test_all_outputs_of_the_backbone():
    backbone = kd.DPViTBackbone(**SMALL)
    found = backbone(pictures())
    assert {name: tuple(x.shape[1:]) for name, x in found.items()} == {
        "features": (4, 4, 81),
        "stage_1": (16, 8),
        "tokens": (8, 8),
    }
    pooled = kd.DPViTClassifier(backbone, 3)  # a pooled head reads the last tokens alone
    assert "conv_branch" not in {layer.name for layer in pooled.layers}


def test_luma_features_of_a_gray_picture_are_those_of_one_channel():
    arguments = {**SMALL, "input_scaling": "range"}
    gray = kd.DPViTBackbone(**arguments)
    colour = kd.DPViTBackbone(**{**arguments, "image_shape": (16, 16, 3), "scattering_luma": True})
    x = pictures()
    found = colour(np.repeat(x, 3, axis=-1))["features"].numpy()
    assert found.shape[-1] == 83
    np.testing.assert_allclose(found[..., :81], gray(x)["features"].numpy(), atol=1e-3)
    np.testing.assert_allclose(found[..., 81:], 0, atol=1e-5)


def test_the_head_trains_without_privacy_too():
    keras.utils.set_random_seed(0)
    model, x = classifier(), pictures(30)
    y = np.arange(30) % 3
    kd.choose_trainable(model, "head")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(5.0), loss, metrics=["accuracy"])
    history = model.fit(x, y, epochs=15, verbose=0, public_data=True)
    assert history.history["accuracy"][-1] > 0.9
