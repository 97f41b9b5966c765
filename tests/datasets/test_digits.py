"""scikit-learn's digits and their fixed split."""

import numpy as np
import pytest
import sklearn.datasets

from keras_dpvit.datasets import load


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def test_shapes_and_names(digits):
    assert digits.x_train.shape == (1437, 8, 8, 1)
    assert digits.x_test.shape == (360, 8, 8, 1)
    assert digits.class_names == tuple("0123456789")


def test_values_are_spread_over_the_whole_byte(digits):
    assert digits.x_train.min() == 0
    assert digits.x_train.max() == 255
    # 16 steps of 255/16, none of them merged with another.
    assert len(np.unique(digits.x_train)) == 17


def test_parts_are_the_rows_of_the_fixed_permutation(digits):
    source = sklearn.datasets.load_digits()
    order = np.random.RandomState(0).permutation(1797)
    np.testing.assert_array_equal(digits.y_train, source.target[order[:1437]])
    np.testing.assert_array_equal(digits.y_test, source.target[order[1437:]])
    restored = np.rint(digits.x_test[..., 0] * (16 / 255))
    np.testing.assert_array_equal(restored, source.images[order[1437:]])


def test_split_never_changes(digits):
    # Written down from the first release: a change would make old results incomparable.
    assert digits.y_test[:10].tolist() == [7, 9, 4, 7, 0, 2, 6, 1, 3, 1]
    assert int(digits.x_test.astype(np.int64).sum()) == 1790589
