"""The noise on attention weights: its distribution, when there is any, and what it would cost."""

import math

import dp_accounting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_dpvit.errors import InputError
from keras_dpvit.layers import SelfAttention, ThresholdAttention

BOTH_KINDS = pytest.mark.parametrize("cls", [SelfAttention, ThresholdAttention])


def bare_attention(cls, tokens, **arguments):
    """A layer of one head whose output is its attention matrix, the same for all inputs.

    Queries and keys of zero make content attention uniform, and the input is made such that its
    values are the rows of the unit matrix.
    """
    layer = cls(1, **arguments)
    layer.build((None, tokens, tokens))
    layer.query.set_weights([np.zeros((tokens, tokens)), np.zeros(tokens)])
    layer.key.set_weights([np.zeros((tokens, tokens))])
    for projection in (layer.value, layer.output_projection):
        projection.set_weights([np.eye(tokens), np.zeros(tokens)])
    if cls is ThresholdAttention:
        layer.position_gate.gate.assign([-60.0])
    return lambda batch, training: layer(
        np.tile(np.eye(tokens, dtype="float32"), (batch, 1, 1)), training=training
    ).numpy()


def correlation(a, b):
    return abs(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@BOTH_KINDS
def test_noise_has_the_stated_deviation_and_rows_still_sum_to_one(cls):
    stddev, tokens = 0.02, 4
    rows = bare_attention(cls, tokens, attention_noise_stddev=stddev, seed=5)(4000, True)
    assert (rows >= 0).all()
    np.testing.assert_allclose(rows.sum(axis=-1), 1.0, rtol=1e-4)
    # To first order the weight a of n tokens becomes a + e_j - a sum(e), with a = 1/n.
    expected = stddev * math.sqrt((1 - 1 / tokens) ** 2 + (tokens - 1) / tokens**2)
    assert rows.std() == pytest.approx(expected, rel=0.02)
    assert rows.mean() == pytest.approx(1 / tokens, abs=1e-4)
    # Draws of tokens and of examples are their own.
    assert correlation(rows[1:], rows[:-1]) < 0.03
    assert correlation(rows[:, 1:], rows[:, :-1]) < 0.03


@BOTH_KINDS
@pytest.mark.parametrize("stddev", [0.05, 0.5])
def test_without_renormalisation_the_noise_is_plain_gaussian(cls, stddev):
    tokens = 4
    attention = bare_attention(
        cls, tokens, attention_noise_stddev=stddev, renormalize=False, seed=5
    )
    rows = attention(5000, True)
    noise = (rows - 1 / tokens) / stddev
    # 80,000 draws tell mean and deviation to half a per cent, the fourth moment to two.
    assert noise.mean() == pytest.approx(0.0, abs=0.02)
    assert noise.std() == pytest.approx(1.0, rel=0.02)
    assert (noise**3).mean() == pytest.approx(0.0, abs=0.06)
    assert (noise**4).mean() == pytest.approx(3.0, abs=0.12)
    assert noise.min() < -3.5  # nothing is cut
    assert noise.max() > 3.5
    # A row's sum has the noise of all its weights.
    sums = rows.sum(axis=-1)
    assert sums.mean() == pytest.approx(1.0, abs=0.03 * stddev * math.sqrt(tokens))
    assert sums.std() == pytest.approx(stddev * math.sqrt(tokens), rel=0.03)
    for a, b in ((rows[1:], rows[:-1]), (rows[:, 1:], rows[:, :-1])):
        assert correlation(a, b) < 0.03
    assert correlation(rows[..., 1:], rows[..., :-1]) < 0.03


@pytest.mark.parametrize(
    ("training", "noise_at_inference", "noisy"),
    [(True, False, True), (False, False, False), (False, True, True), (None, False, False)],
)
@BOTH_KINDS
@pytest.mark.parametrize("renormalize", [True, False])
def test_when_there_is_noise(cls, training, noise_at_inference, noisy, renormalize):
    attention = bare_attention(
        cls,
        4,
        attention_noise_stddev=0.1,
        noise_at_inference=noise_at_inference,
        renormalize=renormalize,
    )
    rows = attention(3, training)
    assert (rows.std() > 0.01) == noisy
    if not noisy:
        np.testing.assert_allclose(rows, 0.25, rtol=1e-5)


def test_row_cut_to_nothing_stays_finite():
    attention = bare_attention(SelfAttention, 4, attention_noise_stddev=10.0, seed=0)
    sums = attention(400, True).sum(axis=-1)
    empty = sums < 0.5
    # All four draws are negative about once in sixteen.
    assert 0.03 < empty.mean() < 0.12
    np.testing.assert_array_equal(sums[empty], 0.0)
    np.testing.assert_allclose(sums[~empty], 1.0, rtol=1e-4)


def test_no_noise_makes_no_generator():
    assert SelfAttention(2).seed_generator is None


# What publishing the maps would cost.


def noisy_layer(cls, stddev, num_heads, tokens):
    layer = cls(num_heads, attention_noise_stddev=stddev)
    layer.build((None, tokens, 2 * num_heads))
    return layer


def rdp_epsilon(event, delta):
    return dp_accounting.rdp.RdpAccountant().compose(event).get_epsilon(delta)


def gaussian_rdp_epsilon(sensitivity, stddev, delta):
    """Least epsilon of `a s^2 / (2 t^2)` over orders `a` (Canonne et al. 2020, prop. 12)."""
    orders = np.concatenate([np.linspace(1.01, 64, 20_000), np.geomspace(64, 1e6, 5000)])
    rdp = orders * sensitivity**2 / (2 * stddev**2)
    converted = rdp + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)
    return max(converted.min(), 0.0)


@BOTH_KINDS
@pytest.mark.parametrize(("stddev", "num_heads", "tokens"), [(30.0, 2, 16), (5.0, 4, 9)])
def test_release_costs_what_one_gaussian_of_the_whole_map_costs(cls, stddev, num_heads, tokens):
    event = noisy_layer(cls, stddev, num_heads, tokens).release_event()
    row = dp_accounting.GaussianDpEvent(stddev / math.sqrt(2))
    assert event == dp_accounting.SelfComposedDpEvent(row, num_heads * tokens)
    sensitivity = math.sqrt(2 * num_heads * tokens)
    whole = dp_accounting.GaussianDpEvent(stddev / sensitivity)
    found = rdp_epsilon(event, 1e-5)
    assert found == pytest.approx(rdp_epsilon(whole, 1e-5), rel=1e-9)
    # dp_accounting has fewer orders to take the least of.
    least = gaussian_rdp_epsilon(sensitivity, stddev, 1e-5)
    assert least * (1 - 1e-9) <= found <= least * 1.02


@BOTH_KINDS
def test_release_without_noise_is_not_private(cls):
    event = noisy_layer(cls, 0.0, 2, 4).release_event()
    assert isinstance(event, dp_accounting.NonPrivateDpEvent)
    assert rdp_epsilon(event, 1e-5) == math.inf


@BOTH_KINDS
@pytest.mark.parametrize("stddev", [0.0, 0.1])
def test_release_needs_a_built_layer(cls, stddev):
    with pytest.raises(InputError, match="release_event needs a built layer"):
        cls(2, attention_noise_stddev=stddev).release_event()


rows = hnp.arrays(
    "float64", st.tuples(st.just(2), st.integers(1, 8)), elements=st.floats(0, 1, width=32)
)


@settings(max_examples=60, deadline=None)
@given(rows)
def test_two_probability_rows_are_never_further_apart_than_root_two(pair):
    pair = pair + 1e-9
    p, q = pair / pair.sum(axis=-1, keepdims=True)
    assert np.linalg.norm(p - q) <= math.sqrt(2) * (1 + 1e-12)


@BOTH_KINDS
def test_two_images_can_be_as_far_apart_as_the_event_says(cls):
    # Queries read the first half of a token and keys the second: by its keys alone an image
    # says to which token each attends.
    tokens, large, nothing = 4, 100.0, np.zeros((4, 4))
    layer = cls(1, attention_noise_stddev=1.0)
    layer.build((None, tokens, 2 * tokens))
    first = np.block([[large * np.eye(tokens), nothing], [nothing, nothing]])
    second = np.block([[nothing, nothing], [large * np.eye(tokens), nothing]])
    layer.query.set_weights([first, np.zeros(2 * tokens)])
    layer.key.set_weights([second])
    if cls is ThresholdAttention:
        layer.position_gate.gate.assign([-60.0])
    asks = np.eye(tokens)
    images = [np.concatenate([asks, np.roll(asks, turn, axis=0)], axis=1) for turn in (0, 1)]
    maps = layer.attention_weights(np.float32(images)).numpy()
    distances = np.linalg.norm(maps[0] - maps[1], axis=-1)
    np.testing.assert_allclose(distances, math.sqrt(2), rtol=1e-6)
    rows = layer.release_event().count
    assert np.linalg.norm(maps[0] - maps[1]) == pytest.approx(math.sqrt(2 * rows), rel=1e-6)
