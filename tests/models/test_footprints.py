"""Which patches tokens were pooled from."""

import numpy as np
import pytest

import keras_dpvit as kd

WINDOWS = {
    "pairs": {},
    "overlapping": {"pool_size": 3, "pool_first_stage": True},
    "padded": {"pool_size": 3, "pool_padding": 1},
    "squares": {"pool_axis": "2d"},
    "overlapping squares": {"pool_axis": "2d", "pool_size": 3, "pool_padding": 1},
    "after the first block": {"pool_placement": "first_block"},
}


@pytest.mark.parametrize("changes", WINDOWS.values(), ids=WINDOWS)
def test_centres_of_footprints_are_the_blocks_coordinates(changes):
    model = kd.DPViTBackbone(
        (16, 24, 1), patch_size=4, hidden_dim=8, num_heads=2, stage_depths=(1, 2), **changes
    )
    footprints = model.token_footprints()
    assert list(footprints) == [block.name for block in model.blocks]
    row, column = np.mgrid[:4, :6]
    for block in model.blocks:
        shares = footprints[block.name]
        assert shares.shape == (block.input.shape[1], 4, 6)
        np.testing.assert_allclose(shares.sum(axis=(1, 2)), 1)
        if hasattr(block.attention, "coordinates"):
            found = [[np.sum(s * column), np.sum(s * row)] for s in shares]
            np.testing.assert_allclose(found, block.attention.coordinates, atol=1e-5)


def test_footprints_by_hand():
    # Four tokens in two rows; windows of 3 over them, with one token beyond either end.
    model = kd.DPViTClassifier(
        kd.DPViTBackbone(
            (4, 4, 1), patch_size=2, hidden_dim=4, num_heads=1, pool_size=3, pool_padding=1
        ),
        num_classes=2,
    )
    first, second = model.token_footprints().values()
    np.testing.assert_array_equal(first.reshape(4, 4), np.eye(4))
    expected = [[1 / 2, 1 / 2, 0, 0], [0, 1 / 3, 1 / 3, 1 / 3]]
    np.testing.assert_allclose(second.reshape(2, 4), expected)
