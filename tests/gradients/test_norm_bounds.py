"""No norm is below the norm of what is summed, whatever cancels, underflows or overflows."""

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from keras_dpvit.gradients import reductions
from keras_dpvit.gradients.ghost_norm import gram_norms, measured_tokens, token_sums
from keras_dpvit.gradients.layer_rules import layer_rules
from keras_dpvit.gradients.per_example import PerExampleGradients

pytestmark = pytest.mark.usefixtures("kernels_in_use")

# What the release cap keeps in reserve for rounding (`privacy.sensitivity.ROUNDING_MARGIN`).
MARGIN = 1e-5


def summed(x, g):
    """Each record's own share of the sum, as float32 adds it up: norms in float64."""
    x, g = tf.constant(x), tf.constant(g)
    measured = measured_tokens(x, g)
    shares = [
        token_sums([t[i : i + 1] for t in measured.kept], tf.constant([1.0])) for i in range(len(x))
    ]
    return measured.squared_norms.numpy(), [float(np.linalg.norm(np.float64(s))) for s in shares]


def holds(squared, norms):
    finite = np.isfinite(squared)
    return np.all(np.sqrt(squared[finite]) * (1 + MARGIN) + 1e-13 >= np.array(norms)[finite])


@st.composite
def cancelling(draw):
    """Tokens v, -v, 2v, -2v and their like, at any scale, with a little noise or none."""
    records, pairs = draw(st.integers(1, 3)), draw(st.integers(1, 16))
    widths = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    scales = [10.0 ** draw(st.integers(-24, 9)) for _ in widths]
    noise = draw(st.sampled_from([0.0, 1e-7, 1e-4, 1e-2]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    factors = rng.integers(1, 5, (records, pairs))
    factors = np.stack([factors, -factors], axis=2).reshape(records, 2 * pairs, 1)
    x = factors * rng.standard_normal((records, 1, widths[0]))
    g = np.ones_like(factors) * rng.standard_normal((records, 1, widths[1]))
    x, g = (
        s * (t + noise * rng.standard_normal(t.shape)) for s, t in zip(scales, (x, g), strict=True)
    )
    whole = draw(st.booleans())
    return [(np.round(t) if whole else t).astype("float32") for t in (x, g)]


@hypothesis.given(cancelling())
@hypothesis.settings(max_examples=150, deadline=None)
def test_norms_of_cancelling_tokens_bound_what_is_summed(factors):
    assert holds(*summed(*factors))


def test_the_plain_gram_matrix_would_not_do():
    """The faulty twin: without its bound on rounding, the sum of products falls short."""
    rng = np.random.default_rng(0)
    v = 1e4 * rng.standard_normal((1, 1, 16))
    x = np.array([1, -1, 2, -2]).reshape(1, 4, 1) * v + 1e-4 * rng.standard_normal((1, 4, 16))
    g = np.ones((1, 4, 64)) * rng.standard_normal((1, 1, 64))
    x, g = x.astype("float32"), g.astype("float32")
    squared, norms = summed(x, g)
    assert holds(squared, norms)
    pairs = (x @ x.transpose(0, 2, 1)) * (g @ g.transpose(0, 2, 1))
    plain = np.maximum(pairs.sum(axis=(1, 2)), 0.0)
    assert not holds(plain, norms)


def test_a_bound_costs_ordinary_tokens_next_to_nothing():
    rng = np.random.default_rng(1)
    x, g = (rng.standard_normal((8, 16, 96)).astype("float32") for _ in range(2))
    true = np.linalg.norm(np.einsum("bti,bto->bio", x.astype(float), g), axis=(1, 2))
    x, g = tf.constant(x), tf.constant(g)
    for found in (measured_tokens(x, g).squared_norms, gram_norms(x, g)):
        ratio = np.sqrt(found) / true
        assert np.all(ratio >= 1)
        assert np.all(ratio < 1.001)


@hypothesis.given(st.integers(1, 9000), st.integers(-18, 18), st.booleans())
@hypothesis.settings(max_examples=60, deadline=None)
def test_squared_norms_of_long_rows(count, power, whole):
    rng = np.random.default_rng(count)
    rows = 10.0**power * rng.standard_normal((3, count))
    rows = (np.round(rows) if whole else rows).astype("float32")
    found = np.asarray(reductions.squared_norms(tf.constant(rows)))
    np.testing.assert_allclose(found, (rows.astype("float64") ** 2).sum(axis=1), rtol=4e-6)


def test_rows_of_an_embedding_that_cancel():
    """One row looked up 64 times with gradients that cancel: the norm was 7.3 times too small."""
    model = keras.Sequential(
        [keras.Input((64,), dtype="int32"), keras.layers.Embedding(5, 3), keras.layers.Flatten()]
    )
    rng = np.random.default_rng(2)
    signs = np.where(np.arange(64) % 2, 1e4, -1e4)[:, None]
    away = (signs + 1e-3 * rng.standard_normal((64, 3))).reshape(1, -1).astype("float32")
    units = layer_rules(model)

    def forward():
        outputs = model(tf.zeros((1, 64), tf.int32))
        return tf.reduce_sum(outputs * away, axis=1), None

    gradients = PerExampleGradients(units, forward)
    (total,) = gradients.weighted_sums(tf.ones((1, 1)))
    norm = float(gradients.layer_norms()[0, 0])
    assert norm * (1 + MARGIN) >= np.linalg.norm(total.numpy().astype("float64"))


@pytest.mark.parametrize("scales", [(1e-23, 1e18), (1e18, 1e-23), (1e-30, 1e30), (1e-19, 1e-19)])
def test_norms_do_not_underflow_beside_large_factors(scales):
    """A product of moderate size from a factor whose square is 0 in float32."""
    rng = np.random.default_rng(3)
    for tokens in (1, 4, 60):
        x, g = ((scale * rng.standard_normal((2, tokens, 7))).astype("float32") for scale in scales)
        assert holds(*summed(x, g))


def test_a_float32_norm_would_underflow():
    """The faulty twin of the test above."""
    x, g = np.full((1, 1, 7), 1e-23, "float32"), np.full((1, 1, 7), 1e18, "float32")
    plain = (x**2).sum(axis=(1, 2)) * (g**2).sum(axis=(1, 2))
    assert not holds(plain, summed(x, g)[1])
