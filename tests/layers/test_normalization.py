"""Layer normalisation and the noise on its statistics."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dpvit.errors import InputError
from keras_dpvit.layers import DPLayerNormalization, ImageStandardization


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(2, 9)),
    center=st.floats(-50, 50),
    spread=st.floats(0.01, 100),
    use_bias=st.booleans(),
)
def test_without_noise_it_is_layer_normalisation(shape, center, spread, use_bias):
    rng = np.random.default_rng(0)
    x = (center + spread * rng.standard_normal(shape)).astype("float32")
    layer = DPLayerNormalization(use_bias=use_bias)
    layer.build((None, *shape[1:]))
    weights = [rng.standard_normal(shape[-1]).astype("float32") for _ in layer.weights]
    layer.set_weights(weights)
    gain, bias = weights if use_bias else (weights[0], 0.0)
    wide = x.astype("float64")
    mean = wide.mean(axis=-1, keepdims=True)
    stddev = np.sqrt(wide.var(axis=-1, keepdims=True))
    expected = (wide - mean) / (stddev + 1e-6) * gain + bias
    for training in (False, True):
        found = layer(x, training=training).numpy()
        # Where the spread is far below the mean, float32 has few digits left of it.
        digits = 1e-6 * (1 + abs(center) / stddev.min())
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 + 10 * digits)


def statistics(layer, tokens, width, training):
    """The mean and deviation that the layer used, had back from its output.

    The input has mean 2 and deviation 1, half of the channels one below and one above.
    """
    x = np.tile(np.float32([1, 3] * (width // 2)), (tokens // 50, 50, 1))
    y = layer(x, training=training).numpy().astype("float64")
    stddev = 2.0 / (y.max(axis=-1) - y.min(axis=-1))
    mean = 3.0 - y.max(axis=-1) * stddev
    return mean.ravel(), stddev.ravel()


@pytest.mark.parametrize("noise_stddev", [0.05, 0.2])
def test_noise_has_the_stated_deviation(noise_stddev):
    layer = DPLayerNormalization(noise_stddev, seed=3)
    mean, stddev = statistics(layer, 20_000, 8, training=True)
    # 20,000 draws tell a deviation to half a per cent.
    for noise, center in ((mean, 2.0), (stddev, 1.0)):
        assert noise.mean() == pytest.approx(center, abs=0.03 * noise_stddev)
        assert noise.std() == pytest.approx(noise_stddev, rel=0.03)
    assert abs(np.corrcoef(mean, stddev)[0, 1]) < 0.03
    # A token's draw is its own, not its neighbour's nor its example's.
    for noise in (mean, stddev):
        assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.03
        assert abs(np.corrcoef(noise[50:], noise[:-50])[0, 1]) < 0.03


@pytest.mark.parametrize(
    ("training", "noise_at_inference", "noisy"),
    [(True, False, True), (False, False, False), (False, True, True), (True, True, True)],
)
def test_when_there_is_noise(training, noise_at_inference, noisy):
    layer = DPLayerNormalization(0.2, noise_at_inference)
    mean, stddev = statistics(layer, 100, 8, training)
    assert (mean.std() > 0.1) == noisy
    assert (stddev.std() > 0.1) == noisy


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("center", [0.0, 5.0])
def test_vanishing_deviation_stays_finite(dtype, center, monkeypatch):
    layer = DPLayerNormalization(0.5, dtype=dtype)
    x = tf.constant(center + np.random.default_rng(0).standard_normal((4, 6, 8)), "float32")
    # The worst draw: the noise takes the deviation away to the last digit.
    deviation = tf.sqrt(tf.math.reduce_variance(x, axis=-1, keepdims=True))
    draws = iter([tf.ones_like(deviation), -deviation])
    monkeypatch.setattr(layer, "draw_noise", lambda shape: next(draws))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    assert np.isfinite(tf.cast(y, tf.float32).numpy()).all()
    if dtype != "mixed_float16":  # no float16 holds this slope; training drops such a record
        assert np.isfinite(tape.gradient(y, x).numpy()).all()


@pytest.mark.parametrize("noise_stddev", [0.0, 0.3])
def test_constant_token_stays_finite(noise_stddev):
    x = tf.fill((50, 100, 4), 7.0)
    layer = DPLayerNormalization(noise_stddev, seed=0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    assert np.isfinite(y.numpy()).all()
    assert np.isfinite(tape.gradient(y, x).numpy()).all()
    if noise_stddev == 0.0:
        np.testing.assert_allclose(y, 0.0, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3)),
    epsilon=st.floats(0.1, 10),
    dtype=st.sampled_from(["uint8", "float32"]),
)
def test_images_are_standardised_one_by_one(shape, epsilon, dtype):
    images = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    found = ImageStandardization(epsilon)(images).numpy()
    for i, image in enumerate(images.astype("float64")):
        expected = (image - image.mean()) / (image.std() + epsilon)
        np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
@pytest.mark.parametrize("value", [0, 255])
def test_image_of_one_colour_becomes_nought(value, dtype):
    images = np.full((1, 28, 28, 3), value, "uint8")
    np.testing.assert_allclose(ImageStandardization(dtype=dtype)(images), 0.0, atol=1e-4)


def test_brightness_and_contrast_of_an_image_do_not_matter():
    images = np.random.default_rng(0).uniform(0, 100, (2, 8, 8, 1)).astype("float32")
    layer = ImageStandardization(1e-3)
    np.testing.assert_allclose(layer(2 * images + 40), layer(images), atol=1e-3)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("inf")])
def test_epsilon_of_images_is_above_0(epsilon):
    with pytest.raises(InputError, match="epsilon must be a finite number above 0"):
        ImageStandardization(epsilon)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise_stddev": -0.1}, "noise_stddev must be a finite number, 0 or above"),
        ({"noise_stddev": float("nan")}, "noise_stddev must be a finite number, 0 or above"),
        ({"epsilon": 0.0}, "epsilon must be a finite number above 0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        DPLayerNormalization(**arguments)
