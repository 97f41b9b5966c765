"""Chosen and known plaintexts give every scheme's key away."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dpvit.attacks import block_layout, chosen_plaintext, known_plaintext
from keras_dpvit.encryption import PixelEncryption, SecretKey, make_cipher
from keras_dpvit.errors import InputError

# Scheme, options, image shape, and how many chosen images it takes.
CASES = [
    ("vit_block", {}, (224, 224, 3), 1),
    ("vit_block", {"channels": "independent", "unit": "patch"}, (64, 48, 3), 3),
    ("vit_block", {"unit": "patch", "block_size": 4}, (16, 32, 1), 2),
    ("le", {}, (32, 32, 3), 1),
    ("le", {"variant": "paper"}, (8, 8, 1), 1),
    ("ele", {}, (32, 32, 3), 4),
    ("ele", {"variant": "paper", "block_size": 2}, (64, 64, 1), 4),
    ("etc", {}, (32, 32, 3), 1),
    ("etc", {}, (16, 24, 1), 1),
    ("etc", {"mode": "grayscale"}, (32, 32, 3), 1),
    ("pe", {}, (32, 32, 3), 1),
    ("pe", {"shuffle_colors": False}, (8, 8, 3), 1),
    ("pe", {}, (8, 8, 1), 1),
]
IDS = [f"{scheme}-{shape}-{options}" for scheme, options, shape, _ in CASES]


def victim(scheme, options, shape, seed=0):
    return make_cipher(scheme, SecretKey(bytes([seed]) * 32), shape, **options)


def noise(count, shape, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.mark.parametrize(("scheme", "options", "shape", "images"), CASES, ids=IDS)
def test_chosen_plaintext_gives_a_cipher_that_decrypts(scheme, options, shape, images):
    cipher = victim(scheme, options, shape)
    used = []

    def encrypt(chosen):
        used.append(len(chosen))
        return cipher.encrypt(chosen)

    found = chosen_plaintext.recover(scheme, encrypt, shape, cipher.params())
    fresh = noise(3, shape)
    np.testing.assert_array_equal(found.decrypt(cipher.encrypt(fresh)), fresh)
    np.testing.assert_array_equal(found.encrypt(fresh), cipher.encrypt(fresh))
    assert sum(used) == images


@pytest.mark.parametrize(("scheme", "options", "shape", "images"), CASES, ids=IDS)
def test_known_noise_gives_a_cipher_that_decrypts(scheme, options, shape, images):
    cipher = victim(scheme, options, shape)
    known = noise(16, shape, seed=2)
    found = known_plaintext.recover(scheme, known, cipher.encrypt(known), cipher.params())
    fresh = noise(2, shape)
    np.testing.assert_array_equal(found.decrypt(cipher.encrypt(fresh)), fresh)
    if "block_permutation" in dir(cipher):
        np.testing.assert_array_equal(found.block_permutation, cipher.block_permutation)


@pytest.mark.parametrize("seed", range(6))
def test_blocks_with_the_same_values_in_another_order_are_told_apart(seed):
    cipher = victim("vit_block", {"block_size": 8}, (32, 32, 3), seed)
    known = noise(1, (32, 32, 3))
    # The second block is the first with each quadrant turned about.
    quadrants = known[0, :8, :8].reshape(2, 4, 2, 4, 3)
    known[0, :8, 8:16] = quadrants[:, ::-1, :, ::-1].reshape(8, 8, 3)
    found = known_plaintext.recover("vit_block", known, cipher.encrypt(known), cipher.params())
    np.testing.assert_array_equal(found.block_permutation, cipher.block_permutation)
    np.testing.assert_array_equal(found.pixel_permutation, cipher.pixel_permutation)


def test_rounded_ycbcr_is_recovered_too():
    cipher = victim("etc", {"mode": "grayscale", "color_transform": "ycbcr"}, (32, 32, 3))
    found = chosen_plaintext.recover("etc", cipher.encrypt, (32, 32, 3), cipher.params())
    np.testing.assert_array_equal(found.block_permutation, cipher.block_permutation)
    for name, step in cipher.steps.items():
        np.testing.assert_array_equal(found.steps[name], step)


def test_vit_and_pe_keys_are_the_very_permutations():
    cipher = victim("vit_block", {}, (224, 224, 3))
    found = chosen_plaintext.recover("vit_block", cipher.encrypt, (224, 224, 3), cipher.params())
    np.testing.assert_array_equal(found.block_permutation, cipher.block_permutation)
    np.testing.assert_array_equal(found.pixel_permutation, cipher.pixel_permutation)
    cipher = victim("pe", {}, (32, 32, 3))
    found = chosen_plaintext.recover("pe", cipher.encrypt, (32, 32, 3), cipher.params())
    np.testing.assert_array_equal(found.inversion_mask, cipher.inversion_mask)
    np.testing.assert_array_equal(found.colors, cipher.colors)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 300))
def test_any_map_of_nibbles_is_read_off(seed, count):
    generator = np.random.default_rng(seed)
    index, inverted = generator.permutation(2 * count), generator.random(2 * count) < 0.5

    def encrypt(images):
        flat = images.reshape(len(images), -1)
        nibbles = np.concatenate([flat & 15, flat >> 4], 1)[:, index] ^ (15 * inverted)
        low, high = np.split(nibbles.astype(np.uint8), 2, axis=1)
        return (low | (high << 4)).reshape(images.shape)

    found = chosen_plaintext.recover_map(encrypt, (1, count, 1))
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_array_equal(found.inverted, inverted)


def test_agreement_counts_what_is_wrong():
    ciphers = [victim("le", {}, (32, 32, 3), seed) for seed in (0, 0, 1)]
    same, again, other = (chosen_plaintext.map_of(c, (32, 32, 3)) for c in ciphers)
    assert same.agreement(again) == 1
    assert same.agreement(other) < 0.1


def test_equal_sources_are_used_once_each():
    np.testing.assert_array_equal(
        block_layout.match_equal(["a", "b", "a", "c"], ["c", "a", "x", "a"]), [3, 0, 1, 2]
    )


def test_bad_input():
    cipher = PixelEncryption.with_key_per_image()
    image = noise(1, (8, 8, 3))
    for recover in (
        lambda: chosen_plaintext.recover("pe", cipher.encrypt, (8, 8, 3), cipher.params()),
        lambda: known_plaintext.recover("pe", image, cipher.encrypt(image), cipher.params()),
    ):
        with pytest.raises(InputError, match=r"A key per image"):
            recover()
    with pytest.raises(InputError, match=r"^scheme must be one of"):
        known_plaintext.recover("aes", image, image, {})
    with pytest.raises(InputError, match=r"^plain and encrypted must have the same length"):
        known_plaintext.recover("pe", image, image[:0], {"shuffle_colors": True})
    lossy = {"mode": "color", "block_size": 4, "legacy_channel_bug": True}
    with pytest.raises(InputError, match=r"^legacy_channel_bug"):
        known_plaintext.recover("etc", image, image, lossy)
