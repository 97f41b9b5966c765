"""Figures about predictions, against scikit-learn, SciPy and plain loops."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from keras_dpvit.report.scores import (
    calibration,
    class_scores,
    confusion_matrix,
    wilson_interval,
)

labels = st.integers(2, 6).flatmap(
    lambda k: st.tuples(
        st.just(k), st.lists(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)), min_size=1)
    )
)


@given(labels)
def test_confusions_and_class_scores_are_scikit_learns(drawn):
    classes, pairs = drawn
    truth, guess = np.array(pairs).T
    confusion = confusion_matrix(truth, guess, classes)
    assert np.array_equal(
        confusion, sklearn.metrics.confusion_matrix(truth, guess, labels=range(classes))
    )
    precision, recall, f1, images = sklearn.metrics.precision_recall_fscore_support(
        truth, guess, labels=range(classes), zero_division=np.nan
    )
    for i, score in enumerate(class_scores(confusion)):
        assert score["images"] == images[i]
        expected = {"precision": precision[i], "recall": recall[i], "f1": f1[i]}
        for name, value in expected.items():
            assert score[name] is None if np.isnan(value) else score[name] == pytest.approx(value)


def test_calibration_is_the_sum_over_bins():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(4, 0.5), 500)
    truth = rng.integers(0, 4, 500)
    bins = {}
    for row, label in zip(probabilities, truth, strict=True):
        number = next(i for i in range(10) if row.max() <= (i + 1) / 10)
        bins.setdefault(number, []).append((row.max(), row.argmax() == label))
    error = sum(abs(sum(sure - right for sure, right in part)) for part in bins.values()) / 500
    found = calibration(probabilities, truth)
    assert found["expected_error"] == pytest.approx(error)
    assert error > 0.1  # chance is not calibrated
    for i, part in enumerate(found["bins"]):
        assert part["images"] == len(bins.get(i, []))
        if part["images"]:
            assert part["accuracy"] == pytest.approx(np.mean([right for _, right in bins[i]]))
            assert part["low"] < part["confidence"] <= part["high"]
        else:
            assert part["accuracy"] is None


def test_certain_and_uniform_predictions_have_a_bin():
    found = calibration(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([0, 1]))
    assert [b["images"] for b in found["bins"]] == [0, 0, 0, 0, 1, 0, 0, 0, 0, 1]


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_is_scipys(drawn):
    right, total = drawn
    expected = scipy.stats.binomtest(right, total).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right, total) == pytest.approx((expected.low, expected.high), abs=1e-9)
