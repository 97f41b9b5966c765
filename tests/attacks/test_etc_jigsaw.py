"""EtC in colour from ciphertexts alone, up to how the images are turned, inverted, recoloured."""

import numpy as np
import pytest

from benchmarks import photographs
from keras_dpvit.attacks import etc_jigsaw
from keras_dpvit.encryption import EncryptionThenCompression, SecretKey, make_cipher
from keras_dpvit.errors import InputError


@pytest.fixture(scope="module")
def photos():
    return photographs.load()


def random_cipher(blocks, side, generator, colors=6):
    return EncryptionThenCompression.from_permutations(
        side,
        generator.permutation(blocks),
        generator.integers(0, 4, blocks),
        generator.integers(0, 2, blocks),
        generator.integers(0, 2, blocks),
        generator.integers(0, colors, blocks),
    )


@pytest.mark.parametrize("seed", range(3))
def test_ciphertexts_of_photographs_give_the_key_but_for_one_view(photos, seed):
    generator = np.random.default_rng(seed)
    plain = photographs.crops(photos, 16, generator, resized=32)
    cipher = make_cipher("etc", SecretKey(generator.bytes(32)), (32, 32, 3))
    encrypted = cipher.encrypt(plain)
    found = etc_jigsaw.recover(encrypted, 4)
    seen = [view.decrypt(encrypted) for view in etc_jigsaw.views(found, (32, 32, 3))]
    assert sum(np.array_equal(images, plain) for images in seen) == 1


@pytest.mark.parametrize("shape", [(12, 12, 3), (8, 16, 3), (12, 8, 1)])
def test_views_are_the_image_turned_inverted_and_recoloured(shape):
    generator = np.random.default_rng(1)
    height, width, depth = shape
    image = generator.integers(0, 256, shape, dtype=np.uint8)
    cipher = random_cipher(height * width // 16, 4, generator, 6 if depth == 3 else 1)
    encrypted = cipher.encrypt(image)
    turned = [np.rot90(image, k)[:, :: 1 - 2 * f] for k in range(4) for f in range(2)]
    expected = {
        (255 - x if negative else x)[..., list(order)].tobytes()
        for x in turned
        if x.shape == shape
        for negative in range(2)
        for order in np.ndindex(*(depth,) * depth)
        if len(set(order)) == depth
    }
    found = etc_jigsaw.views(cipher, shape)
    assert {view.decrypt(encrypted).tobytes() for view in found} == expected
    assert len(found) == len(expected)


def test_smooth_gray_rectangles_come_back():
    y, x = np.mgrid[:24, :40]
    plain = (120 + 60 * np.sin(x / 9 + y / 5) + 40 * np.cos(y / 7 - x / 11)).astype(np.uint8)
    plain = plain[None, ..., None]
    cipher = random_cipher(15, 8, np.random.default_rng(2), 1)
    encrypted = cipher.encrypt(plain)
    views = etc_jigsaw.views(etc_jigsaw.recover(encrypted, 8), (24, 40, 1))
    assert sum(np.array_equal(view.decrypt(encrypted), plain) for view in views) == 1


def test_equal_blocks_still_give_a_key():
    black = np.zeros((2, 16, 8, 3), np.uint8)
    found = etc_jigsaw.recover(black, 4)
    np.testing.assert_array_equal(np.sort(found.block_permutation), np.arange(8))
    one = etc_jigsaw.recover(black[:, :4, :4], 4)
    assert one.block_permutation.tolist() == [0]


def test_bad_input():
    with pytest.raises(InputError, match=r"^encrypted must be"):
        etc_jigsaw.recover(np.zeros((0, 32, 32, 3), np.uint8))
    with pytest.raises(InputError, match=r"^encrypted must be"):
        etc_jigsaw.recover(np.zeros((1, 32, 32, 2), np.uint8))
    with pytest.raises(InputError, match=r"^images must have sides"):
        etc_jigsaw.recover(np.zeros((1, 30, 32, 3), np.uint8))
