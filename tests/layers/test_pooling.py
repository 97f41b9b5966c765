"""Max-pooling over tokens and the coordinates that follow it."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from keras_dpvit.errors import InputError
from keras_dpvit.layers import TokenMaxPooling
from keras_dpvit.layers.pooling import (
    grid_coordinates,
    pool_coordinates,
    pooled_grid,
    pooled_length,
)

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


@settings(max_examples=40, deadline=None)
@given(rule=rules, rows=st.integers(1, 7), columns=st.integers(1, 7))
def test_pooling_over_a_grid_is_the_maximum_of_each_square(rule, rows, columns):
    down, across = windows(rows, *rule), windows(columns, *rule)
    assume(down and across)
    squares = [[r * columns + c for r in i for c in j] for i in down for j in across]
    tokens = np.random.default_rng(0).uniform(-9, -1, (2, rows * columns, 3)).astype("float32")
    layer = TokenMaxPooling(*rule, grid=(rows, columns))
    pooled = layer(tokens).numpy()
    expected = [tokens[:, square].max(axis=1) for square in squares]
    np.testing.assert_array_equal(pooled, np.stack(expected, axis=1))
    assert layer.compute_output_shape(tokens.shape) == pooled.shape
    assert pooled_grid((rows, columns), *rule) == (len(down), len(across))
    coordinates = grid_coordinates(rows, columns) * (2.0, 3.0) + 0.25
    moved = pool_coordinates(coordinates, *rule, grid=(rows, columns))
    expected = [coordinates[square].mean(axis=0) for square in squares]
    np.testing.assert_allclose(moved, expected)


def test_a_grid_of_one_row_is_a_sequence():
    # With one token of padding above and below, a window of three still holds the row.
    tokens = np.random.default_rng(0).standard_normal((2, 9, 3)).astype("float32")
    along = TokenMaxPooling(3, 2, 1)(tokens)
    over = TokenMaxPooling(3, 2, 1, grid=(1, 9))(tokens)
    np.testing.assert_array_equal(along, over)


def test_squares_stay_square_on_a_grid():
    coordinates = pool_coordinates(grid_coordinates(16, 16), 2, 2, 0, grid=(16, 16))
    np.testing.assert_array_equal(coordinates, 2 * grid_coordinates(8, 8) + 0.5)


@pytest.mark.parametrize("rule", RULES)
def test_gradient_over_a_grid_goes_to_the_largest_token_alone(rule):
    # No two tokens are equal, so that each square has one largest.
    tokens = np.random.default_rng(0).permutation(2 * 35 * 3).reshape(2, 35, 3)
    x = tf.constant(tokens, "float32")
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(TokenMaxPooling(*rule, grid=(5, 7))(x))
    expected = np.zeros((2, 35, 3))
    for i in windows(5, *rule):
        for j in windows(7, *rule):
            square = np.array([r * 7 + c for r in i for c in j])
            largest = square[tokens[:, square].argmax(axis=1)]
            for b in range(2):
                for c in range(3):
                    expected[b, largest[b, c], c] += 1
    np.testing.assert_array_equal(tape.gradient(total, x).numpy(), expected)


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


# A 16x16 grid after one to four poolings: number of tokens, and places of some, as they were
# calculated apart from this program. A token on two rows has a place between them.
OVERLAPPING = {
    1: (127, {**{n: (2 * n + 1, 0) for n in range(7)}, 7: (9.667, 0.333)}),
    2: (63, {0: (3, 0), 1: (7, 0), 2: (11, 0), 3: (7.889, 0.444), 4: (3, 1), 62: (11, 15)}),
    3: (31, {0: (7, 0), 1: (7.296, 0.481), 2: (7, 1), 3: (7.296, 1.481), 30: (7, 15)}),
    4: (15, {n: (7.099, 0.494 + n) for n in range(15)}),
}
OVERLAPPING[1][1].update({8: (1, 1), 126: (13, 15)})
SEPARATE = {
    1: (128, {n: (2 * (n % 8) + 0.5, n // 8) for n in range(128)}),
    2: (64, {n: (4 * (n % 4) + 1.5, n // 4) for n in range(64)}),
    3: (32, {n: (8 * (n % 2) + 3.5, n // 2) for n in range(32)}),
    4: (16, {n: (7.5, n) for n in range(16)}),
}


@pytest.mark.parametrize(("rule", "table"), [((3, 2, 0), OVERLAPPING), ((2, 2, 0), SEPARATE)])
def test_coordinates_of_the_paper_sizes(rule, table):
    coordinates = grid_coordinates(16, 16)
    for tokens, known in table.values():
        coordinates = pool_coordinates(coordinates, *rule)
        assert len(coordinates) == tokens
        for token, place in known.items():
            np.testing.assert_allclose(coordinates[token], place, rtol=0, atol=1e-3)


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


@pytest.mark.parametrize("grid", [(0, 4), (-1, 4), (2, 1.5), (True, 4)])
def test_sides_of_a_grid_are_whole_numbers_above_0(grid):
    with pytest.raises(InputError, match="grid must be a whole number above 0"):
        TokenMaxPooling(grid=grid)


def test_grid_of_other_tokens_is_refused():
    with pytest.raises(InputError, match="grid must hold 6 tokens, got 2 x 4"):
        TokenMaxPooling(grid=(2, 4))(np.zeros((1, 6, 2), "float32"))


def test_window_larger_than_a_side_of_the_grid_is_refused():
    with pytest.raises(InputError, match="pool_size=3 must not exceed the 2 tokens"):
        TokenMaxPooling(3, grid=(2, 4))(np.zeros((1, 8, 2), "float32"))


def test_window_larger_than_the_tokens_is_refused():
    message = "pool_size=4 must not exceed the 3 tokens"
    with pytest.raises(InputError, match=message):
        TokenMaxPooling(4)(np.zeros((1, 3, 2), "float32"))
    with pytest.raises(InputError, match=message):
        pool_coordinates(grid_coordinates(1, 3), 4, 2, 0)
