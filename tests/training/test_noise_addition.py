"""The normal numbers behind the noise of a step."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from keras_dpvit.training import noise_addition


@pytest.fixture(autouse=True, params=["compiled", "tensorflow"])
def kernels_in_use(request):
    if request.param == "tensorflow":
        request.getfixturevalue("without_kernels")


def normals(count, *seed):
    return noise_addition.standard_normals(count, tf.constant(seed, tf.int64)).numpy()


def test_they_are_standard_normal():
    drawn = normals(400_001, 3, 4)
    assert drawn.shape == (400_001,)
    assert stats.kstest(drawn, "norm").pvalue > 1e-4
    for wrong in (0.98, 1.02):
        assert stats.kstest(drawn, "norm", args=(0, wrong)).pvalue < 1e-4
    # Both halves come from the same radii: they must be independent all the same.
    first, second = drawn[:200_000], drawn[200_001:]
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.01
    assert abs(np.corrcoef(first**2, second**2)[0, 1]) < 0.01


@pytest.mark.parametrize("beyond", [3.0, 4.0])
def test_tails_are_as_heavy_as_they_should_be(beyond):
    drawn = np.concatenate([normals(2_000_000, seed, 1) for seed in range(4)])
    count = np.sum(np.abs(drawn) > beyond)
    assert stats.binomtest(int(count), len(drawn), 2 * stats.norm.sf(beyond)).pvalue > 1e-4


def test_the_radius_reaches_where_tensorflows_own_ends(monkeypatch, without_kernels):
    def bits(shape, *_):
        return tf.zeros(shape, tf.int32)

    monkeypatch.setattr(tf.random, "stateless_uniform", bits)
    assert normals(2, 0, 0)[0] == pytest.approx(np.sqrt(-2 * np.log(2.0**-63)), rel=1e-6)


def test_seeds_are_kept_apart():
    assert np.array_equal(normals(100, 1, 2), normals(100, 1, 2))
    assert not np.any(normals(100, 1, 2) == normals(100, 1, 3))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_count(count):
    assert normals(count, 5, 5).shape == (count,)
