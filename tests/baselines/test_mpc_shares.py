"""Shares: one party's are uniform, whatever they are of, and all together give the array back."""

import numpy as np
import pytest
import scipy.stats

from keras_dpvit.baselines import mpc_runtime

# 65,536 numbers give each of 256 values of a byte 256 occurrences, enough for the chi-square
# approximation. A sharing is put to at most 3 parties * 3 columns * 8 bytes = 72 tests, and there
# are fewer than 10 sharings here: under uniform shares one of them falls below 1e-10 with
# probability below 720e-10 < 1e-6, also if the approximation is wrong by a factor of ten out there.
NUMBERS = 65_536
LEVEL = 1e-10


def least_p(ring):
    """The least p-value of the chi-square tests of each summand's bytes, and of their sum's."""
    columns = [*ring.T]
    if len(columns) > 1:
        with np.errstate(over="ignore"):
            columns.append(ring.sum(axis=1, dtype=np.uint64))
    byte_columns = [np.ascontiguousarray(c).view(np.uint8).reshape(-1, 8) for c in columns]
    counts = [np.bincount(b, minlength=256) for bs in byte_columns for b in bs.T]
    return min(scipy.stats.chisquare(count).pvalue for count in counts)


@pytest.fixture(scope="module", params=["zeros", "pixels"])
def array(request):
    if request.param == "zeros":
        return np.zeros(NUMBERS, "float32")
    return np.random.default_rng(0).integers(0, 256, NUMBERS).astype("float32")


def shares_of(array, protocol):
    """Each party's share, as it is when it has come over the wire."""
    parties = mpc_runtime.PROTOCOLS[protocol].num_parties
    config = mpc_runtime.configuration(protocol)
    each = mpc_runtime.make_shares([array], config, parties)
    return [mpc_runtime.unpack(*mpc_runtime.pack(shares))[0] for shares in each]


@pytest.mark.parametrize(("protocol", "summands"), [("aby3", 2), ("semi2k", 1), ("cheetah", 1)])
def test_one_partys_share_is_uniform(array, protocol, summands):
    for share in shares_of(array, protocol):
        ring = mpc_runtime.ring_numbers(share)
        assert ring.shape == (NUMBERS, summands)
        assert least_p(ring) > LEVEL


def test_all_shares_give_the_array_back(array):
    shares = shares_of(array, "aby3")
    config = mpc_runtime.configuration("aby3")
    np.testing.assert_allclose(mpc_runtime.reconstruct(shares, config), array, atol=2**-19)
    rings = [mpc_runtime.ring_numbers(share) for share in shares]
    np.testing.assert_array_equal(rings[0][:, 1], rings[1][:, 0])  # a party has two of the three
    with np.errstate(over="ignore"):
        total = sum(ring[:, 0] for ring in rings).astype(np.int64) / 2**20
    np.testing.assert_allclose(total, array, atol=2**-19)


def test_the_same_array_is_shared_anew_each_time(array):
    first, second = (mpc_runtime.ring_numbers(shares_of(array, "aby3")[0]) for _ in range(2))
    assert (first == second).mean() < 0.01


def test_faulty_sharings_are_found(array, monkeypatch):
    shares = shares_of(array, "aby3")
    ring = mpc_runtime.ring_numbers(shares[0])
    plain = (array.astype(np.int64) << 20).astype(np.uint64)
    with np.errstate(over="ignore"):
        both_of_two = np.stack([ring[:, 0], plain - ring[:, 0]], axis=1)
    assert least_p(both_of_two[:, :1]) > LEVEL  # apart they look well
    assert least_p(both_of_two[:, 1:]) > LEVEL
    assert least_p(both_of_two) < LEVEL
    assert least_p(np.stack([plain, ring[:, 1]], axis=1)) < LEVEL
    assert least_p(ring & np.uint64(2**62 - 1)) < LEVEL
    native = mpc_runtime.libspu()
    monkeypatch.setattr(native.Visibility, "VIS_SECRET", native.Visibility.VIS_PUBLIC)
    assert least_p(mpc_runtime.ring_numbers(shares_of(array, "aby3")[0])) < LEVEL


def test_parts_that_are_not_shares_are_refused():
    with pytest.raises(ValueError, match="number of parts"):
        mpc_runtime.unpack([3], [b"", b""])
