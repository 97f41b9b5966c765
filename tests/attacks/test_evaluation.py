"""What is counted of attacks."""

import numpy as np
import pytest

from benchmarks import photographs
from keras_dpvit.attacks import evaluation
from keras_dpvit.encryption import ViTBlockCipher
from keras_dpvit.errors import InputError


@pytest.fixture(scope="module")
def draw():
    loaded = photographs.load()

    def pieces(generator):
        batch = photographs.crops(loaded, 3, generator, resized=32)
        return batch[:1], batch[1:]

    return pieces


@pytest.mark.parametrize("scheme", ["le", "ele", "etc", "pe", "vit_block"])
def test_chosen_plaintext_is_exact_and_fr_is_not(draw, scheme):
    shape = (32, 32, 3)
    setting = evaluation.Setting(scheme, "chosen_plaintext", shape)
    told = evaluation.summarize(setting, list(evaluation.run(setting, draw, 2, 0)))
    assert told["exact_keys"] == 1
    assert told["ssim_uniform7"]["mean"] == 1
    assert told["images_scored_per_key"] == 2
    setting = evaluation.Setting(scheme, "fr", shape)
    told = evaluation.summarize(setting, list(evaluation.run(setting, draw, 2, 0)))
    assert "exact_keys" not in told
    assert told["ssim_uniform7"]["mean"] < 1


def test_etc_falls_to_a_jigsaw_of_many_ciphertexts():
    loaded = photographs.load()

    def pieces(generator):
        batch = photographs.crops(loaded, 16, generator, resized=32)
        return batch, batch[:0]

    setting = evaluation.Setting("etc", "etc_jigsaw", (32, 32, 3))
    told = evaluation.summarize(setting, list(evaluation.run(setting, pieces, 2, 0)))
    assert told["exact_keys"] == 1
    assert told["attacker"] == "ciphertext only"
    assert told["scored_on"] == "the images that were seen"
    with pytest.raises(InputError, match=r"on 'etc'"):
        evaluation.Setting("le", "etc_jigsaw", (32, 32, 3))
    with pytest.raises(InputError, match="grayscale"):
        evaluation.Setting("etc", "etc_jigsaw", (32, 32, 3), {"mode": "grayscale"})


def test_every_key_is_another_and_every_run_the_same(draw):
    setting = evaluation.Setting("pe", "fr", (32, 32, 3))
    first, again = (list(evaluation.run(setting, draw, 3, 7)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.encrypted, other.encrypted)
    same_image = lambda generator: (np.zeros((1, 32, 32, 3), np.uint8),) * 2  # noqa: E731
    ciphertexts = [t.encrypted.tobytes() for t in evaluation.run(setting, same_image, 3, 7)]
    assert len(set(ciphertexts)) == 3


def test_key_scores_count_blocks_pixels_and_neighbours():
    right = ViTBlockCipher.from_permutations(4, np.arange(12), [0, 1, 2, 3])
    exact = evaluation._key_scores(right, right, (12, 16, 3))
    assert exact == {
        "blocks_right": 1,
        "neighbours_right": 1,
        "pixels_right": 1,
        "exact": 1,
    }
    # One row down, the last row on top: all neighbours stay, no block does.
    moved = ViTBlockCipher.from_permutations(4, np.roll(np.arange(12), 4), [1, 0, 2, 3])
    scores = evaluation._key_scores(right, moved, (12, 16, 3))
    assert scores["blocks_right"] == 0
    assert scores["neighbours_right"] == 1
    assert scores["pixels_right"] == 0.5
    assert scores["exact"] == 0
    # Two blocks of the middle of a row change places: its three pairs are wrong.
    order = np.arange(12)
    order[[5, 6]] = [6, 5]
    swapped = ViTBlockCipher.from_permutations(4, order, [0, 1, 2, 3])
    scores = evaluation._key_scores(right, swapped, (12, 16, 3))
    assert scores["neighbours_right"] == pytest.approx(6 / 9)
    # One column along: what comes to the next row is no neighbour any more.
    along = ViTBlockCipher.from_permutations(4, np.roll(np.arange(12), 1), [0, 1, 2, 3])
    scores = evaluation._key_scores(right, along, (12, 16, 3))
    assert scores["neighbours_right"] == pytest.approx(6 / 9)


def test_matched_weights_with_and_without_drift(draw):
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(4, 4, 3, 8)), generator.normal(size=(65, 8))
    options = {"block_size": 4}
    told = {}
    for drift in (0.0, 20.0):
        setting = evaluation.Setting(
            "vit_block", "weight_matching", (32, 32, 3), options, weights, drift
        )
        told[drift] = evaluation.summarize(setting, list(evaluation.run(setting, draw, 2, 0)))
    assert told[0.0]["exact_keys"] == 1
    assert told[0.0]["broken"]
    assert told[20.0]["exact_keys"] == 0


def test_bad_input(draw):
    with pytest.raises(InputError, match=r"^attack must be one of"):
        evaluation.Setting("le", "guess", (32, 32, 3))
    with pytest.raises(InputError, match=r"on the ViT cipher"):
        evaluation.Setting("le", "correlation_jigsaw", (32, 32, 3))
    with pytest.raises(InputError, match=r"^public_weights"):
        evaluation.Setting("vit_block", "weight_matching", (32, 32, 3))
    small = evaluation.Setting("pe", "fr", (8, 8, 3))
    with pytest.raises(InputError, match=r"^image_shape must be at least 11x11"):
        next(evaluation.run(small, lambda g: (np.zeros((1, 8, 8, 3), np.uint8),) * 2, 1, 0))
