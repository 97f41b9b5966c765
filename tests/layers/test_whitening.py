"""Whitened and joined features against NumPy."""

import keras
import numpy as np
import pytest

from keras_dpvit.errors import InputError
from keras_dpvit.layers import JoinedFeatures, LumaChroma, WhitenedFeatures
from keras_dpvit.layers.whitening import quantized_directions

WIDTH, COUNT = 12, 5


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def constants(seed=0):
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0][:, :COUNT]
    mean = 0.1 * rng.normal(size=WIDTH)
    variances = np.sort(rng.uniform(0.1, 2, COUNT))[::-1]
    return mean, directions, variances


def by_hand(x, mean, directions, variances):
    z = unit(unit(x) - mean)
    shrunk = z
    for direction, variance in zip(directions.T, variances, strict=True):
        factor = np.sqrt(variances[-1] / variance)
        along = (z @ direction)[:, None] * direction
        shrunk = shrunk - along + factor * along
    return unit(shrunk)


@pytest.mark.parametrize("rank", [1, 3, COUNT])
def test_directions_are_shrunk_to_the_last_variance(rank):
    mean, directions, variances = constants()
    layer = WhitenedFeatures(rank)
    layer.build((None, WIDTH))
    layer.take(mean, *quantized_directions(directions), variances)
    x = np.random.default_rng(1).normal(size=(20, WIDTH)).astype("float32")
    found = keras.ops.convert_to_numpy(layer(x))
    expected = by_hand(x, mean, directions[:, :rank], variances[:rank])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found, expected, atol=0.03)  # int8 directions
    as_stored = [
        d * s
        for d, s in zip(
            quantized_directions(directions)[0].T.astype(float),
            quantized_directions(directions)[1],
            strict=True,
        )
    ]
    exact = by_hand(x, mean, np.stack(as_stored[:rank], axis=1), variances[:rank])
    np.testing.assert_allclose(found, exact, atol=2e-6)


def test_a_new_layer_changes_lengths_alone():
    layer = WhitenedFeatures(3)
    x = np.random.default_rng(2).normal(size=(4, WIDTH)).astype("float32")
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(x)), unit(x), atol=1e-6)
    assert not layer.trainable_variables


def test_zero_and_huge_vectors_stay_finite():
    layer = WhitenedFeatures(3)
    x = np.array([np.zeros(WIDTH), np.full(WIDTH, 1e15)], "float32")
    assert np.isfinite(keras.ops.convert_to_numpy(layer(x))).all()


def test_constants_of_another_width_are_refused():
    layer = WhitenedFeatures(COUNT)
    layer.build((None, WIDTH))
    mean, directions, variances = constants()
    with pytest.raises(InputError, match="directions must be at least 5 of width 12"):
        layer.take(mean, *quantized_directions(directions[:, :2]), variances[:2])


def test_joined_features_have_length_one_and_the_constant():
    rng = np.random.default_rng(3)
    blocks = [unit(rng.normal(size=(6, width))).astype("float32") for width in (3, 8, 2)]
    found = keras.ops.convert_to_numpy(JoinedFeatures(0.25)(blocks))
    assert found.shape == (6, 14)
    np.testing.assert_allclose(np.linalg.norm(found[:, :-1], axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found[:, -1], 0.25)
    np.testing.assert_allclose(found[:, 3:11], blocks[1] / np.sqrt(3), atol=1e-7)


def test_gray_images_have_luma_alone():
    gray = np.repeat(np.random.default_rng(4).uniform(0, 255, (2, 3, 3, 1)), 3, axis=-1)
    found = keras.ops.convert_to_numpy(LumaChroma()(gray.astype("float32")))
    np.testing.assert_allclose(found[..., 0], gray[..., 0], rtol=1e-5)
    np.testing.assert_allclose(found[..., 1:], 0, atol=1e-3)
    with pytest.raises(InputError, match="images must have 3 channels, got 1"):
        LumaChroma()(gray[..., :1])
