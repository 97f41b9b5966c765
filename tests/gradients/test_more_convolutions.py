"""Transposed and separable convolutions, over drawn shapes, whole and with variables frozen."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dpvit.gradients.layer_rules import layer_rules

PADDINGS = ("same", "valid")
precisions = pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-4), ("float64", 1e-10)])
paddings = pytest.mark.parametrize("padding", PADDINGS)


def some_of(*names):
    """No bias at all, or a choice of the variables that train."""
    return st.sampled_from([None, names, *((name,) for name in names), names[::2]])


@precisions
@settings(max_examples=20, deadline=None)
@given(
    sides=st.tuples(st.integers(2, 6), st.integers(2, 6)),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    channels=st.integers(1, 3),
    options=st.fixed_dictionaries(
        {
            "filters": st.integers(1, 4),
            "strides": st.integers(1, 3),
            "padding": st.sampled_from(PADDINGS),
        }
    ),
    names=some_of("kernel", "bias"),
)
def test_conv2d_transpose(check_layer, dtype, rtol, sides, sizes, channels, options, names):
    layer = keras.layers.Conv2DTranspose(
        kernel_size=sizes, activation="tanh", use_bias=names is not None, dtype=dtype, **options
    )
    check_layer(layer, (*sides, channels), dtype, rtol, names)


@paddings
@pytest.mark.parametrize("strides", [1, 2, 4])
def test_conv1d_transpose(check_layer, strides, padding):
    layer = keras.layers.Conv1DTranspose(2, 3, strides=strides, padding=padding)
    check_layer(layer, (5, 3), "float32", 1e-4)


@precisions
@settings(max_examples=20, deadline=None)
@given(
    sides=st.tuples(st.integers(3, 7), st.integers(3, 7)),
    channels=st.integers(1, 3),
    steps=st.sampled_from([(1, 1), (2, 1), (1, 2)]),
    options=st.fixed_dictionaries(
        {
            "filters": st.integers(1, 5),
            "depth_multiplier": st.integers(1, 2),
            "padding": st.sampled_from(PADDINGS),
        }
    ),
    names=some_of("depthwise_kernel", "pointwise_kernel", "bias"),
)
def test_separable_conv2d(check_layer, dtype, rtol, sides, channels, steps, options, names):
    layer = keras.layers.SeparableConv2D(
        kernel_size=2,
        strides=steps[0],
        dilation_rate=steps[1],
        activation="tanh",
        use_bias=names is not None,
        dtype=dtype,
        **options,
    )
    check_layer(layer, (*sides, channels), dtype, rtol, names)


@paddings
def test_separable_conv1d(check_layer, padding):
    layer = keras.layers.SeparableConv1D(4, 3, depth_multiplier=2, strides=2, padding=padding)
    check_layer(layer, (7, 3), "float32", 1e-4)


@pytest.mark.usefixtures("kernels_in_use")
def test_xla_gives_the_same(at_once, functional, normal):
    layers = keras.layers
    model = functional(
        (9, 9, 2),
        layers.Conv2D(4, 3, activation="relu"),
        layers.DepthwiseConv2D(3, depth_multiplier=2),
        layers.SeparableConv2D(3, 2),
        layers.Conv2DTranspose(2, 3, strides=2),
    )
    units, x = layer_rules(model), normal(4, 9, 9, 2)
    weights = tf.ones((4, len(units)))
    plain, compiled = (at_once(model, units, x, weights, jit) for jit in (False, True))
    np.testing.assert_allclose(compiled[0], plain[0], rtol=1e-4)
    for ours, theirs in zip(compiled[1], plain[1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@paddings
@pytest.mark.parametrize("strides", [1, 2, 3])
def test_odd_sides_at_every_stride(check_layer, strides, padding):
    layer = keras.layers.Conv2D(4, 3, strides=strides, padding=padding, activation="tanh")
    check_layer(layer, (11, 13, 2), "float32", 1e-4)
