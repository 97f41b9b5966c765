"""The shuffled sampler against what its passes promise."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import randomness, sampling


def shuffled(batch_size, seed=1):
    return sampling.ShuffledSampler(batch_size, randomness.new_key(seed, "sampling"))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 4), st.integers(0, 1000))
def test_a_pass_has_each_record_once_at_most_in_batches_of_the_size(n, batch_size, index, seed):
    batch_size = min(batch_size, n)
    sampler, each = shuffled(batch_size, seed), n // batch_size
    batches = [sampler.sample(n, index * each + step) for step in range(each)]
    assert all(len(batch) == batch_size for batch in batches)
    assert all((np.diff(batch) > 0).all() for batch in batches)
    taken = np.concatenate(batches)
    assert len(set(taken)) == len(taken) == each * batch_size
    assert set(taken) <= set(range(n))


def test_passes_differ():
    sampler = shuffled(10)
    first = [sampler.sample(50, step) for step in range(5)]
    second = [sampler.sample(50, step) for step in range(5, 10)]
    assert not any(np.array_equal(one, other) for one, other in itertools.product(first, second))


def test_every_record_comes_equally_often_in_every_place():
    sampler, passes = shuffled(5), 3000
    counts = np.zeros((4, 23))  # 20 of 23 records have a place in a pass
    for step in range(4 * passes):
        counts[step % 4, sampler.sample(23, step)] += 1
    expected = passes * 5 / 23
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert stats.chi2.sf(statistic, 4 * 22) > 1e-4
    left_out = passes - counts.sum(axis=0)
    assert stats.chisquare(left_out).pvalue > 1e-4


def test_records_meet_each_other_by_chance():
    sampler, steps = shuffled(6), 4000
    together = np.zeros((12, 12))
    for step in range(steps):
        rows = sampler.sample(12, step)
        together[np.ix_(rows, rows)] += 1
    pairs = together[np.triu_indices(12, 1)] / steps
    probability = 6 * 5 / (12 * 11)
    # The two batches of a pass tell of each other: half as many draws.
    deviation = np.sqrt(probability * (1 - probability) / (steps / 2))
    assert np.abs(pairs - probability).max() < 5 * deviation


def test_shuffles_depend_on_key_and_step_alone():
    sampler, again, other = shuffled(10), shuffled(10), shuffled(10, seed=2)
    for step in (7, 0, 23, 7):  # in any order
        np.testing.assert_array_equal(sampler.sample(45, step), again.sample(45, step))
    stream = sampler.steps_from(45, 3)
    for step in (3, 4, 5):
        np.testing.assert_array_equal(next(stream), again.sample(45, step))
    assert not np.array_equal(sampler.sample(45, 7), other.sample(45, 7))


def test_fewer_records_than_a_batch_are_refused():
    with pytest.raises(InputError, match="batch_size must not exceed the number of records"):
        shuffled(10).sample(9, 0)
    with pytest.raises(InputError, match="batch_size must"):
        shuffled(0)


def test_a_plan_hands_out_the_sampler_that_it_counts():
    def sampler(kind):
        return kd.PrivacyPlan(100, 20, 1, 1e-5, 1.0, sampling=kind).sampler(bytes(32))

    assert sampler("poisson").sampling_probability == 0.2
    assert sampler("shuffled").batch_size == 20
    assert sampler("external") is None
