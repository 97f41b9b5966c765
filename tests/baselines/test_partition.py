"""Records dealt out to clients."""

import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.baselines import federated
from keras_dpvit.privacy import batch_sizes

LABELS = np.arange(5000) % 10


def shares(rows):
    """Of each client, the share of its most frequent class."""
    return [np.bincount(LABELS[own], minlength=10).max() / len(own) for own in rows if len(own)]


@pytest.mark.parametrize("alpha", [None, 0.1, 100.0])
def test_every_record_has_one_client(alpha):
    rows = federated.split(LABELS, 7, alpha, seed=1)
    assert len(rows) == 7
    assert sorted(np.concatenate(rows)) == list(range(5000))


def test_a_small_alpha_is_skewed_and_none_is_not():
    skewed, alike = (np.mean(shares(federated.split(LABELS, 10, a, seed=1))) for a in (0.1, None))
    assert skewed > 0.4
    assert alike < 0.2


def test_clients_are_drawn_for_each_record_by_itself():
    """Counts are binomial, not equal: a cut by position would give 500 to each."""
    counts = [len(own) for own in federated.split(LABELS, 10, seed=3)]
    assert len(set(counts)) > 5
    assert np.abs(np.array(counts) - 500).max() < 6 * np.sqrt(5000 * 0.1 * 0.9)


def test_without_a_seed_every_split_is_another():
    one, two = (federated.split(LABELS, 4) for _ in range(2))
    assert not np.array_equal(one[0], two[0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((LABELS, 0), "num_clients must be a whole number above 0"),
        ((LABELS, 2, 0.0), "alpha must be a finite number above 0"),
        ((LABELS[None], 2), "labels must be one class for each record"),
    ],
)
def test_bad_arguments(arguments, said):
    with pytest.raises(kd.InputError, match=said):
        federated.split(*arguments)


def test_public_numbers_have_two_digits():
    assert [batch_sizes.rounded_down(n) for n in (1, 9, 23, 157, 60_123)] == [1, 9, 23, 150, 60_000]
