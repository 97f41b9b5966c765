"""Self-attention and threshold attention against NumPy."""

import math

import numpy as np
import pytest
import tensorflow as tf

from keras_dpvit.errors import InputError
from keras_dpvit.layers import SelfAttention, ThresholdAttention
from keras_dpvit.layers.pooling import grid_coordinates

GRID = [[x, y] for y in range(2) for x in range(3)]


def built(layer, shape, shake=None):
    layer.build((None, *shape[1:]))
    if shake is not None:
        shake(layer)
    return layer


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_self_attention_is_that_of_numpy(num_heads, numpy_attention, rng, shake):
    x = rng.standard_normal((3, 5, 8)).astype("float32")
    layer = built(SelfAttention(num_heads), x.shape, shake)
    weights = numpy_attention.weights(layer, x)
    np.testing.assert_allclose(layer.attention_weights(x), weights, rtol=1e-4, atol=1e-6)
    expected = numpy_attention.attend(layer, x, weights)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_threshold_attention_is_that_of_numpy(num_heads, numpy_attention, rng, shake):
    x = rng.standard_normal((3, 6, 8)).astype("float32")
    layer = built(ThresholdAttention(num_heads, GRID), x.shape, shake)
    gate = 1 / (1 + np.exp(-layer.position_gate.gate.numpy()))[:, None, None]
    place = numpy_attention.place(layer.position_gate, np.float64(GRID))
    weights = (1 - gate) * numpy_attention.weights(layer, x) + gate * place
    np.testing.assert_allclose(layer.attention_weights(x), weights, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0)
    expected = numpy_attention.attend(layer, x, weights)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cls", [SelfAttention, ThresholdAttention])
def test_attention_rows_sum_to_one(cls, rng, shake):
    x = rng.standard_normal((2, 9, 8)).astype("float32")
    weights = built(cls(4), x.shape, shake).attention_weights(x).numpy()
    assert weights.dtype == np.float32
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)


def test_wide_open_gate_sees_place_alone(numpy_attention, rng, shake):
    x = rng.standard_normal((2, 6, 8)).astype("float32")
    layer = built(ThresholdAttention(2, GRID), x.shape, shake)
    layer.position_gate.gate.assign([60.0, 60.0])
    place = numpy_attention.place(layer.position_gate, np.float64(GRID))
    expected = np.broadcast_to(place, (2, *place.shape))
    np.testing.assert_allclose(layer.attention_weights(x), expected, rtol=1e-4, atol=1e-6)


def test_closed_gate_is_self_attention(numpy_attention, rng, shake):
    x = rng.standard_normal((2, 6, 8)).astype("float32")
    layer = built(ThresholdAttention(2, GRID), x.shape, shake)
    layer.position_gate.gate.assign([-60.0, -60.0])
    plain = built(SelfAttention(2), x.shape)
    for part in ("query", "key", "value", "output_projection"):
        getattr(plain, part).set_weights(getattr(layer, part).get_weights())
    np.testing.assert_allclose(layer(x), plain(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        layer.attention_weights(x), numpy_attention.weights(layer, x), rtol=1e-4, atol=1e-6
    )


def test_gates_of_heads_are_separate(rng):
    x = rng.standard_normal((2, 9, 8)).astype("float32")
    layer = built(ThresholdAttention(4), x.shape)
    before = layer.attention_weights(x).numpy()
    layer.position_gate.gate.assign([1.0, 1.0, -2.0, 1.0])
    moved = np.abs(layer.attention_weights(x).numpy() - before).max(axis=(0, 2, 3))
    assert moved[2] > 0.01
    np.testing.assert_array_equal(moved[[0, 1, 3]], 0.0)


def test_threshold_attention_starts_local():
    layer = built(ThresholdAttention(4), (None, 25, 12))
    np.testing.assert_array_equal(layer.value.kernel, np.eye(12))
    np.testing.assert_array_equal(layer.value.bias, 0.0)
    np.testing.assert_array_equal(layer.position_gate.gate, 1.0)
    # The kernels that compare content are not the identity.
    for projection in (layer.query, layer.key, layer.output_projection):
        assert np.abs(projection.kernel.numpy() - np.eye(12)).max() > 0.1


def test_key_has_no_bias():
    layer = built(SelfAttention(2), (None, 5, 8))
    assert [layer.key.use_bias, layer.query.use_bias] == [False, True]
    assert len(layer.weights) == 7


@pytest.mark.parametrize("cls", [SelfAttention, ThresholdAttention])
@pytest.mark.parametrize("shaken", [False, True])
def test_no_parameter_is_cut_off_from_the_loss(cls, shaken, rng, shake):
    # Under DP such a parameter would receive nothing but noise.
    x = rng.standard_normal((4, 9, 8)).astype("float32")
    layer = built(cls(4), x.shape, shake if shaken else None)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(layer(x)) ** 2)
    gradients = tape.gradient(loss, [v.value for v in layer.trainable_variables])
    for variable, gradient in zip(layer.trainable_variables, gradients, strict=True):
        # Rounding alone gives 1e-6.
        assert np.abs(gradient.numpy()).max() > 1e-3, variable.path


def bare_attention(cls, tokens, **arguments):
    """A layer of one head whose output is its attention matrix, the same for all inputs.

    Queries and keys of zero make content attention uniform, and the input is made such that its
    values are the rows of the unit matrix.
    """
    layer = cls(1, **arguments)
    layer.build((None, tokens, tokens))
    layer.query.set_weights([np.zeros((tokens, tokens)), np.zeros(tokens)])
    layer.key.set_weights([np.zeros((tokens, tokens))])
    for projection in (layer.value, layer.output_projection):
        projection.set_weights([np.eye(tokens), np.zeros(tokens)])
    if cls is ThresholdAttention:
        layer.position_gate.gate.assign([-60.0])
    return layer, lambda batch, training: layer(
        np.tile(np.eye(tokens, dtype="float32"), (batch, 1, 1)), training=training
    ).numpy()


@pytest.mark.parametrize("cls", [SelfAttention, ThresholdAttention])
def test_noise_has_the_stated_deviation_and_rows_still_sum_to_one(cls):
    stddev, tokens = 0.02, 4
    _, attention = bare_attention(cls, tokens, attention_noise_stddev=stddev, seed=5)
    rows = attention(4000, True)
    assert (rows >= 0).all()
    np.testing.assert_allclose(rows.sum(axis=-1), 1.0, rtol=1e-4)
    # To first order the weight a of n tokens becomes a + e_j - a sum(e), with a = 1/n.
    expected = stddev * math.sqrt((1 - 1 / tokens) ** 2 + (tokens - 1) / tokens**2)
    assert rows.std() == pytest.approx(expected, rel=0.02)
    assert rows.mean() == pytest.approx(1 / tokens, abs=1e-4)
    # Draws of tokens and of examples are their own.
    assert abs(np.corrcoef(rows[1:].ravel(), rows[:-1].ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(rows[:, 1:].ravel(), rows[:, :-1].ravel())[0, 1]) < 0.03


@pytest.mark.parametrize(
    ("training", "noise_at_inference", "noisy"),
    [(True, False, True), (False, False, False), (False, True, True), (None, False, False)],
)
@pytest.mark.parametrize("cls", [SelfAttention, ThresholdAttention])
def test_when_there_is_noise(cls, training, noise_at_inference, noisy):
    _, attention = bare_attention(
        cls, 4, attention_noise_stddev=0.1, noise_at_inference=noise_at_inference
    )
    rows = attention(3, training)
    assert (rows.std() > 0.01) == noisy
    if not noisy:
        np.testing.assert_allclose(rows, 0.25, rtol=1e-5)


def test_row_cut_to_nothing_stays_finite():
    _, attention = bare_attention(SelfAttention, 4, attention_noise_stddev=10.0, seed=0)
    sums = attention(400, True).sum(axis=-1)
    empty = sums < 0.5
    # All four draws are negative about once in sixteen.
    assert 0.03 < empty.mean() < 0.12
    np.testing.assert_array_equal(sums[empty], 0.0)
    np.testing.assert_allclose(sums[~empty], 1.0, rtol=1e-4)


def test_no_noise_makes_no_generator():
    assert SelfAttention(2).seed_generator is None


@pytest.mark.parametrize("cls", [SelfAttention, ThresholdAttention])
def test_heads_that_do_not_divide_the_width_are_refused(cls):
    with pytest.raises(InputError, match="num_heads must divide the width 8, got num_heads=3"):
        cls(3).build((None, 4, 8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 0}, "num_heads must be a whole number above 0"),
        (
            {"num_heads": 2, "attention_noise_stddev": -1},
            "attention_noise_stddev must be a finite number, 0 or above",
        ),
        (
            {"num_heads": 2, "attention_noise_stddev": math.inf},
            "attention_noise_stddev must be a finite number, 0 or above",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        SelfAttention(**arguments)


def test_coordinates_are_those_given(rng):
    x = rng.standard_normal((1, 4, 8)).astype("float32")
    square, row = ThresholdAttention(4), ThresholdAttention(4, grid_coordinates(1, 4))
    place = [built(layer, x.shape).position_gate.place_attention() for layer in (square, row)]
    assert np.abs(place[0].numpy() - place[1].numpy()).max() > 0.1
