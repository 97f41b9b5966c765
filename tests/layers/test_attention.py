"""Self-attention and threshold attention without noise, against NumPy."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dpvit.errors import InputError
from keras_dpvit.layers import SelfAttention, ThresholdAttention
from keras_dpvit.layers.pooling import grid_coordinates

GRID = [[x, y] for y in range(2) for x in range(3)]
PARTS = ("query", "key", "value", "output_projection")

# Every choice of threshold attention's that its weights depend on.
CHOICES = [
    {"gate": gate, "relative": relative, "head_offsets": offsets, "qk_scale": scale}
    for gate, relative, offsets, scale in itertools.product(
        ("sigmoid", "independent"), ("1d", "2d"), ("convit", "fill"), (False, True)
    )
]


def label(choice):
    return "-".join(str(value) for value in choice.values())


def built(layer, shape, shake=None):
    layer.build((None, *shape[1:]))
    if shake is not None:
        shake(layer)
    return layer


def plain_twin(layer, shape):
    """Self-attention with the projections of a threshold attention."""
    plain = built(SelfAttention(layer.num_heads, qk_scale=layer.qk_scale), shape)
    for part in PARTS:
        getattr(plain, part).set_weights(getattr(layer, part).get_weights())
    return plain


@pytest.mark.parametrize("qk_scale", [True, False])
@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_self_attention_is_that_of_numpy(num_heads, qk_scale, numpy_attention, rng, shake):
    x = rng.standard_normal((3, 5, 8)).astype("float32")
    layer = built(SelfAttention(num_heads, qk_scale=qk_scale), x.shape, shake)
    weights = numpy_attention.weights(layer, x)
    np.testing.assert_allclose(layer.attention_weights(x), weights, rtol=1e-4, atol=1e-6)
    expected = numpy_attention.attend(layer, x, weights)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("choice", CHOICES, ids=label)
@pytest.mark.parametrize("num_heads", [2, 6])
def test_threshold_attention_is_that_of_numpy(num_heads, choice, numpy_attention, rng, shake):
    x = rng.standard_normal((3, 6, 12)).astype("float32")
    layer = built(ThresholdAttention(num_heads, GRID, **choice), x.shape, shake)
    place = numpy_attention.place(layer.position_gate, np.float64(GRID))
    content = numpy_attention.weights(layer, x)
    weights = numpy_attention.gated(layer.position_gate, content, place)
    np.testing.assert_allclose(layer.attention_weights(x), weights, rtol=2e-4, atol=1e-6)
    expected = numpy_attention.attend(layer, x, weights)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=3e-5)


def test_leaving_the_scale_out_is_larger_queries(rng, shake):
    x = rng.standard_normal((2, 5, 8)).astype("float32")
    unscaled = built(SelfAttention(2, qk_scale=False), x.shape, shake)
    scaled = built(SelfAttention(2), x.shape)
    for part in PARTS:
        factor = math.sqrt(8 // 2) if part == "query" else 1.0
        weights = getattr(unscaled, part).get_weights()
        getattr(scaled, part).set_weights([factor * w for w in weights])
    np.testing.assert_allclose(scaled(x), unscaled(x), rtol=1e-4, atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(
    num_heads=st.sampled_from([1, 4, 6]),
    num_tokens=st.integers(2, 12),
    spread=st.floats(0.0, 30.0),
    choice=st.sampled_from([None, *CHOICES]),
)
def test_rows_are_distributions(num_heads, num_tokens, spread, choice):
    rng = np.random.default_rng(0)
    x = (spread * rng.standard_normal((2, num_tokens, 12))).astype("float32")
    if choice is None:
        layer = SelfAttention(num_heads)
    else:
        layer = ThresholdAttention(num_heads, grid_coordinates(1, num_tokens), **choice)
    weights = built(layer, x.shape).attention_weights(x).numpy()
    assert weights.dtype == np.float32
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("cls", [SelfAttention, ThresholdAttention])
def test_weights_stay_in_float32_whatever_the_policy(cls, policy, rng):
    x = rng.standard_normal((2, 9, 8)).astype("float32")
    layer = built(cls(4, dtype=policy), x.shape)
    weights = layer.attention_weights(tf.cast(x, layer.compute_dtype))
    assert weights.dtype == tf.float32
    np.testing.assert_allclose(tf.reduce_sum(weights, axis=-1), 1.0, rtol=1e-5)
    assert layer(x).dtype == layer.compute_dtype


# The gates that leave one side alone, for both kinds.
PLACE_ALONE = [("sigmoid", {"gate": 60.0}), ("independent", {"content_gate": -60.0})]
CONTENT_ALONE = [("sigmoid", {"gate": -60.0}), ("independent", {"gate": -60.0})]


def set_gates(layer, gates):
    for name, value in gates.items():
        getattr(layer.position_gate, name).assign([value] * layer.num_heads)


@pytest.mark.parametrize(("kind", "gates"), PLACE_ALONE)
@pytest.mark.parametrize("relative", ["1d", "2d"])
def test_gates_can_leave_place_alone(relative, kind, gates, numpy_attention, rng, shake):
    x = rng.standard_normal((2, 6, 8)).astype("float32")
    layer = ThresholdAttention(2, GRID, gate=kind, relative=relative)
    built(layer, x.shape, shake)
    set_gates(layer, gates)
    place = numpy_attention.place(layer.position_gate, np.float64(GRID))
    expected = np.broadcast_to(place, (2, *place.shape))
    np.testing.assert_allclose(layer.attention_weights(x), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "gates"), CONTENT_ALONE)
@pytest.mark.parametrize("qk_scale", [True, False])
def test_gates_can_leave_self_attention(qk_scale, kind, gates, rng, shake):
    x = rng.standard_normal((2, 6, 8)).astype("float32")
    layer = built(ThresholdAttention(2, GRID, gate=kind, qk_scale=qk_scale), x.shape, shake)
    before = layer(x).numpy()
    set_gates(layer, gates)
    expected = plain_twin(layer, x.shape)(x)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(before - expected).max() > 0.01  # it was something else


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


@pytest.mark.parametrize("shaken", [False, True])
@pytest.mark.parametrize("choice", [None, *CHOICES], ids=lambda c: label(c) if c else "self")
def test_no_parameter_is_cut_off_from_the_loss(choice, shaken, rng, shake):
    # Under DP such a parameter would receive nothing but noise.
    x = rng.standard_normal((4, 9, 12)).astype("float32")
    layer = SelfAttention(6) if choice is None else ThresholdAttention(6, **choice)
    built(layer, x.shape, shake if shaken else None)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(layer(x)) ** 2)
    gradients = tape.gradient(loss, [v.value for v in layer.trainable_variables])
    for variable, gradient in zip(layer.trainable_variables, gradients, strict=True):
        # Rounding alone gives 1e-6.
        assert np.abs(gradient.numpy()).max() > 1e-3, variable.path


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
        ({"num_heads": 2, "gate": "tanh"}, "gate must be one of independent, sigmoid, got 'tanh'"),
        ({"num_heads": 2, "relative": "3d"}, "relative must be one of 1d, 2d, got '3d'"),
        (
            {"num_heads": 2, "head_offsets": "all"},
            "head_offsets must be one of convit, fill, got 'all'",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        ThresholdAttention(**arguments)


def test_coordinates_are_those_given(rng):
    x = rng.standard_normal((1, 4, 8)).astype("float32")
    square, row = ThresholdAttention(4), ThresholdAttention(4, grid_coordinates(1, 4))
    place = [built(layer, x.shape).position_gate.place_attention() for layer in (square, row)]
    assert np.abs(place[0].numpy() - place[1].numpy()).max() > 0.1
