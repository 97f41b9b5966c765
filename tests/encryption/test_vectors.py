"""The published test vectors of every scheme and of the key derivation, digit by digit."""

import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf import hkdf

from keras_dpvit import encryption
from keras_dpvit.encryption import permutations

SECRET = bytes(range(32))

T1 = """
41 33 43 35  9  1 11  3
32 40 34 42  0  8  2 10
57 49 59 51 25 17 27 19
48 56 50 58 16 24 18 26
45 37 47 39 13  5 15  7
36 44 38 46  4 12  6 14
61 53 63 55 29 21 31 23
52 60 54 62 20 28 22 30
"""

NIBBLE_KEY = [6, 0, 3, 5, 1, 7, 2, 4]


def hex_image(text):
    rows = [[int(value, 16) for value in row.split()] for row in text.split("/")]
    return np.array(rows, np.uint8)[..., None]


def test_t1_vit_block_cipher():
    cipher = encryption.ViTBlockCipher.from_permutations(
        block_size=4, block_permutation=[2, 0, 3, 1], pixel_permutation=[3, 1, 0, 2]
    )
    plain = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    expected = np.array([row.split() for row in T1.strip().splitlines()], np.uint8)[..., None]
    np.testing.assert_array_equal(cipher.encrypt(plain), expected)
    np.testing.assert_array_equal(cipher.decrypt(expected), plain)
    colours = np.concatenate([plain, plain + 64, plain + 128], axis=-1)
    np.testing.assert_array_equal(
        cipher.encrypt(colours), np.concatenate([expected, expected + 64, expected + 128], -1)
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"variant": "tanaka"}, "45 3D / B2 13"),
        ({"variant": "paper", "inversion_mask": [1, 0, 0, 1, 0, 1, 0, 0]}, "4A CD / B2 1C"),
    ],
    ids=["tanaka", "paper"],
)
def test_t2_learnable_encryption(options, expected):
    cipher = encryption.LearnableEncryption.from_permutations(2, NIBBLE_KEY, **options)
    plain = hex_image("12 34 / AB CD")
    np.testing.assert_array_equal(cipher.inversion_mask, [1, 0, 0, 1, 0, 1, 0, 0])
    np.testing.assert_array_equal(cipher.encrypt(plain), hex_image(expected))
    np.testing.assert_array_equal(cipher.decrypt(hex_image(expected)), plain)


def test_t2_half_of_the_published_key_length_is_inverted():
    cipher = encryption.LearnableEncryption.from_key(SECRET, (32, 32, 3))
    assert cipher.nibble_permutation.shape == (96,)
    assert cipher.inversion_mask.sum() == 47


def test_t3_extended_learnable_encryption():
    cipher = encryption.ExtendedLearnableEncryption.from_permutations(
        2, [2, 0, 3, 1], [NIBBLE_KEY, range(8), range(7, -1, -1), [4, 5, 6, 7, 0, 1, 2, 3]]
    )
    plain = (17 * np.arange(16)).astype(np.uint8).reshape(4, 4, 1)
    expected = hex_image("D2 33 1B AF / 66 78 4A 01 / AA 44 22 33 / 11 00 66 77")
    np.testing.assert_array_equal(cipher.encrypt(plain), expected)
    np.testing.assert_array_equal(cipher.decrypt(expected), plain)


def test_t4_encryption_then_compression():
    cipher = encryption.EncryptionThenCompression.from_permutations(
        block_size=2,
        block_permutation=[2, 0, 3, 1],
        rotations=[1, 0, 2, 3],
        flips=[0, 1, 0, 1],
        negatives=[0, 0, 1, 0],
        colors=[0, 1, 3, 5],
    )
    plain = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    expected = np.array(
        [
            [(27, 28, 29), (39, 40, 41), (3, 5, 4), (0, 2, 1)],
            [(24, 25, 26), (36, 37, 38), (15, 17, 16), (12, 14, 13)],
            [(209, 208, 210), (212, 211, 213), (8, 7, 6), (20, 19, 18)],
            [(221, 220, 222), (224, 223, 225), (11, 10, 9), (23, 22, 21)],
        ],
        np.uint8,
    )
    np.testing.assert_array_equal(cipher.encrypt(plain), expected)
    np.testing.assert_array_equal(cipher.decrypt(expected), plain)


def test_t5_pixel_encryption():
    cipher = encryption.PixelEncryption.from_permutations(
        [[[1, 0, 0], [0, 1, 1]], [[0, 0, 0], [1, 1, 1]]], [[3, 0], [5, 2]]
    )
    plain = np.array(
        [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [100, 110, 120]]], dtype=np.uint8
    )
    expected = np.array(
        [[[20, 30, 245], [40, 205, 195]], [[90, 80, 70], [145, 155, 135]]], dtype=np.uint8
    )
    np.testing.assert_array_equal(cipher.encrypt(plain), expected)
    np.testing.assert_array_equal(cipher.decrypt(expected), plain)


def test_hkdf_of_rfc_5869():
    # Test cases 1 and 3 of the RFC's appendix A.
    first = permutations.hkdf_sha256(
        b"\x0b" * 22, bytes(range(0xF0, 0xFA)), 42, salt=bytes(range(0x0D))
    )
    assert first.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )
    third = permutations.hkdf_sha256(b"\x0b" * 22, b"", 42)
    assert third.hex() == (
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    )


@pytest.mark.parametrize(
    ("purpose", "subkey"),
    [
        ("K1/n=4", "5892476544e66ff689f36e6dfc3e1b2634b8df1207849b23e894039838ab52a9"),
        ("K1/n=196", "8dc9a15f70398d3ea77e81bc3556441d7a28976a6fa8d04fa6fa89cb5c0bad3a"),
        ("K2/n=64", "5205e4628c573e0e9215a860b196fac2ca9484676945cbb9daaf1dde9ccbf82e"),
    ],
)
def test_subkeys(purpose, subkey):
    info = f"kvitcrypt/v1/vit-blockwise/{purpose}"
    assert permutations.hkdf_sha256(SECRET, info.encode()).hex() == subkey
    assert encryption.SecretKey(SECRET).subkey(f"vit-blockwise/{purpose}").hex() == subkey


def test_cryptography_derives_the_same_bytes():
    other = hkdf.HKDF(algorithm=hashes.SHA256(), length=77, salt=None, info=b"some").derive(SECRET)
    assert permutations.hkdf_sha256(SECRET, b"some", 77) == other


def test_permutations_of_a_key_in_the_cipher_itself():
    cipher = encryption.ViTBlockCipher.from_key(SECRET)
    assert cipher.image_shape == (224, 224, 3)
    first = [144, 191, 55, 166, 70, 120, 28, 102, 149, 141, 122, 161]
    assert cipher.block_permutation[:12].tolist() == first
    assert digest(cipher.block_permutation) == (
        "5202f4ebd01bb77fc671719e749f2de9cc131d58174ca5043dc511b3f8b87059"
    )
    assert cipher.pixel_permutation[:12].tolist() == [33, 42, 55, 60, 27, 48, 36, 16, 0, 8, 32, 47]
    assert digest(cipher.pixel_permutation) == (
        "720a7243696e8e417b76b82ab8ea03aeb2f715931d0c33decd959fddcca5c831"
    )
    small = encryption.ViTBlockCipher.from_key(SECRET, (8, 8, 1), block_size=4)
    assert small.block_permutation.tolist() == [0, 3, 2, 1]


def digest(permutation):
    return hashlib.sha256(permutation.astype(np.uint8).tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("cipher", "expected"),
    [
        (encryption.ViTBlockCipher.from_key(SECRET), 1510.84),
        (encryption.ViTBlockCipher.from_key(SECRET, (32, 32, 3), 4), 300.6),
        (encryption.LearnableEncryption.from_key(SECRET, variant="paper"), 594),
        (encryption.LearnableEncryption.from_key(SECRET), 498),
        (encryption.ExtendedLearnableEncryption.from_key(SECRET, variant="paper"), 38330),
        (encryption.ExtendedLearnableEncryption.from_key(SECRET), 32186),
        (encryption.EncryptionThenCompression.from_key(SECRET), 717),
        (
            encryption.EncryptionThenCompression.from_key(SECRET, (224, 224, 3), mode="grayscale"),
            32363,
        ),
        (encryption.PixelEncryption.from_key(SECRET), 5719),
        (encryption.PixelEncryption.from_key(SECRET, shuffle_colors=False), 3072),
    ],
    ids=lambda value: getattr(value, "scheme", str(value)),
)
def test_key_spaces_of_the_table(cipher, expected):
    digits = len(str(expected).partition(".")[2])
    assert round(cipher.key_space_bits, digits) == expected


def test_later_forms_have_the_key_space_of_their_papers():
    joint = encryption.ViTBlockCipher.from_key(SECRET, channels="independent", unit="patch")
    assert round(joint.key_space_bits) == 7474
