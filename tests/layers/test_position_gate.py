"""Fixed encodings, where heads look at first, and the gate."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dpvit.errors import InputError
from keras_dpvit.layers import PositionGate
from keras_dpvit.layers.pooling import grid_coordinates, pool_coordinates
from keras_dpvit.layers.position_gate import (
    locality_weights,
    relative_encodings,
    token_spacing,
)


def head_offsets(num_heads):
    """The cells (Dx, Dy) of a square around the token; half cells where its side is even."""
    side = math.isqrt(num_heads)
    center = side // 2 if side % 2 else (side - 1) / 2
    return {(x - center, y - center) for x in range(side) for y in range(side)}


def nearest_cells(coordinates, token, offset):
    """Tokens closest to a token's place plus an offset."""
    distance = np.linalg.norm(coordinates - coordinates[token] - offset, axis=1)
    return set(np.flatnonzero(distance < distance.min() + 1e-6))


@pytest.mark.parametrize("num_heads", [1, 4, 6, 8, 9, 12, 16])
def test_local_heads_start_on_their_own_cell(num_heads):
    grid = grid_coordinates(7, 7)
    gate = PositionGate()
    gate.build((None, num_heads, 49, 49))
    place = gate.place_attention().numpy()
    found = set()
    for head in range(math.isqrt(num_heads) ** 2):
        dx, dy = gate.position_weights.numpy()[head, :2] / 2
        found.add((float(dx), float(dy)))
        for token in range(49):
            column, row = grid[token]
            if 2 <= column <= 4 and 2 <= row <= 4:  # far enough from the rim for any offset
                row_of_head = place[head, token]
                # A half-integer offset lies between cells, which then share the maximum.
                best = set(np.flatnonzero(row_of_head > row_of_head.max() * (1 - 1e-5)))
                assert best == nearest_cells(grid, token, (dx, dy))
    assert found == head_offsets(num_heads)


def test_initial_place_attention_is_a_gaussian_bump():
    weights = locality_weights(9, 1.5, np.zeros((9, 3)))
    grid = grid_coordinates(5, 5)
    scores = np.einsum("hc,ijc->hij", weights, relative_encodings(grid))
    delta = grid[None] - grid[:, None]
    for head in range(9):
        offset = weights[head, :2] / (2 * 1.5)
        bump = -1.5 * (np.sum((delta - offset) ** 2, axis=-1) - np.sum(offset**2))
        np.testing.assert_allclose(scores[head], bump, atol=1e-9)


@pytest.mark.parametrize(("num_heads", "local"), [(6, 4), (8, 4), (12, 9)])
def test_heads_beyond_the_square_keep_their_random_numbers(num_heads, local):
    random = np.random.default_rng(0).standard_normal((num_heads, 3))
    weights = locality_weights(num_heads, 2.0, random)
    np.testing.assert_array_equal(weights[local:], 2.0 * random[local:])
    np.testing.assert_array_equal(weights[:local, 2], -2.0)
    gate = PositionGate(locality_strength=2.0)
    gate.build((None, num_heads, 9, 9))
    rest = gate.position_weights.numpy()[local:]
    assert (np.abs(rest) <= 2.0 * 0.04).all()
    assert rest.std() > 0.005


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 4), columns=st.integers(1, 4))
def test_encodings_of_a_grid_are_offsets_in_cells(rows, columns):
    grid = grid_coordinates(rows, columns)
    found = relative_encodings(grid)
    for i in range(len(grid)):
        for j in range(len(grid)):
            dx, dy = j % columns - i % columns, j // columns - i // columns
            np.testing.assert_array_equal(found[i, j], (dx, dy, dx * dx + dy * dy))


@pytest.mark.parametrize(
    ("poolings", "spacing"), [(0, (1, 1)), (1, (2, 1)), (2, (4, 1)), (3, (8, 1)), (4, (1, 1))]
)
def test_spacing_follows_the_pooling(poolings, spacing):
    coordinates = grid_coordinates(16, 16)
    for _ in range(poolings):
        coordinates = pool_coordinates(coordinates, 2, 2, 0)
    assert token_spacing(coordinates) == spacing
    # In units of the spacing a token's neighbour is always one away.
    first = relative_encodings(coordinates)[0]
    assert first[1].tolist() == ([1, 0, 1] if poolings < 4 else [0, 1, 1])


@pytest.mark.parametrize("num_tokens", [127, 63, 31, 15])
def test_any_number_of_tokens_has_encodings(num_tokens):
    coordinates = grid_coordinates(16, 16)
    while len(coordinates) > num_tokens:
        coordinates = pool_coordinates(coordinates, 3, 2, 0)
    gate = PositionGate(coordinates.tolist())
    gate.build((None, 4, num_tokens, num_tokens))
    place = gate.place_attention().numpy()
    assert place.shape == (4, num_tokens, num_tokens)
    np.testing.assert_allclose(place.sum(axis=-1), 1.0, rtol=1e-5)


def test_gate_mixes_by_its_sigmoid(rng):
    content = rng.dirichlet(np.ones(9), (2, 3, 9)).astype("float32")
    gate = PositionGate()
    gate.build(content.shape)
    gate.gate.assign([0.0, 1.0, -2.0])
    share = np.array([0.5, 0.7310586, 0.1192029])[:, None, None]
    expected = (1 - share) * content + share * gate.place_attention().numpy()
    np.testing.assert_allclose(gate(content), expected, rtol=1e-5, atol=1e-7)


def test_tokens_that_are_no_square_need_coordinates():
    with pytest.raises(InputError, match=r"coordinates must be given .* \(6\) are no square grid"):
        PositionGate().build((None, 2, 6, 6))


def test_coordinates_of_other_tokens_are_refused():
    message = "coordinates must have one row for each of 6 tokens, got 4"
    with pytest.raises(InputError, match=message):
        PositionGate(grid_coordinates(2, 2)).build((None, 2, 6, 6))


@pytest.mark.parametrize("locality_strength", [0.0, -1.0, math.nan, math.inf])
def test_locality_strength_is_above_0(locality_strength):
    with pytest.raises(InputError, match="locality_strength must be a finite number above 0"):
        PositionGate(locality_strength=locality_strength)
