"""Indices that a table does not have: their records count as zero, and nothing ends."""

import functools

import keras
import numpy as np
import pytest

import keras_dpvit as kd

RECORDS = 8
WORDS = np.random.default_rng(0).integers(0, 6, (RECORDS, 4))
LABELS = np.arange(RECORDS) % 3


@functools.cache
def step(trainable, kernels):
    """The sum of one step without noise, of any words and labels from the same weights."""
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
    start, model = network.get_weights(), kd.make_private(network)
    plan = kd.PrivacyPlan(
        RECORDS, RECORDS, 20, 1e-3, noise_multiplier=0.0, sensitivity=kd.FixedSensitivity(0.5)
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kd.DPKerasSGDOptimizer(plan, 100.0), loss)

    def step_sum(words, labels):
        network.set_weights(start)
        before = [v.numpy() for v in model.trainable_variables]
        model.fit(words, labels, verbose=0)
        after = [v.numpy() for v in model.trainable_variables]
        moved = [np.ravel(a - b) for a, b in zip(before, after, strict=True)]
        return np.concatenate(moved) * RECORDS / 100.0

    return step_sum


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("index", [6, -7, 2**31 - 1])
def test_an_index_past_the_end_makes_its_record_count_as_zero(index, trainable, kernels_in_use):
    step_sum = step(trainable, kernels_in_use)
    bad = WORDS[0].copy()
    bad[2] = index
    more = np.concatenate([WORDS, bad[None]]), np.append(LABELS, 1)
    expected = step_sum(WORDS, LABELS)
    np.testing.assert_allclose(step_sum(*more), expected, atol=1e-6)
    assert np.abs(expected).max() > 0


def test_negative_indices_count_from_the_end_as_in_keras(kernels_in_use):
    step_sum = step(True, kernels_in_use)
    np.testing.assert_allclose(
        step_sum(np.where(WORDS == 5, -1, WORDS), LABELS), step_sum(WORDS, LABELS), atol=1e-6
    )
