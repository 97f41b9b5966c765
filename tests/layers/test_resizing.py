"""Resizing by fixed matrices, against Pillow."""

import numpy as np
import pytest
from PIL import Image

from keras_dpvit.errors import InputError
from keras_dpvit.layers import AntialiasedResizing
from keras_dpvit.layers.resizing import resizing_matrix


@pytest.mark.parametrize("old", [(96, 96), (224, 100), (28, 28), (8, 9), (64, 64), (33, 1)])
@pytest.mark.parametrize("new", [(64, 64), (32, 20)])
def test_as_pillow_resizes(old, new, rng):
    images = rng.uniform(0, 255, (2, *old, 3)).astype("float32")
    found = AntialiasedResizing(*new)(images).numpy()
    assert found.shape == (2, *new, 3)
    for image, ours in zip(images, found, strict=True):
        for channel in range(3):
            # Mode F: Pillow rounds bytes after each axis.
            whole = Image.fromarray(image[..., channel])
            theirs = np.asarray(whole.resize(new[::-1], Image.Resampling.BILINEAR))
            np.testing.assert_allclose(ours[..., channel], theirs, atol=2e-3)


@pytest.mark.parametrize(("old", "new"), [(96, 64), (8, 32), (224, 64), (5, 5), (1, 4), (7, 1)])
def test_each_new_pixel_is_a_mean_of_old_ones(old, new):
    matrix = resizing_matrix(old, new)
    assert matrix.shape == (new, old)
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    # All old pixels count, and count alike but for the edges.
    np.testing.assert_allclose(matrix.sum(), new, atol=1e-4)
    if old > new:
        assert (matrix.sum(axis=0) > 0).all()


def test_the_same_size_changes_nothing(rng):
    images = rng.uniform(0, 255, (2, 6, 5, 1)).astype("float32")
    np.testing.assert_array_equal(AntialiasedResizing(6, 5)(images).numpy(), images)


def test_fine_stripes_become_grey_and_no_wider_stripes():
    stripes = np.zeros((1, 96, 96, 1), "float32")
    stripes[:, :, ::2] = 255
    shrunk = AntialiasedResizing(24, 24)(stripes).numpy()
    # The filter is not an ideal one: a thirtieth of the contrast stays. Every fourth pixel: all.
    assert np.ptp(shrunk[:, 2:-2, 2:-2]) < 255 / 30
    assert np.ptp(stripes[:, ::3, ::3]) == 255


@pytest.mark.parametrize("sides", [(0, 4), (4, -1), (2.5, 4)])
def test_bad_sides_are_refused(sides):
    with pytest.raises(InputError, match="must be a whole number above 0"):
        AntialiasedResizing(*sides)


def test_images_of_no_fixed_size_are_refused():
    with pytest.raises(InputError, match=r"images must be \(batch, height, width, channels\) of a"):
        AntialiasedResizing(4, 4).build((None, None, 8, 1))
