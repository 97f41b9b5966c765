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
    head_offsets,
    locality_weights,
    relative_encodings,
    sequence_encodings,
    token_spacing,
)

HEADS = [1, 4, 6, 8, 9, 12, 16]


def square_cells(num_heads):
    """The cells (Dx, Dy) of a square around the token; half cells where its side is even."""
    side = math.isqrt(num_heads)
    center = side // 2 if side % 2 else (side - 1) / 2
    return {(x - center, y - center) for x in range(side) for y in range(side)}


def pooled(grid, poolings, two_dimensional=False):
    """Coordinates of the tokens of a grid after some poolings of stride 2."""
    coordinates = grid_coordinates(*grid)
    for _ in range(poolings):
        sides = grid if two_dimensional else None
        coordinates = pool_coordinates(coordinates, 2, 2, 0, sides)
        grid = (grid[0] // 2, grid[1] // 2)
    return coordinates


# name: coordinates of tokens that still lie on a grid, and the distance of its columns and rows
LAYOUTS = {
    "square": (grid_coordinates(7, 7), (1, 1)),
    "wide": (grid_coordinates(5, 9), (1, 1)),
    "two_rows": (grid_coordinates(2, 7), (1, 1)),
    "two_columns": (grid_coordinates(7, 2), (1, 1)),
    "pooled": (pooled((8, 16), 1), (2, 1)),
    "pooled_twice": (pooled((8, 16), 2), (4, 1)),
    "pooled_in_both": (pooled((12, 16), 1, two_dimensional=True), (2, 2)),
}


def cells_at(coordinates, place):
    """Tokens on a place, or all around it if it lies between cells; empty beyond the rim."""
    columns, rows = ({math.floor(value), math.ceil(value)} for value in place)
    wanted = {(x, y) for x in columns for y in rows}
    found = {n for n, cell in enumerate(coordinates) if tuple(cell) in wanted}
    return found if len(found) == len(wanted) else set()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rule", ["convit", "fill"])
@pytest.mark.parametrize("num_heads", HEADS)
def test_local_heads_start_on_their_own_cell(num_heads, rule, layout):
    coordinates, spacing = LAYOUTS[layout]
    gate = PositionGate(coordinates, head_offsets=rule)
    gate.build((None, num_heads, len(coordinates), len(coordinates)))
    place = gate.place_attention().numpy()
    cells = (coordinates - coordinates[0]) / spacing
    checked = 0
    for head, offset in enumerate(head_offsets(num_heads, rule)):
        for token, cell in enumerate(cells):
            expected = cells_at(cells, cell + offset)
            row = place[head, token]
            if expected:
                # A half-integer offset lies between cells, which then share the maximum.
                assert set(np.flatnonzero(row > row.max() * (1 - 1e-4))) == expected
                checked += 1
    assert checked > 0


@pytest.mark.parametrize("num_heads", HEADS)
def test_offsets_of_convit_are_the_square(num_heads):
    offsets = head_offsets(num_heads, "convit")
    assert {tuple(offset) for offset in offsets} == square_cells(num_heads)
    assert len(offsets) == math.isqrt(num_heads) ** 2


@pytest.mark.parametrize("num_heads", range(1, 26))
def test_filling_gives_every_head_a_cell_the_nearest_first(num_heads):
    offsets = [tuple(offset) for offset in head_offsets(num_heads, "fill")]
    square = square_cells(num_heads)
    assert len(offsets) == len(set(offsets)) == num_heads
    assert set(offsets[: len(square)]) == square
    steps = sorted({x for x, _ in square})
    steps = [steps[0] - 2, steps[0] - 1, *steps, steps[-1] + 1, steps[-1] + 2]
    left = {(x, y) for x in steps for y in steps} - set(offsets)
    farthest = max((math.hypot(*cell) for cell in offsets[len(square) :]), default=0.0)
    assert farthest <= min(math.hypot(*cell) for cell in left) + 1e-9


@pytest.mark.parametrize("num_tokens", [5, 8, 17])
@pytest.mark.parametrize("num_heads", HEADS)
def test_heads_along_the_sequence_start_on_their_own_neighbour(num_heads, num_tokens):
    gate = PositionGate(relative="1d")
    gate.build((None, num_heads, num_tokens, num_tokens))
    place = gate.place_attention().numpy()
    offsets = [0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6, 7, -7, 8][:num_heads]
    for head, offset in enumerate(offsets):
        for token in range(num_tokens):
            if 0 <= token + offset < num_tokens:
                assert place[head, token].argmax() == token + offset
                others = np.delete(place[head, token], token + offset)
                assert (others < place[head, token].max() * 0.9).all()


def test_along_the_sequence_coordinates_do_not_matter():
    weights = []
    for coordinates in (None, grid_coordinates(2, 3)):
        gate = PositionGate(coordinates, relative="1d")
        gate.build((None, 3, 6, 6))
        weights.append(gate.place_attention().numpy())
    np.testing.assert_array_equal(*weights)
    assert gate.position_weights.shape == (3, 2)


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


@pytest.mark.parametrize("num_heads", [6, 8, 12])
def test_filling_leaves_no_head_to_chance(num_heads):
    for arguments in ({"head_offsets": "fill"}, {"relative": "1d"}):
        gates = [PositionGate(locality_strength=2.0, **arguments) for _ in range(2)]
        for gate in gates:
            gate.build((None, num_heads, 9, 9))
        first, second = (gate.position_weights.numpy() for gate in gates)
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first[:, -1], -2.0)


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 4), columns=st.integers(1, 4))
def test_encodings_of_a_grid_are_offsets_in_cells(rows, columns):
    grid = grid_coordinates(rows, columns)
    found = relative_encodings(grid)
    for i in range(len(grid)):
        for j in range(len(grid)):
            dx, dy = j % columns - i % columns, j // columns - i // columns
            np.testing.assert_array_equal(found[i, j], (dx, dy, dx * dx + dy * dy))


@given(num_tokens=st.integers(1, 9))
def test_encodings_of_a_sequence_are_offsets_in_tokens(num_tokens):
    found = sequence_encodings(num_tokens)
    for i in range(num_tokens):
        for j in range(num_tokens):
            assert found[i, j].tolist() == [j - i, (j - i) ** 2]


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


gates = st.floats(-8, 8, width=32)


@settings(max_examples=25, deadline=None)
@given(of_place=gates, of_content=gates, relative=st.sampled_from(["1d", "2d"]))
def test_independent_gates_weigh_the_two_and_normalise(of_place, of_content, relative):
    content = np.random.default_rng(0).dirichlet(np.ones(9), (2, 1, 9)).astype("float32")
    gate = PositionGate(gate="independent", relative=relative)
    gate.build(content.shape)
    gate.gate.assign([of_place])
    gate.content_gate.assign([of_content])
    weighted = content / (1 + math.exp(-of_content))
    weighted = weighted + gate.place_attention().numpy() / (1 + math.exp(-of_place))
    expected = weighted / weighted.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(gate(content), expected, rtol=1e-4, atol=1e-7)


def test_both_kinds_of_gates_start_with_the_same_share():
    shares = []
    for kind in ("sigmoid", "independent"):
        gate = PositionGate(gate=kind)
        gate.build((None, 4, 9, 9))
        shares.append(gate.place_share().numpy())
    np.testing.assert_allclose(shares[0], 0.7310586, rtol=1e-6)  # sigmoid(1), as ConViT
    np.testing.assert_allclose(shares[1], shares[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("of_place", "of_content", "share"),
    [(60, 0, 2 / 3), (0, -60, 1), (-60, 0, 0), (-300, -300, 0.5), (-300, -301, 0.7310586)],
)
def test_independent_gates_far_out_still_weigh_each_other(of_place, of_content, share):
    gate = PositionGate(gate="independent")
    gate.build((None, 1, 9, 9))
    gate.gate.assign([of_place])
    gate.content_gate.assign([of_content])
    np.testing.assert_allclose(gate.place_share(), [share], rtol=1e-5, atol=1e-7)


def test_only_independent_gates_have_a_second_one():
    for kind, names in (("sigmoid", []), ("independent", ["content_gate"])):
        gate = PositionGate(gate=kind)
        gate.build((None, 2, 9, 9))
        assert [w.name for w in gate.weights] == ["position_weights", "gate", *names]


def test_tokens_that_are_no_square_need_coordinates():
    with pytest.raises(InputError, match=r"coordinates must be given .* \(6\) do not fill"):
        PositionGate().build((None, 2, 6, 6))


def test_coordinates_of_other_tokens_are_refused():
    message = "coordinates must have one row for each of 6 tokens, got 4"
    with pytest.raises(InputError, match=message):
        PositionGate(grid_coordinates(2, 2)).build((None, 2, 6, 6))


@pytest.mark.parametrize(
    ("name", "allowed"),
    [("gate", "independent, sigmoid"), ("relative", "1d, 2d"), ("head_offsets", "convit, fill")],
)
def test_unknown_choices_list_the_known_ones(name, allowed):
    with pytest.raises(InputError, match=f"{name} must be one of {allowed}, got 'other'"):
        PositionGate(**{name: "other"})


@pytest.mark.parametrize("locality_strength", [0.0, -1.0, math.nan, math.inf])
def test_locality_strength_is_above_0(locality_strength):
    with pytest.raises(InputError, match="locality_strength must be a finite number above 0"):
        PositionGate(locality_strength=locality_strength)
