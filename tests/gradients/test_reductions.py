"""The sums of norms and clipped sums against NumPy."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from keras_dpvit.gradients import reductions
from keras_dpvit.gradients.ghost_norm import measured_tokens, token_sums

pytestmark = pytest.mark.usefixtures("kernels_in_use")


@hypothesis.given(
    records=st.integers(1, 4),
    tokens=st.integers(1, 24),
    width_in=st.integers(1, 12),
    width_out=st.integers(1, 12),
)
@hypothesis.settings(max_examples=40, deadline=None)
def test_norms_and_sums_over_tokens_are_those_of_gradients_written_out(
    records, tokens, width_in, width_out
):
    rng = np.random.default_rng(records + 10 * tokens + 1000 * width_in + 100_000 * width_out)
    x = rng.standard_normal((records, tokens, width_in))
    g = rng.standard_normal((records, tokens, width_out))
    weights = rng.uniform(0, 2, records)
    each = np.einsum("bti,bto->bio", x, g)
    measured = measured_tokens(tf.constant(x), tf.constant(g))
    total = token_sums(measured.kept, tf.constant(weights))
    np.testing.assert_allclose(measured.squared_norms, (each**2).sum(axis=(1, 2)), rtol=1e-10)
    np.testing.assert_allclose(total, np.tensordot(weights, each, axes=1), rtol=0, atol=1e-10)


def test_gradients_are_written_out_where_tokens_are_many():
    assert reductions.writes_out(49, 96, 384)
    assert not reductions.writes_out(4, 96, 384)
    assert not reductions.writes_out(1, 1, 1)
