"""SpectralNormalization: its state comes from weights alone."""

import keras
import numpy as np
import pytest

import keras_dpvit as kd

RECORDS, STEPS = 40, 3


@pytest.fixture(scope="module")
def digits(digit_images):
    x = digit_images.x_train[:RECORDS].reshape(RECORDS, 8, 8, 1).astype("float32") / 255
    return x, digit_images.y_train[:RECORDS].astype("int64")


def network():
    keras.utils.set_random_seed(2)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.SpectralNormalization(layers.Conv2D(3, 3, activation="relu")),
            layers.Flatten(),
            layers.SpectralNormalization(layers.Dense(10), power_iterations=2),
        ]
    )


LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def trained_privately(data, **options):
    model = kd.make_private(network())
    plan = kd.PrivacyPlan(
        RECORDS, RECORDS, STEPS, 1e-3, noise_multiplier=0.0,
        clipping=kd.FlatClipping(), sensitivity=kd.FixedSensitivity(1e6),
    )  # fmt: skip
    model.compile(kd.DPKerasSGDOptimizer(plan, 0.1), LOSS)
    model.fit(*data, epochs=STEPS, verbose=0, **options)
    return model.network.get_weights()


@pytest.mark.parametrize("physical", [None, 7])
def test_it_trains_as_plain_keras_does(digits, physical):
    """Without noise or clipping, whole batches: the weights and the vectors, chunks or not."""
    plain = network()
    start = plain.get_weights()
    plain.compile(keras.optimizers.SGD(0.1), LOSS, jit_compile=False)
    plain.fit(*digits, batch_size=RECORDS, epochs=STEPS, shuffle=False, verbose=0)
    found = trained_privately(digits, physical_batch_size=physical)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(found, start, strict=True))
    for ours, theirs in zip(found, plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_loop_of_ones_own_normalises_too(digits):
    model = kd.make_private(network())
    plan = kd.PrivacyPlan(RECORDS, 20, 1, 1e-3, noise_multiplier=1.0)
    losses = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    step = kd.PrivateStep(
        model, plan, lambda m, batch: losses(batch[1], m(batch[0], training=True))
    )
    before = model.get_weights()
    for batch in step.batches(*digits):
        step.apply(keras.optimizers.SGD(0.1), step.gradients(batch))
        break
    after = model.get_weights()
    assert all(np.isfinite(own).all() for own in after)
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, after, strict=True))
