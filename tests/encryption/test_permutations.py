"""The derivation: uniform, independent of NumPy's generators, and exact about rejected words."""

import itertools

import numpy as np
import pytest

from keras_dpvit.encryption import SecretKey, permutations


def test_permutations_of_four_are_uniform():
    counts = dict.fromkeys(itertools.permutations(range(4)), 0)
    for i in range(24_000):
        key = permutations.hkdf_sha256(i.to_bytes(32, "big"), b"uniform")
        counts[tuple(permutations.permutation(key, 4).tolist())] += 1
    statistic = sum((count - 1000) ** 2 / 1000 for count in counts.values())
    assert statistic < 55  # chi-square with 23 degrees of freedom exceeds it once in 5000 times


def test_every_place_of_a_long_permutation_is_uniform():
    """First and last element over 4,000 keys, in 7 classes of 28."""
    found = [permutations.permutation(i.to_bytes(4, "big"), 196)[[0, 195]] for i in range(4000)]
    for place in np.array(found).T:
        counts = np.bincount(place // 28, minlength=7)
        assert np.sum((counts - 4000 / 7) ** 2 / (4000 / 7)) < 27  # 6 degrees, 1 in 5000


def test_words_above_the_last_multiple_are_rejected(monkeypatch):
    # For 3 values the limit is 2^32 - 1, so the largest word falls; for 2 no word does.
    stream = np.array([2**32 - 1, 2**32 - 2, 2**32 - 1, 0], np.uint32)
    monkeypatch.setattr(permutations, "shake_words", lambda subkey, count: stream[:count])
    # i = 2: r = 2^32 - 2 = 2 mod 3, swaps 2 with 2; i = 1: r = 2^32 - 1 = 1 mod 2: nothing moves.
    assert permutations.permutation(b"", 3).tolist() == [0, 1, 2]
    # Taken instead of rejected, the first word would have swapped 2 with 0.
    stream[0] = 0
    assert permutations.permutation(b"", 3).tolist() == [1, 2, 0]


def test_more_words_are_asked_for_when_too_many_are_rejected(monkeypatch):
    asked = []

    def mostly_rejected(subkey, count):
        asked.append(count)
        words = np.full(count, 2**32 - 1, np.uint32)
        words[25:] = 2
        return words

    monkeypatch.setattr(permutations, "shake_words", mostly_rejected)
    assert permutations.permutation(b"", 3).tolist() == [1, 0, 2]
    assert asked == [19, 38]


@pytest.mark.parametrize("bound", [1, 2, 6, 2**31 + 1, 2**32])
def test_numbers_below_a_bound_are_the_words_that_are_left(bound):
    limit = 2**32 // bound * bound
    words = [int(word) for word in permutations.shake_words(b"some", 4096) if word < limit]
    found = permutations.below(b"some", 500, bound)
    assert found.tolist() == [word % bound for word in words[:500]]


def test_bits_are_those_of_the_stream_and_balanced():
    import hashlib

    stream = int.from_bytes(hashlib.shake_256(b"k").digest(1250), "little")
    found = permutations.bits(b"k", 10_000)
    assert [bool(stream >> i & 1) for i in range(10_000)] == found.tolist()
    assert permutations.bits(b"k", 13).tolist() == found[:13].tolist()
    assert 4800 < found.sum() < 5200


def test_numpys_generators_are_neither_used_nor_moved():
    key = SecretKey(bytes(32))
    np.random.seed(1)
    first = key.permutation("x", 50)
    state = np.random.get_state()[1].copy()
    np.random.seed(1)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    np.random.seed(2)
    np.testing.assert_array_equal(key.permutation("x", 50), first)


def test_purposes_and_sizes_give_independent_permutations():
    key = SecretKey(bytes(32))
    found = {
        tuple(key.permutation(purpose, 12).tolist())
        for purpose in ("vit-blockwise/K1", "vit-blockwise/K2", "le/K1", "ele/K1", "etc-color/K1")
    }
    assert len(found) == 5
    assert key.subkey("a/n=1") != key.subkey("a/n=10")


@pytest.mark.parametrize("length", [0, 8161])
def test_hkdf_has_a_longest_output(length):
    with pytest.raises(ValueError, match=r"1\.\.8160"):
        permutations.hkdf_sha256(b"x", b"", length)
    assert len(permutations.hkdf_sha256(b"x", b"", 8160)) == 8160
