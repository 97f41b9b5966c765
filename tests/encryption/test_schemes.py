"""What every cipher must do, against loops over blocks written here, and what each refuses."""

import copy
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dpvit import InputError, encryption

SECRET = bytes(range(32))

# Name of a form, scheme, options, channels that it takes, even blocks only.
FORMS = {
    "vit": ("vit_block", {}, (1, 2, 3, 4), True),
    "vit, independent": ("vit_block", {"channels": "independent"}, (1, 2, 3, 4), True),
    "vit, patch": ("vit_block", {"unit": "patch"}, (1, 2, 3, 4), False),
    "vit, patch, independent": (
        "vit_block",
        {"unit": "patch", "channels": "independent"},
        (1, 2, 3, 4),
        False,
    ),
    "le": ("le", {}, (1, 2, 3, 4), False),
    "le, paper": ("le", {"variant": "paper"}, (1, 2, 3, 4), False),
    "ele": ("ele", {}, (1, 2, 3, 4), False),
    "ele, paper": ("ele", {"variant": "paper"}, (1, 2, 3, 4), False),
    "etc": ("etc", {}, (1, 3), False),
    "etc, grayscale": ("etc", {"mode": "grayscale"}, (3,), False),
    "pe": ("pe", {}, (1, 3), False),
    "pe, mask only": ("pe", {"shuffle_colors": False}, (1, 3), False),
}


def made(form, key, rows, columns, channels, block):
    scheme, options, _, _ = FORMS[form]
    if scheme != "pe":
        options = {**options, "block_size": block}
    shape = (rows * block, columns * block, channels)
    return encryption.make_cipher(scheme, key, shape, **options), shape


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_decrypting_undoes_encrypting_and_the_other_way_round(form, data):
    _, _, channels, even = FORMS[form]
    cipher, shape = made(
        form,
        data.draw(st.binary(min_size=32, max_size=32)),
        data.draw(st.integers(1, 4)),
        data.draw(st.integers(1, 4)),
        data.draw(st.sampled_from(channels)),
        data.draw(st.integers(1, 4)) * (2 if even else 1),
    )
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    plain = generator.integers(0, 256, (data.draw(st.integers(0, 3)), *shape), dtype=np.uint8)
    before = plain.copy()
    hidden = cipher.encrypt(plain)
    assert hidden.dtype == np.uint8
    assert hidden.shape[1:] == cipher.encrypted_shape(shape)
    np.testing.assert_array_equal(plain, before)
    np.testing.assert_array_equal(cipher.decrypt(hidden), plain)
    # Every ciphertext is some plain image's, so the map is one to one on all images.
    anything = generator.integers(0, 256, hidden.shape, dtype=np.uint8)
    np.testing.assert_array_equal(cipher.encrypt(cipher.decrypt(anything)), anything)
    for one, expected in zip(plain, hidden, strict=True):
        np.testing.assert_array_equal(cipher.encrypt(one), expected)


@pytest.mark.parametrize("form", FORMS)
def test_every_byte_value_survives(form):
    cipher, shape = made(form, SECRET, 2, 2, 3, 4)
    flat = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, *shape))
    hidden = cipher.encrypt(flat)
    np.testing.assert_array_equal(cipher.decrypt(hidden), flat)
    assert len({image.tobytes() for image in hidden}) == 256


@pytest.mark.parametrize("form", FORMS)
def test_keys_matter_and_repeat(form):
    cipher, shape = made(form, SECRET, 3, 3, 3, 4)
    again, _ = made(form, encryption.SecretKey(SECRET), 3, 3, 3, 4)
    other, _ = made(form, SECRET[:-1] + b"\0", 3, 3, 3, 4)
    plain = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(cipher.encrypt(plain), again.encrypt(plain))
    if cipher.encrypted_shape(shape) == shape:
        assert (cipher.encrypt(plain) != plain).mean() > 0.3
    assert (cipher.encrypt(plain) != other.encrypt(plain)).mean() > 0.3
    assert cipher.kid == again.kid != other.kid
    assert cipher.lossless


def blocks_of(image, side):
    rows, columns = image.shape[0] // side, image.shape[1] // side
    return [
        image[r * side : (r + 1) * side, c * side : (c + 1) * side]
        for r in range(rows)
        for c in range(columns)
    ]


def joined(blocks, columns):
    rows = [np.concatenate(blocks[i : i + columns], 1) for i in range(0, len(blocks), columns)]
    return np.concatenate(rows, 0)


@pytest.mark.parametrize("unit", ["quadrant", "patch"])
@pytest.mark.parametrize("channels", ["joint", "independent"])
def test_vit_block_cipher_against_a_loop_over_blocks(unit, channels):
    cipher = encryption.ViTBlockCipher.from_key(
        SECRET, (12, 18, 3), 6, unit=unit, channels=channels
    )
    plain = np.random.default_rng(2).integers(0, 256, (12, 18, 3), dtype=np.uint8)

    def shuffled(part):
        if channels == "independent":
            return part.reshape(-1)[cipher.pixel_permutation].reshape(part.shape)
        return part.reshape(-1, 3)[cipher.pixel_permutation].reshape(part.shape)

    blocks = blocks_of(plain, 6)
    moved = [blocks[j] for j in cipher.block_permutation]
    if unit == "patch":
        scrambled = [shuffled(block) for block in moved]
    else:
        scrambled = [joined([shuffled(q) for q in blocks_of(block, 3)], 2) for block in moved]
    np.testing.assert_array_equal(cipher.encrypt(plain), joined(scrambled, 3))
    for block, source in zip(scrambled, moved, strict=True):
        np.testing.assert_array_equal(np.sort(block, axis=None), np.sort(source, axis=None))


@pytest.mark.parametrize("variant", ["tanaka", "paper"])
def test_learnable_encryption_against_the_steps_of_its_papers(variant):
    cipher = encryption.LearnableEncryption.from_key(SECRET, (8, 12, 3), variant=variant)
    plain = np.random.default_rng(3).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    mask, key = cipher.inversion_mask, cipher.nibble_permutation

    def scrambled(block):
        values = block.reshape(-1)
        nibbles = np.concatenate([values % 16, values // 16])
        nibbles[mask] = 15 - nibbles[mask]
        nibbles = nibbles[key]
        if variant == "tanaka":
            nibbles[mask] = 15 - nibbles[mask]
        return (nibbles[:48] + 16 * nibbles[48:]).reshape(block.shape)

    expected = joined([scrambled(block) for block in blocks_of(plain, 4)], 3)
    np.testing.assert_array_equal(cipher.encrypt(plain), expected)


def test_extended_learnable_encryption_has_a_key_for_each_block():
    cipher = encryption.ExtendedLearnableEncryption.from_key(SECRET, (8, 12, 1), variant="paper")
    assert len({key.tobytes() for key in cipher.nibble_permutations}) == 6
    plain = np.random.default_rng(4).integers(0, 256, (8, 12, 1), dtype=np.uint8)
    hidden = blocks_of(cipher.encrypt(plain), 4)
    changed = plain.copy()
    changed[:4, :4] ^= 1  # the first block
    after = blocks_of(cipher.encrypt(changed), 4)
    (place,) = np.flatnonzero(
        [not np.array_equal(a, b) for a, b in zip(hidden, after, strict=True)]
    )
    assert cipher.block_permutation[place] == 0


def test_grayscale_etc_has_three_planes_side_by_side():
    count = 3 * 4
    options = {"rotations": [0] * count, "flips": [0] * count, "negatives": [0] * count}
    for transform, chroma in (("ycbcr", 128), ("reversible", 128)):
        cipher = encryption.EncryptionThenCompression.from_permutations(
            8, range(count), **options, mode="grayscale", color_transform=transform
        )
        gray = np.full((16, 16, 3), 77, np.uint8)
        hidden = cipher.encrypt(gray)
        assert hidden.shape == (16, 48, 1)
        assert np.all(hidden[:, :16] == 77)
        assert np.all(hidden[:, 16:] == chroma)
        assert cipher.lossless == (transform == "reversible")


def test_the_published_colour_transform_costs_at_most_two_steps():
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(52, 52 * 52, 3)
    colours = colours[:48, :2704]
    cipher = encryption.EncryptionThenCompression.from_key(
        SECRET, colours.shape, mode="grayscale", color_transform="ycbcr"
    )
    error = cipher.decrypt(cipher.encrypt(colours)).astype(int) - colours
    assert 0 < np.abs(error).max() <= 2
    exact = encryption.EncryptionThenCompression.from_key(SECRET, colours.shape, mode="grayscale")
    np.testing.assert_array_equal(exact.decrypt(exact.encrypt(colours)), colours)


def test_the_published_channel_bug_on_demand():
    bugged = encryption.EncryptionThenCompression.from_permutations(
        1, range(6), [0] * 6, [0] * 6, [0] * 6, range(6), legacy_channel_bug=True
    )
    plain = np.arange(18, dtype=np.uint8).reshape(1, 6, 3)
    lost = np.array([[0, 1, 2], [1, 1, 2], [2, 1, 2], [0, 2, 2], [2, 2, 2], [1, 2, 1]])
    expected = 3 * np.arange(6)[:, None] + lost
    np.testing.assert_array_equal(bugged.encrypt(plain)[0], expected)
    assert not bugged.lossless
    with pytest.raises(InputError, match="cannot be decrypted"):
        bugged.decrypt(plain)


def test_etc_colour_keys_use_every_turn_and_colour():
    steps = encryption.EncryptionThenCompression.from_key(SECRET, (64, 64, 3)).steps
    for name, bound in (("rotations", 4), ("flips", 2), ("negatives", 2), ("colors", 6)):
        assert set(steps[name].tolist()) == set(range(bound)), name


def test_a_key_per_image_is_thrown_away():
    cipher = encryption.PixelEncryption.with_key_per_image()
    plain = np.zeros((2, 8, 8, 3), np.uint8)
    first, second = cipher.encrypt(plain), cipher.encrypt(plain)
    assert len({image.tobytes() for image in (*first, *second)}) == 4
    assert not cipher.lossless
    with pytest.raises(InputError, match="nobody can decrypt"):
        cipher.decrypt(first)
    with pytest.raises(InputError, match="image shape"):
        cipher.key_space_bits  # noqa: B018


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_rounded_not_cut(dtype):
    cipher, shape = made("vit", SECRET, 2, 2, 1, 8)
    plain = np.arange(256, dtype=np.uint8).reshape(shape)
    floats = (plain / 255).astype(dtype)
    np.testing.assert_array_equal(cipher.encrypt(floats), cipher.encrypt(plain))


@pytest.mark.parametrize(
    "images",
    [
        np.full((8, 8, 1), 1.001),
        np.full((8, 8, 1), -0.001),
        np.full((8, 8, 1), np.nan),
        np.full((8, 8, 1), np.inf),
        np.full((8, 8, 1), 200.0),
        np.zeros((8, 8, 1), np.int64),
        np.zeros((8, 8, 1), bool),
        np.zeros((8, 8), np.uint8),
        np.zeros((1, 1, 8, 8, 1), np.uint8),
        np.zeros((8, 12, 1), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((0, 8, 1), np.uint8),
        [["a"]],
    ],
    ids=lambda images: f"{np.asarray(images).dtype}-{np.shape(images)}",
)
def test_other_images_are_refused(images):
    cipher = encryption.ViTBlockCipher.from_key(SECRET, (8, 8, 1), 4)
    for turn in (cipher.encrypt, cipher.decrypt):
        with pytest.raises(InputError, match=r"^images must"):
            turn(images)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: encryption.ViTBlockCipher.from_key(SECRET, (30, 32, 3)), "multiples of the block"),
        (lambda: encryption.ViTBlockCipher.from_key(SECRET, (30, 30, 3), 15), "block_size must be"),
        (lambda: encryption.ViTBlockCipher.from_key(SECRET[:31]), "secret must be 32 bytes"),
        (lambda: encryption.ViTBlockCipher.from_key("ab"), "key must be"),
        (lambda: encryption.ViTBlockCipher.from_key(SECRET, (32, 32)), "image_shape must be"),
        (lambda: encryption.ViTBlockCipher.from_key(SECRET, unit="x"), "unit must be one of"),
        (lambda: encryption.ViTBlockCipher.from_key(SECRET, channels="x"), "channels must be one"),
        (
            lambda: encryption.ViTBlockCipher.from_permutations(4, [0, 0], [3, 1, 0, 2]),
            "block_permutation must hold each of 0..1 exactly once",
        ),
        (
            lambda: encryption.ViTBlockCipher.from_permutations(4, [1, 0], [3, 1, 0]),
            "pixel_permutation must hold each of 0..3 exactly once",
        ),
        (
            lambda: encryption.ViTBlockCipher.from_permutations(
                4, [1, 0], range(5), channels="independent"
            ),
            "pixel_permutation must have a multiple of 4",
        ),
        (
            lambda: encryption.ViTBlockCipher.from_permutations(
                4, [1, 0], range(4), image_shape=(8, 8, 1)
            ),
            "have 4 blocks of 4x4, but block_permutation has 2",
        ),
        (lambda: encryption.LearnableEncryption.from_permutations(2, range(7)), "multiple of 8"),
        (
            lambda: encryption.LearnableEncryption.from_permutations(
                2, range(8), inversion_mask=[1] * 8
            ),
            "inversion_mask must be left out",
        ),
        (
            lambda: encryption.LearnableEncryption.from_permutations(2, range(8), variant="paper"),
            "inversion_mask must be zeros and ones",
        ),
        (
            lambda: encryption.ExtendedLearnableEncryption.from_permutations(2, [1, 0], [range(8)]),
            "nibble_permutations must be 2",
        ),
        (lambda: encryption.EncryptionThenCompression.from_key(SECRET, (8, 8, 2)), "1 or 3 chan"),
        (
            lambda: encryption.EncryptionThenCompression.from_key(
                SECRET, (8, 8, 1), mode="grayscale"
            ),
            "3 channels",
        ),
        (
            lambda: encryption.EncryptionThenCompression.from_permutations(
                2, [0], [4], [0], [0], [0]
            ),
            "rotations must be whole numbers in 0..3",
        ),
        (lambda: encryption.PixelEncryption.from_key(SECRET, (8, 8, 4)), "1 or 3 channels"),
        (lambda: encryption.PixelEncryption.from_permutations([[[2]]]), "inversion_mask must be"),
        (lambda: encryption.make_cipher("rot13", SECRET, (8, 8, 3)), "scheme must be one of"),
        (lambda: encryption.make_cipher("pe", SECRET, (8, 8, 3), block_size=2), "has no option"),
    ],
)
def test_bad_arguments_are_named_in_one_line(make, told):
    with pytest.raises(InputError, match=told) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_cipher_of_bare_permutations_takes_every_shape_with_its_blocks():
    cipher = encryption.ViTBlockCipher.from_permutations(2, [1, 0, 3, 2], [0])
    assert cipher.kid is None
    for shape in ((4, 4, 3), (2, 8, 1), (8, 2, 5)):
        plain = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        np.testing.assert_array_equal(cipher.decrypt(cipher.encrypt(plain)), plain)
    with pytest.raises(InputError, match="have 9 blocks"):
        cipher.encrypt(np.zeros((6, 6, 1), np.uint8))


@pytest.mark.parametrize("form", FORMS)
def test_nothing_shows_or_carries_off_the_key(form):
    key = encryption.SecretKey.generate()
    cipher, _ = made(form, key, 2, 2, 3, 4)
    for thing in (cipher, key):
        text = f"{thing!r} {thing}"
        assert key.kid in text
        assert key.reveal().hex() not in text
        assert "array" not in text
        assert "[" not in text
        for carry in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(pickle.PicklingError, match=r"reveal\(\)"):
                carry(thing)


def test_permutations_are_read_only():
    cipher = encryption.ViTBlockCipher.from_key(SECRET)
    with pytest.raises(ValueError, match="read-only"):
        cipher.block_permutation[0] = 0


def test_the_ciphers_need_neither_tensorflow_nor_keras():
    import subprocess

    code = (
        "import sys, keras_dpvit.encryption as e;"
        "e.ViTBlockCipher.from_key(bytes(32));"
        "print(sorted({'tensorflow', 'keras', 'PIL', 'cryptography'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
