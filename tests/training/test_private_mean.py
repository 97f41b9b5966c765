"""Means released with noise, and the features that they centre."""

import math

import dp_accounting
import numpy as np
import pytest
import scipy.stats

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import randomness
from keras_dpvit.privacy.ledger import PrivacyLedger
from keras_dpvit.privacy.ledger_entries import mean_entry
from keras_dpvit.training import private_mean as room
from keras_dpvit.training.frozen_features import whitened_inputs

CLIP = 0.7
BAD_RECORDS = {
    "huge": [1e30, -1e30, 1e30],
    "overflowing": [1e300, 1e300, -1e300],
    "nan": [math.nan, 1.0, 1.0],
    "infinite": [math.inf, 0.0, 0.0],
    "tiny": [1e-300, 0.0, 0.0],
    "ordinary": [0.3, -0.2, 0.1],
}


def moved(sum_of, record):
    """The distance by which one record more moves the sum of others."""
    others = np.random.default_rng(0).normal(size=(50, 3))
    with_it = np.concatenate([others, np.asarray(record, "float64")[None]])
    return np.linalg.norm(sum_of(with_it) - sum_of(others))


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_one_record_moves_the_sum_by_the_clip_at_most(name):
    def sum_of(rows):
        return room.clipped_rows(rows, CLIP).sum(axis=0)

    assert moved(sum_of, BAD_RECORDS[name]) <= CLIP * (1 + 1e-9)


@pytest.mark.parametrize("faulty", ["not clipped", "by the longest of the batch", "nan passes"])
def test_faulty_sums_are_seen(faulty):
    def sum_of(rows):
        if faulty == "nan passes":
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            return (rows * np.minimum(1, CLIP / norms)).sum(axis=0)
        finite = rows[np.isfinite(rows).all(axis=1)]
        if faulty == "not clipped":
            return finite.sum(axis=0)
        return (finite * CLIP / np.linalg.norm(finite, axis=1).max()).sum(axis=0)

    found = [moved(sum_of, record) for record in BAD_RECORDS.values()]
    assert not all(distance <= CLIP * (1 + 1e-9) for distance in found)


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_unit_rows_have_length_one_or_zero(name):
    record = np.asarray(BAD_RECORDS[name])[None]
    length = np.linalg.norm(room.unit_rows(record))
    assert length == 0 or abs(length - 1) < 1e-9
    assert (length == 0) == (not np.isfinite(record).all())


def test_noise_has_the_scale_that_the_entry_says():
    # 20,000 coordinates under a fixed seed: the test is the same every time.
    found = kd.private_mean(np.zeros((4, 20_000)), 2.5, 10, 1e-5, l2_norm_clip=CLIP, seed=1)
    standard = found.mean.astype("float64") * 10 / (2.5 * CLIP)
    assert scipy.stats.kstest(standard, "norm").pvalue > 1e-3
    for wrong in (0.9, 1.1):
        assert scipy.stats.kstest(standard * wrong, "norm").pvalue < 1e-6
    assert found.entry.noise_multiplier == 2.5


def test_noise_is_drawn_anew_without_a_seed():
    first, second = (kd.private_mean(np.zeros((4, 50)), 1.0, 4, 1e-5) for _ in range(2))
    assert not np.any(first.mean == second.mean)
    assert first.entry.release_id != second.entry.release_id


def test_mean_is_over_the_public_number_and_batches_add_up():
    rows = np.random.default_rng(2).normal(size=(40, 5))
    arguments = {
        "noise_multiplier": 1e-6,
        "num_examples": 80,
        "delta": 1e-5,
        "l2_norm_clip": 99,
        "seed": 3,
    }
    whole = kd.private_mean(rows, **arguments)
    parts = kd.private_mean([rows[:7], rows[7:]], **arguments)
    np.testing.assert_allclose(whole.mean, rows.sum(axis=0) / 80, atol=1e-5)
    np.testing.assert_allclose(whole.mean, parts.mean, atol=1e-7)


def test_equal_noise_is_not_given_twice(monkeypatch):
    monkeypatch.setattr(randomness, "_reuse_allowed", False)
    kd.private_mean(np.zeros((2, 3)), 1.0, 2, 1e-5, seed=41)
    with pytest.raises(InputError, match="seed has given its noise to another training"):
        kd.private_mean(np.ones((2, 3)), 1.0, 2, 1e-5, seed=41)


@pytest.mark.parametrize("noise_multiplier", [1.0, 5.0, 20.0])
def test_epsilon_is_that_of_a_gaussian(noise_multiplier):
    ledger = PrivacyLedger((mean_entry(noise_multiplier, 1000, 1e-5),))
    accountant = dp_accounting.pld.PLDAccountant()
    accountant.compose(dp_accounting.GaussianDpEvent(noise_multiplier))
    assert ledger.epsilon(1e-5, "pld") == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"noise_multiplier": 0.0}, "noise_multiplier must be"),
        ({"num_examples": 0}, "num_examples must be a whole number above 0"),
        ({"delta": 1.0}, "delta must lie strictly between 0 and 1"),
        ({"l2_norm_clip": -1.0}, "l2_norm_clip must be"),
        ({"vectors": np.zeros(3)}, "vectors must be .records, width., got .3,."),
        ({"vectors": []}, "vectors must hold at least one batch"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    good = {"vectors": np.zeros((2, 3)), "noise_multiplier": 1.0, "num_examples": 2, "delta": 1e-5}
    with pytest.raises(InputError, match=words):
        kd.private_mean(**{**good, **arguments})


def whitened(**arguments):
    backbone = kd.DPViTBackbone(
        (8, 8, 1), patch_size=4, hidden_dim=8, num_heads=2, stage_depths=(1,), mlp_ratio=1
    )
    return kd.DPViTClassifier(backbone, 3, head="whitened", whitening_rank=2, **arguments)


def pictures(count=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1)).astype("float32")


def test_centred_features_cost_one_release_a_block():
    model, x = whitened(), pictures()
    kd.center_features(model, x, 20.0, len(x), 1e-5)
    (entry,) = model.privacy_ledger.all_entries()
    assert (entry.noise_multiplier, entry.sampling_probability, entry.steps) == (20.0, 1.0, 1)
    statement = model.privacy_statement(1e-5)
    assert "Weights came from elsewhere" not in statement
    assert "the mean of a feature vector over all records" in " ".join(statement.split())


def test_a_mean_put_in_by_hand_is_seen():
    model = whitened()
    model.privacy_ledger  # noqa: B018 - looks at the weights as they are
    layer = next(x for x in model.layers if x.name == "whitened_tokens")
    layer.mean.assign(np.full(layer.mean.shape, 0.1))
    assert "Weights came from elsewhere" in model.privacy_statement(1e-5)


def test_features_are_centred_at_the_mean():
    model, x = whitened(), pictures(400)
    kd.center_features(model, x, 1e-6, len(x), 1e-5, seed=4)
    (block,) = whitened_inputs(model, x)
    mean = room.unit_rows(block).mean(axis=0)
    layer = next(x for x in model.layers if x.name == "whitened_tokens")
    np.testing.assert_allclose(layer.mean.numpy(), mean, atol=1e-4)


def test_a_model_without_such_a_head_is_refused():
    model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", 3)
    with pytest.raises(InputError, match="model must have head='whitened'"):
        kd.center_features(model, pictures(), 20.0, 40, 1e-5)


def test_a_target_covers_means_and_steps():
    entry = mean_entry(20.0, 1000, 1e-5)
    arguments = {
        "epsilon": 2.0,
        "delta": 1e-5,
        "num_examples": 1000,
        "batch_size": 100,
        "epochs": 2,
    }
    alone = kd.PrivacyPlan.for_target(**arguments)
    for compositions in (1, 2):
        prior = PrivacyLedger((entry,) * 3)
        plan = kd.PrivacyPlan.for_target(**arguments, prior=prior, compositions=compositions)
        assert plan.noise_multiplier > alone.noise_multiplier
        whole = PrivacyLedger((*prior.entries, *plan.entries(plan.steps)) * compositions)
        assert 1.98 <= whole.epsilon(1e-5) <= 2.0
        # The faulty twin: a plan that forgets the means goes past the target.
        without = kd.PrivacyPlan.for_target(**arguments, compositions=compositions)
        forgotten = PrivacyLedger((*prior.entries, *without.entries(without.steps)) * compositions)
        assert forgotten.epsilon(1e-5) > 2.0
