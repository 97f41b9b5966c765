"""Keys and edges from ciphertexts alone."""

import io
import itertools

import numpy as np
import PIL.Image
import pytest

from benchmarks import photographs
from keras_dpvit.attacks import (
    block_layout,
    correlation_jigsaw,
    feature_reconstruction,
    jigsaw,
    known_plaintext,
    pixel_order,
    swap_search,
)
from keras_dpvit.attacks.ssim import ssim
from keras_dpvit.encryption import SecretKey, make_cipher
from keras_dpvit.errors import InputError


@pytest.fixture(scope="module")
def photos():
    return photographs.load()


def victim(seed, scheme="vit_block", shape=(224, 224, 3), **options):
    return make_cipher(scheme, SecretKey(bytes([seed]) * 32), shape, **options)


@pytest.mark.parametrize("seed", range(3))
def test_two_ciphertexts_of_photographs_give_both_keys(photos, seed):
    cipher = victim(seed)
    # An astronaut and a cat, which have no large flat parts.
    plain = photographs.crops([photos[0], photos[2]], 2, np.random.default_rng(seed))
    found = correlation_jigsaw.recover(cipher.encrypt(plain), seed=seed)
    np.testing.assert_array_equal(found.pixel_permutation, cipher.pixel_permutation)
    np.testing.assert_array_equal(found.block_permutation, cipher.block_permutation)


def test_one_known_photograph_gives_both_keys_through_jpeg(photos):
    cipher = victim(5)
    plain = photographs.crops(photos[2:3], 1, np.random.default_rng(0))
    buffer = io.BytesIO()
    PIL.Image.fromarray(cipher.encrypt(plain)[0]).save(buffer, "JPEG", quality=95, subsampling=0)
    seen = np.asarray(PIL.Image.open(buffer))[None]
    assert not np.array_equal(seen, cipher.encrypt(plain))
    found = known_plaintext.recover("vit_block", plain, seen, cipher.params())
    np.testing.assert_array_equal(found.pixel_permutation, cipher.pixel_permutation)
    np.testing.assert_array_equal(found.block_permutation, cipher.block_permutation)


def test_seams_tell_the_turns_of_the_grid_apart(photos):
    plain = photographs.crops(photos[:1], 1, np.random.default_rng(1))
    positions = block_layout.unit_positions((224, 224, 3), 16, "joint", "quadrant")
    upright = block_layout.take(plain, positions)
    for turn in pixel_order._turns(8)[1::2]:
        found = pixel_order.recover_pixel_order(upright[:, :, :, turn])
        np.testing.assert_array_equal(found, turn)


def test_swaps_repair_an_order(photos):
    plain = photographs.crops(photos[:1], 1, np.random.default_rng(2))
    positions = block_layout.unit_positions((224, 224, 3), 16, "joint", "quadrant")
    costs, edges = pixel_order._costs(block_layout.take(plain, positions)), pixel_order._edges(8)
    right = np.arange(64)
    wrong = right.copy()
    wrong[[3, 40, 17]] = wrong[[40, 17, 3]]
    value, repaired = swap_search.descend(wrong, costs, edges)
    np.testing.assert_array_equal(repaired, right)
    assert value == pytest.approx(swap_search.total(right, costs, edges))


@pytest.mark.parametrize("seed", range(5))
def test_no_swap_helps_any_more(seed):
    generator = np.random.default_rng(seed)
    # Two kinds of edges, some pairs of places touching twice and in both directions.
    edges = np.array([(0, 0, 1), (0, 1, 2), (1, 2, 0), (1, 0, 1), (0, 1, 0), (1, 3, 4), (0, 4, 0)])
    costs = generator.random((2, 5, 5))
    start = generator.permutation(5)
    before = start.copy()
    value, placed = swap_search.descend(start, costs, edges)
    np.testing.assert_array_equal(start, before)
    by_hand = sum(costs[kind, placed[a], placed[b]] for kind, a, b in edges)
    assert value == pytest.approx(by_hand)
    assert value <= swap_search.total(start, costs, edges) + 1e-9
    for x, y in itertools.combinations(range(5), 2):
        other = placed.copy()
        other[[x, y]] = other[[y, x]]
        assert swap_search.total(other, costs, edges) >= value - 1e-9


def test_a_shifted_rectangle_is_shifted_back(photos):
    plain = photographs.crops(photos[2:3], 1, np.random.default_rng(3))[0, :128, :128]
    pieces = plain.reshape(8, 16, 8, 16, 3).swapaxes(1, 2).reshape(64, 16, 16, 3)
    ratios = np.minimum([jigsaw._relative(cost) for cost in jigsaw.border_costs(pieces)], 2)
    frame = np.arange(64).reshape(8, 8)
    frame[2:5, 1:7] = np.roll(frame[2:5, 1:7], 1, axis=1)
    found, _ = swap_search.descend(frame.reshape(-1), ratios, jigsaw._edges(8, 8))
    right = np.arange(64)
    assert found > swap_search.total(right, ratios, jigsaw._edges(8, 8))  # swaps alone do not do it
    np.testing.assert_array_equal(jigsaw._improved(frame, ratios), right)


def test_jigsaw_of_rectangles(photos):
    plain = photographs.crops(photos[2:3], 1, np.random.default_rng(3))[:, :96, :160]
    pieces = (
        plain.reshape(1, 6, 16, 10, 16, 3).transpose(0, 1, 3, 2, 4, 5).reshape(1, 60, 16, 16, 3)
    )
    order = np.random.default_rng(4).permutation(60)
    np.testing.assert_array_equal(order[jigsaw.solve(pieces[:, order], 6, 10)], np.arange(60))


def test_jigsaw_of_equal_pieces_is_still_a_permutation():
    placed = jigsaw.solve(np.zeros((2, 12, 4, 4, 1), np.uint8), 3, 4)
    np.testing.assert_array_equal(np.sort(placed), np.arange(12))


def test_fr_of_inverted_values_and_of_shuffled_ones(photos):
    plain = photographs.crops(photos, 10, np.random.default_rng(6), resized=32)
    mask_only = victim(7, "pe", (32, 32, 3), shuffle_colors=False)
    encrypted = mask_only.encrypt(plain)
    np.testing.assert_array_equal(
        feature_reconstruction.reconstruct(encrypted), np.minimum(plain, 255 - plain)
    )
    gain = ssim(plain, feature_reconstruction.reconstruct(encrypted)) - ssim(plain, encrypted)
    assert np.median(gain) > 0.2
    half = plain // 2
    np.testing.assert_array_equal(feature_reconstruction.reconstruct(mask_only.encrypt(half)), half)


def test_advanced_fr_follows_smooth_images_exactly():
    y, x = np.mgrid[:32, :32]
    plain = np.stack([x + y, 120 - x, 60 + y // 2], axis=-1).astype(np.uint8)[None]
    assert plain.max() < 128  # so the first pixel is guessed right up to the order of channels
    cipher = victim(8, "pe", (32, 32, 3))
    found = feature_reconstruction.reconstruct_advanced(cipher.encrypt(plain))[0].astype(int)
    # Each pixel now differs from the one before as little as the plain ones do.
    steps = np.abs(np.diff(found, axis=0)).sum(-1)
    assert steps.max() <= np.abs(np.diff(plain[0].astype(int), axis=0)).sum(-1).max()
    gray = plain[..., :1]
    cipher = victim(9, "pe", (32, 32, 1))
    np.testing.assert_array_equal(
        feature_reconstruction.reconstruct_advanced(cipher.encrypt(gray)), gray
    )


def test_bad_input():
    with pytest.raises(InputError, match=r"^images must have sides"):
        correlation_jigsaw.recover(np.zeros((1, 30, 32, 3), np.uint8))
    with pytest.raises(InputError, match=r"^encrypted must be"):
        correlation_jigsaw.recover(np.zeros((0, 32, 32, 3), np.uint8))
    with pytest.raises(InputError, match=r"^quadrants must be squares"):
        pixel_order.recover_pixel_order(np.zeros((1, 4, 4, 8, 3), np.uint8))
