"""Layer clipping and the release cap against NumPy; samplers against their distribution."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import randomness, sampling
from keras_dpvit.privacy.clipping import clipping_from_dict
from keras_dpvit.privacy.sensitivity import release_weights, sensitivity_from_dict

POSITIVE = st.floats(np.float32(1e-3).item(), 1e3, width=32)
ANY_NORM = st.floats(0, np.float32(1e30).item(), width=32) | st.sampled_from(
    [0.0, np.inf, np.nan, np.float32(3e38).item()]
)


def norms(elements, max_layers=9):
    shapes = st.tuples(st.integers(1, 6), st.integers(1, max_layers))
    return shapes.flatmap(lambda shape: hnp.arrays("float32", shape, elements=elements))


@settings(deadline=None)
@given(norms(POSITIVE))
def test_median_clipping_is_equations_9_and_10(layer_norms):
    factors = kd.MedianLayerClipping().factors(tf.constant(layer_norms)).numpy()
    for row, factor in zip(layer_norms, factors, strict=True):
        median = np.median(row)
        expected = [1 / max(1.0, norm / median) for norm in row]
        np.testing.assert_allclose(factor, expected, rtol=1e-5)


def test_median_clipping_of_layers_without_gradient():
    layer_norms = tf.constant([[0.0, 0.0, 0.0, 5.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    factors = kd.MedianLayerClipping().factors(layer_norms).numpy()
    # More than half of the layers have none: the median is 0 and the rest is clipped to it.
    np.testing.assert_array_equal(factors, [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])


@settings(deadline=None, max_examples=200)
@given(norms(ANY_NORM), POSITIVE, st.booleans())
def test_no_record_passes_the_cap_whatever_its_norms(layer_norms, cap, median):
    clipping = kd.MedianLayerClipping() if median else kd.FlatClipping()
    factors = clipping.factors(tf.constant(layer_norms))
    weights, clipped = release_weights(tf.constant(layer_norms), factors, tf.constant(cap))
    weights, clipped = weights.numpy(), clipped.numpy()
    assert np.isfinite(weights).all()
    assert np.isfinite(clipped).all()
    assert (weights >= 0).all()
    usable = np.isfinite(layer_norms).all(axis=1)
    assert (weights[~usable] == 0).all()
    shares = weights[usable].astype("float64") * layer_norms[usable]
    assert (np.sqrt((shares**2).sum(axis=1)) <= cap).all()


def test_records_below_the_cap_are_left_alone():
    layer_norms = tf.constant([[0.3, 0.4], [3.0, 4.0]])
    ones = kd.FlatClipping().factors(layer_norms)
    weights, clipped = release_weights(layer_norms, ones, tf.constant(1.0))
    np.testing.assert_allclose(weights[0], [1, 1])
    np.testing.assert_allclose(weights[1], [0.2, 0.2], rtol=2e-5)
    np.testing.assert_allclose(clipped, [0.5, 5.0])


def test_each_kind_of_factor_by_hand():
    layer_norms = tf.constant([[3.0, 4.0], [0.0, 0.5]], tf.float64)
    each = kd.FixedLayerClipping((1.0, 8.0)).factors(layer_norms).numpy()
    np.testing.assert_allclose(each, [[1 / 3, 1], [1, 1]])
    whole = kd.AutomaticClipping(gamma=0.5).factors(layer_norms).numpy()
    np.testing.assert_allclose(whole, [[1 / 5.5, 1 / 5.5], [1, 1]])
    by_layer = kd.AutomaticClipping(gamma=0.5, layerwise=True).factors(layer_norms).numpy()
    np.testing.assert_allclose(by_layer, 0.5**0.5 * np.array([[1 / 3.5, 1 / 4.5], [2, 1]]))


def test_names_are_read_back():
    assert clipping_from_dict({"name": "flat"}) == kd.FlatClipping()
    for read in (clipping_from_dict, sensitivity_from_dict):
        with pytest.raises(InputError, match="must be one of"):
            read({"name": "other"})


def test_poisson_sampling_draws_each_record_by_itself():
    sampler = sampling.PoissonSampler(0.3, randomness.new_key(1, "sampling"))
    taken = np.zeros((2000, 50), bool)
    for step in range(2000):
        taken[step, sampler.sample(50, step)] = True
    counts = taken.sum(axis=0)
    assert stats.chisquare(counts, np.full(50, counts.mean())).pvalue > 1e-4
    assert stats.binomtest(int(counts.sum()), taken.size, 0.3).pvalue > 1e-4
    sizes = np.bincount(taken.sum(axis=1), minlength=51)
    expected = 2000 * stats.binom.pmf(np.arange(51), 50, 0.3)
    big = expected > 5
    assert (
        stats.chisquare(sizes[big], expected[big] * sizes[big].sum() / expected[big].sum()).pvalue
        > 1e-4
    )
    correlation = np.corrcoef(taken.T)[np.triu_indices(50, 1)]
    assert np.abs(correlation).max() < 0.1  # 1225 pairs at 1/sqrt(2000) each
    lag = np.mean((taken[1:] - 0.3) * (taken[:-1] - 0.3))
    assert abs(lag) < 0.005


def test_samples_depend_on_key_and_step_alone():
    sampler = sampling.PoissonSampler(0.5, randomness.new_key(1, "sampling"))
    again = sampling.PoissonSampler(0.5, randomness.new_key(1, "sampling"))
    np.testing.assert_array_equal(sampler.sample(100, 7), again.sample(100, 7))
    stream = sampler.steps_from(100, 7)
    np.testing.assert_array_equal(next(stream), again.sample(100, 7))
    np.testing.assert_array_equal(next(stream), again.sample(100, 8))
    assert not np.array_equal(sampler.sample(100, 7), sampler.sample(100, 8))
    other = sampling.PoissonSampler(0.5, randomness.new_key(2, "sampling"))
    assert not np.array_equal(sampler.sample(100, 7), other.sample(100, 7))


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.1, float("nan")])
def test_bad_probabilities_are_refused(probability):
    with pytest.raises(InputError, match="sampling_probability"):
        sampling.PoissonSampler(probability, bytes(32))


def test_probability_one_takes_everybody():
    assert len(sampling.PoissonSampler(1.0, bytes(32)).sample(1000, 0)) == 1000


def test_keys_come_from_the_operating_system_unless_seeded():
    assert randomness.new_key(None, "noise") != randomness.new_key(None, "noise")
    assert randomness.new_key(3, "noise") == randomness.new_key(3, "noise")
    assert randomness.new_key(3, "noise") != randomness.new_key(3, "sampling")
    assert len({randomness.step_key(bytes(32), step) for step in range(1000)}) == 1000


def test_parts_are_drawn_record_by_record():
    parts = sampling.independent_parts(10_000, 2, seed=4)
    assert stats.binomtest(int(parts.sum()), 10_000, 0.5).pvalue > 1e-4
    one, other = (sampling.independent_parts(10_000, 2) for _ in range(2))
    assert not np.array_equal(one, other)  # a false alarm has 2^-10000
    np.testing.assert_array_equal(
        sampling.independent_parts(100, 3, seed=1), sampling.independent_parts(100, 3, seed=1)
    )
    assert set(sampling.independent_parts(1000, 3)) == {0, 1, 2}
