"""Max-pooling over tokens and the coordinates that follow it."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from keras_dpvit.errors import InputError
from keras_dpvit.layers import TokenMaxPooling
from keras_dpvit.layers.pooling import grid_coordinates, pool_coordinates, pooled_length

# pool_size, stride, padding: HVT's, the same padded, and the presets'
RULES = [(3, 2, 0), (3, 2, 1), (2, 2, 0)]


def windows(num_tokens, pool_size, stride, padding):
    """Token numbers of every window that fits, those outside left out."""
    starts = range(-padding, num_tokens + padding - pool_size + 1, stride)
    return [[t for t in range(s, s + pool_size) if 0 <= t < num_tokens] for s in starts]


rules = st.one_of(
    st.sampled_from(RULES),
    st.integers(1, 5).flatmap(
        lambda k: st.tuples(st.just(k), st.integers(1, 6), st.integers(0, k - 1))
    ),
)


@settings(max_examples=40, deadline=None)
@given(rule=rules, num_tokens=st.integers(1, 17))
def test_pooling_is_the_maximum_of_each_window(rule, num_tokens):
    expected_windows = windows(num_tokens, *rule)
    assume(expected_windows)
    # Below zero throughout, so that a window that took padding for a token would show it.
    tokens = np.random.default_rng(0).uniform(-9, -1, (2, num_tokens, 3)).astype("float32")
    layer = TokenMaxPooling(*rule)
    pooled = layer(tokens).numpy()
    expected = [tokens[:, window].max(axis=1) for window in expected_windows]
    np.testing.assert_array_equal(pooled, np.stack(expected, axis=1))
    assert layer.compute_output_shape(tokens.shape) == pooled.shape
    coordinates = grid_coordinates(1, num_tokens) + 0.25
    moved = pool_coordinates(coordinates, *rule)
    expected = [coordinates[window].mean(axis=0) for window in expected_windows]
    np.testing.assert_allclose(moved, expected)


@pytest.mark.parametrize("rule", RULES)
def test_gradient_goes_to_the_largest_token_alone(rule):
    tokens = np.random.default_rng(0).standard_normal((2, 9, 3)).astype("float32")
    x = tf.constant(tokens)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(TokenMaxPooling(*rule)(x))
    expected = np.zeros_like(tokens)
    for window in windows(9, *rule):
        largest = np.array(window)[tokens[:, window].argmax(axis=1)]
        for b in range(2):
            for c in range(3):
                expected[b, largest[b, c], c] += 1
    np.testing.assert_allclose(tape.gradient(total, x).numpy(), expected)


def test_lengths_of_the_published_rule():
    lengths = [256]
    for _ in range(4):
        lengths.append(pooled_length(lengths[-1], 3, 2, 0))
    assert lengths == [256, 127, 63, 31, 15]


# The table of section 4.3 of the architecture reference: a 16x16 grid, four poolings.
OVERLAPPING = {
    1: (127, {0: (1, 0), 6: (13, 0), 7: (29 / 3, 1 / 3), 8: (1, 1), 126: (13, 15)}),
    2: (63, {0: (3, 0), 2: (11, 0), 3: (7.889, 0.444), 4: (3, 1), 62: (11, 15)}),
    3: (31, {0: (7, 0), 1: (7.296, 0.481), 2: (7, 1), 3: (7.296, 1.481), 30: (7, 15)}),
    4: (15, {0: (7.099, 0.494), 1: (7.099, 1.494), 14: (7.099, 14.494)}),
}
SEPARATE = {
    1: (128, {0: (0.5, 0), 1: (2.5, 0), 7: (14.5, 0), 8: (0.5, 1), 127: (14.5, 15)}),
    2: (64, {0: (1.5, 0), 1: (5.5, 0), 3: (13.5, 0), 63: (13.5, 15)}),
    3: (32, {0: (3.5, 0), 1: (11.5, 0), 2: (3.5, 1), 31: (11.5, 15)}),
    4: (16, {0: (7.5, 0), 1: (7.5, 1), 15: (7.5, 15)}),
}


@pytest.mark.parametrize(("rule", "table"), [((3, 2, 0), OVERLAPPING), ((2, 2, 0), SEPARATE)])
def test_coordinates_of_the_reference_table(rule, table):
    coordinates = grid_coordinates(16, 16)
    for tokens, known in table.values():
        coordinates = pool_coordinates(coordinates, *rule)
        assert len(coordinates) == tokens
        for token, place in known.items():
            np.testing.assert_allclose(coordinates[token], place, atol=5e-4)


def test_grid_coordinates_are_column_then_row():
    assert grid_coordinates(2, 3).tolist() == [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]]


@pytest.mark.parametrize("padding", [-1, 2, 3])
def test_padding_must_stay_inside_a_window(padding):
    with pytest.raises(InputError, match=r"padding must be 0\.\.1 \(below pool_size\)"):
        TokenMaxPooling(pool_size=2, padding=padding)


@pytest.mark.parametrize("name", ["pool_size", "stride"])
@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_sizes_are_whole_numbers_above_0(name, value):
    with pytest.raises(InputError, match=f"{name} must be a whole number above 0"):
        TokenMaxPooling(**{name: value})


def test_window_larger_than_the_tokens_is_refused():
    message = "pool_size=4 must not exceed the 3 tokens"
    with pytest.raises(InputError, match=message):
        TokenMaxPooling(4)(np.zeros((1, 3, 2), "float32"))
    with pytest.raises(InputError, match=message):
        pool_coordinates(grid_coordinates(1, 3), 4, 2, 0)
