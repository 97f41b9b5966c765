"""Patches and position tables."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dpvit.errors import InputError
from keras_dpvit.layers import PatchEmbedding, PositionTable
from keras_dpvit.layers.embedding import patch_grid


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    patch_size=st.integers(1, 4),
    channels=st.integers(1, 3),
    hidden_dim=st.integers(1, 5),
)
def test_patches_are_projected_in_raster_order(rows, columns, patch_size, channels, hidden_dim):
    rng = np.random.default_rng(0)
    p = patch_size
    images = rng.standard_normal((2, rows * p, columns * p, channels)).astype("float32")
    layer = PatchEmbedding(p, hidden_dim)
    layer.build((None, *images.shape[1:]))
    kernel = rng.standard_normal((p * p * channels, hidden_dim)).astype("float32")
    bias = rng.standard_normal(hidden_dim).astype("float32")
    layer.projection.set_weights([kernel, bias])
    tokens = layer(images).numpy()
    assert tokens.shape == (2, rows * columns, hidden_dim)
    for n in range(rows * columns):
        row, column = divmod(n, columns)
        patch = images[:, row * p : (row + 1) * p, column * p : (column + 1) * p, :]
        expected = patch.reshape(2, -1) @ kernel + bias
        np.testing.assert_allclose(tokens[:, n], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 8, 1), (8, 7, 1), (3, 3, 1), (None, 8, 1), (8, None, 1)])
def test_image_that_leaves_a_rest_is_refused_by_name(shape):
    message = f"image_shape must have sides divisible by patch_size=4, got \\({shape[0]}, "
    with pytest.raises(InputError, match=message):
        PatchEmbedding(4, 8).build((None, *shape))
    with pytest.raises(InputError, match=message):
        PatchEmbedding(4, 8).compute_output_shape((2, *shape))


def test_patch_grid_counts_rows_first():
    assert patch_grid((8, 12, 3), 4) == (2, 3)


@pytest.mark.parametrize("arguments", [(0, 8), (-1, 8), (2.5, 8), (True, 8)])
def test_patch_size_is_a_whole_number_above_0(arguments):
    with pytest.raises(InputError, match="patch_size must be a whole number above 0"):
        PatchEmbedding(*arguments)


@pytest.mark.parametrize("hidden_dim", [0, -3, 1.5, None])
def test_hidden_dim_is_a_whole_number_above_0(hidden_dim):
    with pytest.raises(InputError, match="hidden_dim must be a whole number above 0"):
        PatchEmbedding(2, hidden_dim)


def test_position_table_adds_one_vector_to_each_token(rng):
    layer = PositionTable()
    tokens = rng.standard_normal((3, 5, 4)).astype("float32")
    layer.build(tokens.shape)
    table = rng.standard_normal((5, 4)).astype("float32")
    layer.set_weights([table])
    np.testing.assert_array_equal(layer(tokens).numpy(), tokens + table)


@pytest.mark.parametrize("stddev", [0.02, 0.7])
def test_position_table_starts_at_its_size(stddev):
    layer = PositionTable() if stddev == 0.02 else PositionTable(stddev)
    layer.build((None, 200, 100))
    table = layer.table.numpy()
    # A normal cut at two deviations has 0.88 of its deviation.
    assert table.std() == pytest.approx(0.88 * stddev, rel=0.02)
    assert np.abs(table).max() <= 2 * stddev


@pytest.mark.parametrize("stddev", [0.0, -1.0, float("nan")])
def test_position_table_stddev_is_above_0(stddev):
    with pytest.raises(InputError, match="stddev must be a finite number above 0"):
        PositionTable(stddev)
