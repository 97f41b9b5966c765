"""The pre-normalised block against NumPy."""

import math

import numpy as np
import pytest

from keras_dpvit.errors import InputError
from keras_dpvit.layers import SelfAttention, ThresholdAttention, TransformerBlock

gelu = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))


def normalized(norm, x):
    deviation = x.std(axis=-1, keepdims=True)
    learned = norm.gain_and_bias
    x = (x - x.mean(axis=-1, keepdims=True)) / deviation
    return x * learned.gain.numpy() + learned.bias.numpy()


def dense(layer, x):
    return x @ layer.kernel.numpy() + layer.bias.numpy()


OPTIONS = {
    "gate": "independent",
    "relative": "1d",
    "head_offsets": "fill",
    "qk_scale": False,
    "renormalize": False,
}


@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["defaults", "options"])
@pytest.mark.parametrize("attention", ["self", "threshold"])
def test_block_is_attention_and_mlp_with_residuals(attention, options, numpy_attention, rng, shake):
    x = rng.standard_normal((2, 9, 8)).astype("float32")
    block = TransformerBlock(2, 12, attention, **options)
    block.build(x.shape)
    shake(block)
    attend = block.attention
    n = normalized(block.norm_1, x)
    # The attention has its own test against NumPy.
    middle = x + numpy_attention.attend(attend, n, attend.attention_weights(n).numpy())
    hidden = gelu(dense(block.mlp_hidden, normalized(block.norm_2, middle)))
    expected = middle + dense(block.mlp_output, hidden)
    np.testing.assert_allclose(block(x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("attention", ["self", "threshold"])
def test_attention_weights_are_those_of_the_normalised_tokens(
    attention, numpy_attention, rng, shake
):
    x = rng.standard_normal((2, 9, 8)).astype("float32")
    block = TransformerBlock(2, 12, attention, attention_noise_stddev=0.1, norm_noise_stddev=0.1)
    block.build(x.shape)
    shake(block)
    weights = numpy_attention.weights(block.attention, normalized(block.norm_1, x))
    if attention == "threshold":
        gate = block.attention.position_gate
        grid = np.array([(column, row) for row in range(3) for column in range(3)])
        weights = numpy_attention.gated(gate, weights, numpy_attention.place(gate, grid))
    # Without the layers' noise, and again the same.
    for _ in range(2):
        np.testing.assert_allclose(block.attention_weights(x), weights, rtol=1e-3, atol=1e-5)


def test_which_attention():
    plain, local = TransformerBlock(2, 12), TransformerBlock(2, 12, "threshold")
    assert type(plain.attention) is SelfAttention
    assert type(local.attention) is ThresholdAttention
    with pytest.raises(InputError, match="attention must be one of self, threshold, got 'place'"):
        TransformerBlock(2, 12, "place")


def test_settings_reach_the_parts():
    block = TransformerBlock(
        2,
        12,
        "threshold",
        coordinates=[[0, 0], [1, 0]],
        locality_strength=0.5,
        attention_noise_stddev=0.1,
        norm_noise_stddev=0.2,
        noise_at_inference=True,
        seed=40,
        **OPTIONS,
    )
    parts = (block.attention, block.norm_1, block.norm_2)
    config = block.attention.get_config()
    expected = {
        **OPTIONS,
        "coordinates": [[0, 0], [1, 0]],
        "locality_strength": 0.5,
        "attention_noise_stddev": 0.1,
    }
    assert expected.items() <= config.items()
    assert [norm.noise_stddev for norm in parts[1:]] == [0.2, 0.2]
    assert all(part.noise_at_inference for part in parts)
    # Equal seeds would give the parts equal noise.
    assert len({part.seed for part in parts}) == 3


def test_settings_reach_self_attention():
    block = TransformerBlock(2, 12, attention_noise_stddev=0.1, qk_scale=False, renormalize=False)
    expected = {"qk_scale": False, "renormalize": False, "attention_noise_stddev": 0.1}
    assert expected.items() <= block.attention.get_config().items()


@pytest.mark.parametrize("mlp_dim", [0, 2.5, -4])
def test_mlp_dim_is_a_whole_number_above_0(mlp_dim):
    with pytest.raises(InputError, match="mlp_dim must be a whole number above 0"):
        TransformerBlock(2, mlp_dim)
