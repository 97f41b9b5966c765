"""The convolutions against loops in NumPy."""

import math

import numpy as np
import pytest
import tensorflow as tf

from keras_dpvit.errors import InputError
from keras_dpvit.layers import ConvBranch, ConvStem, TokenDepthwiseConv
from keras_dpvit.layers.convolution import group_normalization

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


def normalised(images, groups):
    """Each group of channels of each image to mean 0 and deviation 1 (Keras adds 1e-3)."""
    shape = images.shape
    parts = images.reshape(*shape[:3], groups, shape[3] // groups)
    mean = parts.mean(axis=(1, 2, 4), keepdims=True)
    variance = parts.var(axis=(1, 2, 4), keepdims=True)
    return ((parts - mean) / np.sqrt(variance + 1e-3)).reshape(shape)


@pytest.mark.parametrize(
    ("channels", "wished", "groups"),
    [(6, 3, 3), (6, 4, 3), (6, 27, 6), (7, 3, 1), (54, 27, 27), (81, 27, 27), (243, 27, 27)],
)
def test_group_normalization_takes_the_nearest_number_of_groups(channels, wished, groups, rng):
    images = (5 + 3 * rng.standard_normal((2, 3, 4, channels))).astype("float32")
    layer = group_normalization(channels, wished)
    found = layer(images).numpy()
    np.testing.assert_allclose(found, normalised(images.astype("float64"), groups), atol=1e-4)
    assert layer.weights == []


@pytest.mark.parametrize("shape", [(5, 4), (4, 7), (6, 6), (1, 1)])
@pytest.mark.parametrize("filters", [0, 1, 4])
def test_branch_is_convolution_normalisation_and_a_linear_layer(filters, shape, rng, shake):
    features = rng.standard_normal((2, *shape, 3)).astype("float32")
    branch = ConvBranch(5, filters)
    branch.build(features.shape)
    shake(branch)
    x = features.astype("float64")
    if filters:
        # Of the full convolution every second place; where the side is even, the odd ones, for
        # the zeros beyond the rim then stand at the far end alone.
        starts = [(side + 1) % 2 for side in shape]
        x = gelu(convolved(branch.convolution, x)[:, starts[0] :: 2, starts[1] :: 2])
        x = normalised(x, filters)
    expected = x.reshape(2, -1) @ branch.linear.kernel.numpy() + branch.linear.bias.numpy()
    np.testing.assert_allclose(branch(features), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("filters", [0, 4])
def test_branch_starts_at_zero_and_yet_learns(filters, rng):
    features = rng.standard_normal((2, 3, 4, 6)).astype("float32")
    branch = ConvBranch(5, filters)
    np.testing.assert_array_equal(branch(features), np.zeros((2, 5)))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum((branch(features) - 1.0) ** 2)
    gradient = tape.gradient(loss, branch.linear.kernel.value)
    assert np.abs(gradient.numpy()).max() > 0.1


@pytest.mark.parametrize("filters", [0, 4])
def test_no_parameter_of_the_branch_is_cut_off_from_the_loss(filters, rng, shake):
    features = rng.standard_normal((2, 5, 4, 6)).astype("float32")
    branch = ConvBranch(5, filters)
    branch.build(features.shape)
    shake(branch)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(branch(features)) ** 2)
    gradients = tape.gradient(loss, [v.value for v in branch.trainable_variables])
    for variable, gradient in zip(branch.trainable_variables, gradients, strict=True):
        assert np.abs(gradient.numpy()).max() > 1e-3, variable.path


def test_branch_without_filters_learns_one_linear_layer_alone():
    branch = ConvBranch(5)
    branch.build((None, 3, 4, 6))
    assert [tuple(weight.shape) for weight in branch.weights] == [(72, 5), (5,)]


def test_branch_with_filters_learns_the_convolution_too():
    branch = ConvBranch(5, 2)
    branch.build((None, 3, 4, 6))
    shapes = sorted(tuple(weight.shape) for weight in branch.weights)
    assert shapes == [(2,), (3, 3, 6, 2), (5,), (8, 5)]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: ConvStem(0), "filters"),
        (lambda: TokenDepthwiseConv(-1), "kernel_size"),
        (lambda: ConvBranch(0), "num_classes"),
        (lambda: ConvBranch(3, -1), "filters"),
        (lambda: ConvBranch(3, 1.5), "filters"),
    ],
)
def test_sizes_are_whole_numbers_above_0(make, name):
    with pytest.raises(InputError, match=f"{name} must be a whole number above 0"):
        make()
