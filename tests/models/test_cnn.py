"""The small convolutional network."""

import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.errors import InputError


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (16, 40, 3)])
def test_it_trains_privately(shape):
    model = kd.make_private(kd.small_cnn(shape, 4))
    x = np.random.default_rng(0).integers(0, 256, (24, *shape)).astype("float32")
    plan = kd.PrivacyPlan(
        24, 12, 1, 1e-3, noise_multiplier=1.0, sensitivity=kd.FixedSensitivity(1.0)
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kd.DPKerasSGDOptimizer(plan), loss)
    before = [w.numpy() for w in model.trainable_variables]
    model.fit(x, np.arange(24) % 4, verbose=0)
    assert model.privacy_ledger.epsilon(1e-3) == plan.epsilon()
    after = [w.numpy() for w in model.trainable_variables]
    assert all(np.any(a != b) for a, b in zip(before, after, strict=True))


def test_it_has_no_layer_that_mixes_images():
    x = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype("float32")
    model = kd.small_cnn((32, 32, 3), 10)
    alone = np.concatenate([model(x[i : i + 1]).numpy() for i in range(3)])
    np.testing.assert_allclose(model(x).numpy(), alone, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((12, 32, 3), "image_shape must have sides of at least 16"),
        ((32, 32), "image_shape must be"),
    ],
)
def test_bad_shapes_are_refused(shape, words):
    with pytest.raises(InputError, match=words):
        kd.small_cnn(shape, 10)
