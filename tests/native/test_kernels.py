"""The compiled kernels against NumPy in float64, and against what TensorFlow makes of a seed."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf

from keras_dpvit import native
from keras_dpvit.training import noise_addition


def test_they_are_compiled_here():
    assert native.library() is not None


@st.composite
def factors(draw):
    """Inputs and gradients of widths around those of a processor's registers, and beside them."""
    records, tokens = draw(st.integers(0, 5)), draw(st.integers(1, 20))
    widths = [draw(st.one_of(st.integers(1, 100), st.sampled_from([16, 32, 48, 96, 128, 144])))]
    widths.append(draw(st.one_of(st.integers(1, 100), st.sampled_from([16, 32, 48, 96, 128, 144]))))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return [rng.standard_normal((records, tokens, width)).astype("float32") for width in widths]


@hypothesis.given(factors())
def test_products_sums_and_norms(factors):
    x, g = (array.astype("float64") for array in factors)
    products, sums = np.einsum("nti,nto->nio", x, g), g.sum(axis=1)
    norms = (products**2).sum(axis=(1, 2))
    found = native.record_products(*factors)
    np.testing.assert_allclose(found.products, products, atol=2e-5)
    np.testing.assert_allclose(found.sums, sums, atol=2e-5)
    # Rounding is relative to the terms, which may cancel.
    terms = (x**2).sum(axis=(1, 2)) * (g**2).sum(axis=(1, 2))
    assert np.all(np.abs(found.product_norms - norms) <= 1e-6 * terms)
    bounds = native.gram_norms(*factors).numpy()
    assert np.all(bounds >= norms)
    assert np.all(bounds - norms <= 2e-5 * terms)
    expected = (sums**2).sum(axis=1)
    assert np.all(np.abs(found.sum_norms - expected) <= 1e-5 * (g**2).sum(axis=(1, 2)))


@pytest.mark.parametrize("tokens", [1, 16, 50])
def test_large_batches_are_divided_and_equal_in_every_run(tokens):
    rng = np.random.default_rng(tokens)
    x, g = (rng.standard_normal((300, tokens, width)).astype("float32") for width in (96, 60))
    once, again = native.record_products(x, g), native.record_products(x, g)
    np.testing.assert_allclose(once.products, np.einsum("nti,nto->nio", x, g), atol=1e-4)
    for name in ("products", "sums", "product_norms", "sum_norms"):
        assert np.array_equal(getattr(once, name), getattr(again, name))
    assert np.array_equal(native.gram_norms(x, g), native.gram_norms(x, g))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("tokens", [3, 40])
def test_what_is_not_finite_stays_with_its_record(bad, tokens):
    rng = np.random.default_rng(0)
    x, g = (rng.standard_normal((4, tokens, 33)).astype("float32") for _ in range(2))
    x[2, 1, 5] = bad
    g[2, 1, :] = 30.0
    for norms in (native.record_products(x, g).product_norms, native.gram_norms(x, g)):
        assert np.isfinite(norms).tolist() == [True, True, False, True]


def test_shapes_that_do_not_fit_are_refused():
    x = tf.zeros((2, 3, 4))
    for wrong in (tf.zeros((2, 4, 4)), tf.zeros((3, 3, 4)), tf.zeros((2, 3))):
        for kernel in (native.record_products, native.gram_norms):
            with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
                kernel(x, wrong)


def test_shapes_are_known_in_a_graph():
    @tf.function(
        input_signature=[tf.TensorSpec((None, 7, 4)), tf.TensorSpec((None, 7, 5))], autograph=False
    )
    def function(x, g):
        found = native.record_products(x, g)
        assert found.products.shape.as_list() == [None, 4, 5]
        assert found.sums.shape.as_list() == [None, 5]
        assert native.gram_norms(x, g).shape.as_list() == [None]
        return found.products

    assert (
        function(tf.ones((3, 7, 4)), tf.ones((3, 7, 5))).numpy().tolist() == [[[7.0] * 5] * 4] * 3
    )


@hypothesis.given(
    count=st.integers(1, 5000),
    seed=st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 2),
)
def test_normals_are_those_that_tensorflows_bits_make(count, seed):
    seed = tf.constant(seed, tf.int64)
    compiled = noise_addition.standard_normals(count, seed).numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", lambda: None)
        expected = noise_addition.standard_normals(count, seed).numpy()
    assert compiled.shape == expected.shape == (count,)
    np.testing.assert_allclose(compiled, expected, atol=1e-5)


def test_float64_and_half_precision_have_no_kernels():
    single, double = tf.zeros((1, 2, 3)), tf.zeros((1, 2, 3), tf.float64)
    assert native.takes(single, single)
    assert not native.takes(single, double)
    assert not native.takes(tf.cast(single, tf.float16))


@st.composite
def convolutions(draw):
    """Images, a kernel's sizes, strides and dilation, and a padding as TensorFlow names it."""
    records, channels = draw(st.integers(0, 3)), draw(st.integers(1, 5))
    sides = [draw(st.integers(1, 12)) for _ in range(2)]
    sizes = [draw(st.integers(1, side)) for side in sides]
    strides = [draw(st.integers(1, 3)) for _ in range(2)]
    most = [(side - 1) // max(size - 1, 1) for side, size in zip(sides, sizes, strict=True)]
    rates = [draw(st.integers(1, max(1, min(m, 3)))) for m in most]
    padding = draw(st.sampled_from(["SAME", "VALID"]))
    out = draw(st.sampled_from([1, 3, 16, 19]))
    return records, (*sides, channels), sizes, strides, rates, padding, out


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(convolutions(), st.integers(0, 2**32 - 1))
def test_convolutions_are_products_of_their_windows(convolution, seed):
    """Against TensorFlow's own windows."""
    records, shape, sizes, strides, rates, padding, out = convolution
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((records, *shape)).astype("float32")
    lists = ([1, *each, 1] for each in (sizes, strides, rates))
    windows = tf.image.extract_patches(images, *lists, padding)
    number = windows.shape[1:3]
    rows = tf.reshape(windows, (records, number[0] * number[1], -1))
    gradients = rng.standard_normal((*rows.shape[:2], out)).astype("float32")
    before = [0, 0]
    if padding == "SAME":
        reach = [(n - 1) * s + (k - 1) * r + 1 - side for n, s, k, r, side in
                 zip(number, strides, sizes, rates, shape[:2], strict=True)]  # fmt: skip
        before = [max(r, 0) // 2 for r in reach]
    places = native.Places(*map(tuple, (sizes, strides, rates, before, number)))
    found = native.record_convolutions(images, gradients, places)
    expected = native.record_products(rows, gradients)
    for name in ("products", "sums", "product_norms", "sum_norms"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_gradients_of_other_places_are_refused():
    places = native.Places((2, 2), (1, 1), (1, 1), (0, 0), (2, 2))
    for gradients in (tf.zeros((1, 5, 3)), tf.zeros((2, 4, 3)), tf.zeros((1, 4))):
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
            native.record_convolutions(tf.zeros((1, 3, 3, 1)), gradients, places)
