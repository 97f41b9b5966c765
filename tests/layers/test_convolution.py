"""The convolutions against loops in NumPy."""

import math

import numpy as np
import pytest

from keras_dpvit.errors import InputError
from keras_dpvit.layers import ConvStem, LinearBranch, TokenDepthwiseConv

gelu = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))


def convolved(layer, images):
    """A 3x3 convolution with zeros beyond the rim, by loops over the kernel."""
    kernel, bias = layer.kernel.numpy(), layer.bias.numpy()
    _, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = np.zeros((*images.shape[:3], kernel.shape[-1]))
    for row in range(3):
        for column in range(3):
            out += padded[:, row : row + height, column : column + width] @ kernel[row, column]
    return out + bias


def test_stem_is_two_convolutions_with_gelu(rng, shake):
    images = rng.standard_normal((2, 5, 4, 2)).astype("float32")
    stem = ConvStem(3)
    stem.build(images.shape)
    shake(stem)
    first, second = stem.convolutions
    expected = gelu(convolved(second, gelu(convolved(first, images))))
    np.testing.assert_allclose(stem(images), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("num_tokens", [1, 2, 7])
def test_depthwise_adds_neighbours_channel_by_channel(kernel_size, num_tokens, rng):
    tokens = rng.standard_normal((2, num_tokens, 3)).astype("float32")
    layer = TokenDepthwiseConv(kernel_size)
    layer.build(tokens.shape)
    np.testing.assert_array_equal(layer(tokens), tokens)  # it starts as the identity
    kernel = rng.standard_normal((kernel_size, 3)).astype("float32")
    layer.kernel.assign(kernel)
    expected = tokens.astype("float64")
    for t in range(num_tokens):
        for k in range(kernel_size):
            neighbour = t + k - kernel_size // 2
            if 0 <= neighbour < num_tokens:
                expected[:, t] += kernel[k] * tokens[:, neighbour]
    np.testing.assert_allclose(layer(tokens), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel_size", [2, 4])
def test_even_kernels_are_refused(kernel_size):
    with pytest.raises(InputError, match=f"kernel_size must be odd, got {kernel_size}"):
        TokenDepthwiseConv(kernel_size)


@pytest.mark.parametrize(
    ("channels", "wished", "groups"), [(6, 3, 3), (6, 4, 3), (6, 27, 6), (7, 3, 1), (54, 27, 27)]
)
def test_branch_normalises_groups_and_is_linear(channels, wished, groups, rng):
    features = (5 + 3 * rng.standard_normal((2, 3, 4, channels))).astype("float32")
    branch = LinearBranch(5, wished)
    branch.build(features.shape)
    np.testing.assert_array_equal(branch(features), np.zeros((2, 5)))  # it starts at zero
    kernel = rng.standard_normal(branch.linear.kernel.shape).astype("float32")
    bias = rng.standard_normal(5).astype("float32")
    branch.linear.set_weights([kernel, bias])
    parts = features.astype("float64").reshape(2, 3, 4, groups, channels // groups)
    mean = parts.mean(axis=(1, 2, 4), keepdims=True)
    deviation = np.sqrt(parts.var(axis=(1, 2, 4), keepdims=True))
    expected = ((parts - mean) / deviation).reshape(2, -1) @ kernel + bias
    np.testing.assert_allclose(branch(features), expected, rtol=1e-2, atol=2e-2)


def test_branch_learns_one_linear_layer_alone():
    branch = LinearBranch(5)
    branch.build((None, 3, 4, 6))
    assert [tuple(weight.shape) for weight in branch.weights] == [(72, 5), (5,)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConvStem(0),
        lambda: TokenDepthwiseConv(-1),
        lambda: LinearBranch(0),
        lambda: LinearBranch(3, 0),
    ],
)
def test_sizes_are_whole_numbers_above_0(make):
    with pytest.raises(InputError, match="must be a whole number above 0"):
        make()
