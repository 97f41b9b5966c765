"""Made-up images of shapes."""

import numpy as np
import pytest

from keras_dpvit.datasets import synthetic_shapes
from keras_dpvit.datasets.synthetic import TEXTURES
from keras_dpvit.errors import InputError


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 24, 3), (64, 64, 3), (5, 7, 1)])
def test_shapes_types_and_labels(shape):
    found = synthetic_shapes(3, 4, shape, seed=1)
    assert found.images.shape == (12, *shape)
    assert found.images.dtype == np.uint8
    assert found.families.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert set(found.textures) <= set(range(len(TEXTURES)))


def test_a_seed_gives_the_same_images_and_another_seed_others():
    first, again, other = (synthetic_shapes(4, 3, (28, 28, 1), seed=s) for s in (5, 5, 6))
    np.testing.assert_array_equal(first.images, again.images)
    assert (first.images != other.images).any(axis=(1, 2, 3)).mean() > 0.9


def test_further_instances_are_others_of_the_same_families():
    first = synthetic_shapes(6, 20, (28, 28, 1), seed=2)
    more = synthetic_shapes(6, 20, (28, 28, 1), seed=2, first_instance=20)
    pixels = [s.images.reshape(6, 20, -1).astype(float) for s in (first, more)]
    assert not np.array_equal(*pixels)
    means = [p.mean(axis=1) for p in pixels]
    distances = np.linalg.norm(means[0][:, None] - means[1][None], axis=-1)
    assert (distances.argmin(axis=1) == np.arange(6)).all()


def test_the_number_of_families_does_not_change_the_first_ones():
    few, many = (synthetic_shapes(n, 2, (28, 28, 1), seed=3) for n in (2, 5))
    np.testing.assert_array_equal(few.images, many.images[:4])


def test_images_are_neither_empty_nor_full():
    images = synthetic_shapes(200, 2, (28, 28, 1), seed=4).images / 255
    filled = (images > 0.05).mean(axis=(1, 2, 3))
    assert np.mean((filled > 0.02) & (filled < 0.98)) > 0.97
    assert (images[:, 0, 0] == 0).mean() > 0.5  # gray shapes lie on black


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="1 or 3 channels, got 2"):
        synthetic_shapes(1, 1, (8, 8, 2))
    with pytest.raises(InputError, match="num_families must be a whole number above 0"):
        synthetic_shapes(0, 1, (8, 8, 1))
