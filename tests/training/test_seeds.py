"""A seed makes noise repeatable, and no two trainings of a process may have the same."""

import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.privacy import randomness


@pytest.fixture(autouse=True)
def nobody_may_repeat(monkeypatch):
    monkeypatch.setattr(randomness, "_reuse_allowed", False)
    monkeypatch.setattr(randomness, "_claimed", {})


@pytest.fixture(scope="module")
def records(digit_images):
    return digit_images.x_train[:60], digit_images.y_train[:60]


def a_model(seed=3, noise_multiplier=1.0, initial=0):
    keras.utils.set_random_seed(initial)
    network = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    model = kd.make_private(network)
    plan = kd.PrivacyPlan(60, 20, 2, 1e-5, noise_multiplier, seed=seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kd.DPKerasSGDOptimizer(plan, 0.1), loss)
    return model


def noise_key(model):
    return model.private_trainer.keys.noise.numpy().tolist()


def test_a_second_training_with_the_same_noise_is_refused(records):
    a_model().fit(*records, verbose=0)
    with pytest.raises(kd.InputError, match=r"^seed has given its noise") as refused:
        a_model().fit(*records, verbose=0)
    assert "\n" not in str(refused.value)


def test_one_training_goes_on_and_others_have_other_noise(records):
    model = a_model()
    model.fit(*records, verbose=0)
    model.fit(*records, verbose=0)
    a_model(seed=4).fit(*records, verbose=0)
    a_model(initial=1).fit(*records, verbose=0)  # from other weights
    assert noise_key(a_model()) != noise_key(a_model(initial=1)) != noise_key(a_model(seed=4))


def test_without_noise_nothing_is_hidden_and_nothing_refused(records):
    for _ in range(2):
        a_model(noise_multiplier=0.0).fit(*records, verbose=0)


def test_weights_loaded_under_a_seed_meet_no_noise_again(records, tmp_path):
    model = a_model()
    model.fit(*records, verbose=0)
    first = noise_key(model)
    model.save_weights(tmp_path / "half.weights.h5")
    again = a_model()
    again.load_weights(tmp_path / "half.weights.h5")
    again.fit(*records, verbose=0)
    assert noise_key(again) != first


def test_two_models_that_repeat_noise_would_show_their_difference(records):
    """The faulty twin: with equal keys the difference of two models has no noise in it."""
    x, y = records
    with randomness.repeatable():
        ends = []
        for extra in (0, 1):
            model = a_model()
            model.fit(np.concatenate([x, x[:extra]]), np.append(y, y[:extra]), verbose=0)
            ends.append(np.concatenate([np.ravel(w) for w in model.get_weights()]))
    stddev = 0.1 / 20  # of the noise on each of the 650 weights and a step, at least
    assert np.linalg.norm(ends[0] - ends[1]) < 0.5 * stddev * np.sqrt(650)
