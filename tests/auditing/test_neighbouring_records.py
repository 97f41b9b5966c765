"""The trial of one record more: it holds for what the package does, and finds what is broken."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.auditing import neighbouring_records, neighbours
from keras_dpvit.gradients import clipped_gradients, ghost_norm, per_example, reductions
from keras_dpvit.training import trainer, trial

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(scope="module")
def records(digit_images):
    return digit_images.x_train[:12].astype("float32"), digit_images.y_train[:12]


def a_plan(cap=0.5):
    return kd.PrivacyPlan(12, 12, 1, 1e-5, 1.0, kd.FlatClipping(), kd.FixedSensitivity(cap))


def private(*layers):
    keras.utils.set_random_seed(1)
    return kd.make_private(keras.Sequential([keras.Input((8, 8, 1)), *layers]))


def dense(outputs=10):
    return private(keras.layers.Flatten(), keras.layers.Dense(outputs))


def cancelling():
    layers = keras.layers
    return private(
        layers.Reshape((4, 16)),
        layers.Dense(64, use_bias=False),
        layers.GlobalAveragePooling1D(),
        layers.Dense(10),
    )


CANCELLING = np.repeat(np.array([1.0, -1.0, 2.0, -2.0])[:, None], 16, axis=1).reshape(8, 8, 1)


def worst(model, loss, x, y, **extra):
    return neighbours(model, loss, x, y, a_plan(), extra or None)


def test_every_adversarial_record_keeps_to_the_sensitivity(records):
    x, y = records
    found = worst(dense(), SPARSE, x, y)
    assert len(found.ratios) > 15
    assert found.learned
    assert found.holds
    assert found.worst[1] > 0.9  # so a bound declared too large would be seen
    for name in ("image: NaN", "label: out of range", "label: minus one"):
        assert found.ratios[name] < 1e-4
    numbers = y.astype("float32")
    assert worst(dense(1), "mse", x, numbers).holds


def a_cancelling_record(scale):
    noise = 1e-4 * np.random.default_rng(0).standard_normal((8, 8, 1))
    return (scale * CANCELLING + noise).astype("float32")


def test_tokens_that_cancel_keep_to_it_and_a_plain_gram_matrix_does_not(records, monkeypatch):
    x, y = records
    extra = {f"at {scale:g}": (a_cancelling_record(scale), y[0]) for scale in (1e4, 1e8)}
    assert worst(cancelling(), SPARSE, x, y, **extra).holds

    def plain(inputs, gradients):
        pairs = tf.matmul(inputs, inputs, transpose_b=True)
        pairs *= tf.matmul(gradients, gradients, transpose_b=True)
        return tf.cast(tf.maximum(tf.reduce_sum(pairs, axis=(1, 2)), 0.0), tf.float64)

    monkeypatch.setattr(ghost_norm.native, "gram_norms", plain)
    assert not worst(cancelling(), SPARSE, x, y, **extra).holds


def test_rows_left_in_the_factors_are_found(records, monkeypatch):
    x, y = records
    extra = {"NaN": (np.full((8, 8, 1), np.nan), y[0])}
    monkeypatch.setattr(per_example, "_rows_or_zeros", lambda tensor, usable: tensor)
    assert not worst(dense(), SPARSE, x, y, **extra).holds


def test_a_loss_of_the_whole_batch_is_found(records, monkeypatch):
    x, y = records
    extra = {f"label {label:g}": (x[0], np.float32(label)) for label in (1e6, -1e6)}
    numbers = y.astype("float32")
    assert worst(dense(1), "mse", x, numbers, **extra).holds

    def together(losses):
        function = losses[0].loss.call

        def of_batch(labels, outputs, weights=None):
            return tf.reduce_mean(function(labels[None], outputs), axis=0)

        return of_batch

    monkeypatch.setattr(trainer, "RecordLosses", together)
    monkeypatch.setattr(trial, "check_examples_independent", lambda *arguments: None)
    assert not worst(dense(1), lambda y, p: tf.square(y - p), x, numbers, **extra).holds


def test_a_step_without_the_cap_is_found(records, monkeypatch):
    x, y = records

    def uncapped(norms, factors, cap):
        del cap
        return tf.cast(factors, tf.float32), tf.cast(tf.norm(norms, axis=1), tf.float32)

    monkeypatch.setattr(clipped_gradients, "release_weights", uncapped)
    assert not worst(dense(), SPARSE, x, y, bright=(1e6 * np.ones((8, 8, 1)), y[0])).holds


def test_norms_too_small_are_found(records, monkeypatch):
    x, y = records
    true = reductions.squared_norms
    monkeypatch.setattr(reductions, "squared_norms", lambda rows: 0.25 * true(rows))
    assert not worst(dense(), SPARSE, x, y, other=(x[3], y[0])).holds


@pytest.mark.parametrize(("dropout", "copies"), [(0.0, 1), (0.3, 4)])
def test_only_a_model_that_draws_is_copied_for_each_record(records, monkeypatch, dropout, copies):
    x, y = records
    made = []
    copy = neighbouring_records._copy
    monkeypatch.setattr(
        neighbouring_records, "_copy", lambda model: made.append(model) or copy(model)
    )
    model = private(
        keras.layers.Reshape((8, 8)), keras.layers.GRU(3, dropout=dropout), keras.layers.Dense(10)
    )
    extra = {"bright": (100 * np.ones((8, 8, 1)), y[0]), "NaN": (np.full((8, 8, 1), np.nan), y[0])}
    found = worst(model, SPARSE, x, y, **extra)
    assert found.holds
    assert found.ratios["NaN"] < 1e-4  # the others drew the same
    assert len(made) == copies


def test_plans_that_declare_nothing_are_refused(records):
    published = kd.PrivacyPlan.as_published(
        num_examples=12, batch_size=12, epochs=1, delta=1e-5, noise_multiplier=1.0
    )
    with pytest.raises(kd.InputError, match="certified"):
        neighbours(dense(), SPARSE, *records, published)
