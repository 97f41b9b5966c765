"""Features below a head, computed once."""

import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.training import frozen_features as room


def classifier(head="whitened"):
    backbone = kd.DPViTBackbone(
        (8, 8, 1),
        patch_size=4,
        hidden_dim=8,
        num_heads=2,
        stage_depths=(1, 1),
        mlp_ratio=1,
        outputs="all",
    )
    arguments = {"whitening_rank": 2, "mirrored": True} if head == "whitened" else {}
    return kd.DPViTClassifier(backbone, 3, head=head, **arguments)


def pictures(count=300, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1)).astype("float32")


@pytest.mark.parametrize("head", ["pooled", "flattened", "whitened"])
def test_features_are_the_input_of_the_logits(head):
    model, x = classifier(head), pictures()
    features = room.frozen_features(model, x)
    assert features.dtype == np.float16
    expected = model.features_model()(x).numpy()
    np.testing.assert_allclose(features.astype("float32"), expected, rtol=2e-3, atol=2e-3)


def test_features_in_two_steps_are_those_in_one():
    model, x = classifier(), pictures()
    blocks = room.whitened_inputs(model, x)
    np.testing.assert_allclose(
        room.features_of(model, blocks).astype("float32"),
        room.frozen_features(model, x).astype("float32"),
        atol=2e-3,
    )


def test_large_features_lie_in_a_file_without_a_name(monkeypatch, tmp_path):
    monkeypatch.setattr(room, "_IN_MEMORY", 10)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(room.tempfile, "tempdir", None)
    model, x = classifier(), pictures()
    features = room.frozen_features(model, x)
    assert isinstance(features, np.memmap)
    assert not list(tmp_path.iterdir())
    expected = model.features_model()(x).numpy()
    np.testing.assert_allclose(features.astype("float32"), expected, atol=2e-3)


def test_a_record_changes_its_own_row_alone():
    model, x = classifier(), pictures(40)
    changed = x.copy()
    changed[7] = 255 - changed[7]
    rows = room.frozen_features(model, x) != room.frozen_features(model, changed)
    assert rows[7].any()
    assert not np.delete(rows, 7, axis=0).any()


def test_a_head_trained_on_features_is_the_models_and_so_is_its_cost():
    model, x = classifier(), pictures()
    y = np.random.default_rng(1).integers(0, 3, 300)
    kd.center_features(model, x, 20.0, 300, 1e-4)
    head = kd.make_private(model.head_model(), trainable="head")
    head.start_from(model.privacy_ledger, model.privacy_notes)
    plan = kd.PrivacyPlan(
        300, 100, 2, 1e-4, 1.0, clipping=kd.FlatClipping(), sensitivity=kd.FixedSensitivity(0.1)
    )
    head.compile(
        kd.DPKerasSGDOptimizer(plan, learning_rate=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    features = room.frozen_features(model, x)
    head.fit(features, y, epochs=2, verbose=0)
    kernel = model.get_layer("logits").kernel.numpy()
    assert np.any(kernel != 0)
    np.testing.assert_allclose(
        model(x).numpy(), head(features.astype("float32")).numpy(), atol=0.02 * np.abs(kernel).max()
    )
    kinds = [entry.details.get("release", "steps") for entry in model.privacy_ledger.all_entries()]
    assert kinds == ["mean", "mean", "mean", "steps"]
    assert model.privacy_ledger.epsilon(1e-4) > plan.epsilon()
    assert model.privacy_ledger.epsilon(1e-4) == head.privacy_ledger.epsilon(1e-4)
