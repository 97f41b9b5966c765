"""Adaptive weights against equations 14-17 in NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_dpvit.layers import AdaptiveWeightedFusion

logits = hnp.arrays(
    "float64",
    st.tuples(st.integers(1, 3), st.integers(2, 5), st.integers(2, 12)),
    elements=st.floats(-8, 8, width=32),
)


def distributions(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return (e / e.sum(axis=-1, keepdims=True)).astype("float32")


def fuse(probabilities):
    fused, weights = AdaptiveWeightedFusion()(np.asarray(probabilities, "float32"))
    return fused.numpy(), weights.numpy()


def equations(probabilities):
    """Equations 14-17 by loops; None where they are undefined."""
    p = probabilities.astype("float64")
    batch, members, classes = p.shape
    variances = np.zeros((batch, members))
    for i in range(batch):
        for m in range(members):
            mean = sum(p[i, m]) / classes
            variances[i, m] = sum((value - mean) ** 2 for value in p[i, m]) / classes
    return variances


@settings(max_examples=40, deadline=None)
@given(logits)
def test_weights_are_variances_over_their_sum(x):
    p = distributions(x)
    fused, weights = fuse(p)
    variances = equations(p)
    # The closed form of the variance of a distribution.
    closed = np.sum(p.astype("float64") ** 2, axis=-1) / p.shape[-1] - p.shape[-1] ** -2.0
    np.testing.assert_allclose(variances, closed, atol=1e-7)
    for i in range(len(p)):
        total = variances[i].sum()
        if total > 1e-9:
            np.testing.assert_allclose(weights[i], variances[i] / total, rtol=1e-2, atol=1e-4)
        expected = weights[i].astype("float64") @ p[i]
        np.testing.assert_allclose(fused[i], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(fused.sum(axis=-1), 1.0, rtol=1e-5)
    assert (fused >= 0).all()
    assert (weights >= 0).all()


@settings(max_examples=15, deadline=None)
@given(logits)
def test_order_of_the_members_does_not_matter(x):
    p = distributions(x)
    fused, weights = fuse(p)
    turned, turned_weights = fuse(p[:, ::-1])
    np.testing.assert_allclose(turned, fused, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(turned_weights[:, ::-1], weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("members", [2, 3, 5])
@pytest.mark.parametrize("classes", [2, 3, 7, 10, 1000])
def test_uniform_members_fall_back_to_equal_weights(members, classes):
    # As a softmax gives it: equal numbers, whose sum is one but for rounding.
    p = distributions(np.zeros((2, members, classes)))
    fused, weights = fuse(p)
    np.testing.assert_allclose(weights, 1 / members, rtol=1e-6)
    np.testing.assert_allclose(fused, 1 / classes, rtol=1e-5)


def test_rounding_alone_makes_no_member_surer():
    uniform = np.full(5, 0.2, "float32")
    rounded = uniform.copy()
    rounded[2] = np.nextafter(rounded[2], np.float32(1))
    _, weights = fuse([[uniform, rounded]])
    np.testing.assert_allclose(weights, 0.5)


def test_fallback_is_image_by_image():
    uniform, sure = np.full((2, 4), 0.25), np.array([[0.7, 0.1, 0.1, 0.1], [0.25] * 4])
    _, weights = fuse(np.stack([uniform, sure]))
    np.testing.assert_allclose(weights, [[0.5, 0.5], [1.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize("members", [2, 4])
def test_one_certain_member_among_uniform_ones_decides_alone(members):
    p = np.full((1, members, 5), 0.2)
    p[0, 1] = np.eye(5)[3]
    fused, weights = fuse(p)
    np.testing.assert_allclose(weights[0], np.eye(members)[1], atol=1e-6)
    np.testing.assert_allclose(fused[0], np.eye(5)[3], atol=1e-6)


def test_surer_member_weighs_more():
    p = np.array([[[0.9, 0.05, 0.05], [0.2, 0.5, 0.3]]])
    fused, weights = fuse(p)
    # ||p||^2/3 - 1/9: 0.1605556 and 0.0155556
    assert weights[0, 0] == pytest.approx(0.160556 / 0.176111, rel=1e-4)
    assert fused.argmax() == 0


@settings(max_examples=10, deadline=None)
@given(logits)
def test_equal_members_fuse_to_themselves(x):
    p = np.repeat(distributions(x)[:, :1], 3, axis=1)
    fused, weights = fuse(p)
    np.testing.assert_allclose(fused, p[:, 0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(weights, 1 / 3, rtol=1e-5)


def test_fusion_learns_nothing_and_stays_in_float32():
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        layer = AdaptiveWeightedFusion()
    finally:
        keras.config.set_dtype_policy(before)
    fused, weights = layer(np.full((1, 2, 3), 1 / 3, "float32"))
    assert layer.weights == []
    assert fused.dtype.name == weights.dtype.name == "float32"
