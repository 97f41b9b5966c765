"""Indices that a table does not have: their records count as zero, and nothing ends."""

import keras
import numpy as np
import pytest

import keras_dpvit as kd

RECORDS = 8
WORDS = np.random.default_rng(0).integers(0, 6, (RECORDS, 4))
LABELS = np.arange(RECORDS) % 3


def step_sum(words, labels, trainable=True):
    """The sum of one step without noise, from fixed weights."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            layers.Embedding(6, 3, trainable=trainable),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    start = [v.numpy() for v in network.trainable_variables]
    model = kd.make_private(network)
    plan = kd.PrivacyPlan(
        RECORDS, RECORDS, 1, 1e-3, noise_multiplier=0.0, sensitivity=kd.FixedSensitivity(0.5)
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kd.DPKerasSGDOptimizer(plan, 100.0), loss)
    model.fit(words, labels, verbose=0)
    moved = [np.ravel(a - v.numpy()) for a, v in zip(start, model.trainable_variables, strict=True)]
    return np.concatenate(moved) * RECORDS / 100.0


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("index", [6, -7, 2**31 - 1])
def test_an_index_past_the_end_makes_its_record_count_as_zero(index, trainable):
    bad = WORDS[0].copy()
    bad[2] = index
    more = np.concatenate([WORDS, bad[None]]), np.append(LABELS, 1)
    np.testing.assert_allclose(
        step_sum(*more, trainable), step_sum(WORDS, LABELS, trainable), atol=1e-6
    )
    assert np.abs(step_sum(WORDS, LABELS, trainable)).max() > 0


def test_negative_indices_count_from_the_end_as_in_keras():
    np.testing.assert_allclose(
        step_sum(np.where(WORDS == 5, -1, WORDS), LABELS), step_sum(WORDS, LABELS), atol=1e-6
    )
