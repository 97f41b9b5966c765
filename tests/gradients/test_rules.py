"""Rules for Keras' own layers, over drawn shapes, whole and with variables frozen."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from keras_dpvit.gradients.layer_rules import layer_rules

PRECISIONS = [("float32", 1e-4), ("float64", 1e-10)]
KERNEL_AND_BIAS = [("kernel", "bias"), ("kernel",), ("bias",)]
GAIN_AND_BIAS = [("gamma", "beta"), ("gamma",), ("beta",)]

precisions = pytest.mark.parametrize(("dtype", "rtol"), PRECISIONS)


@precisions
@settings(max_examples=12, deadline=None)
@given(
    tokens=st.sampled_from([(), (1,), (3,), (9,), (2, 3)]),
    width_in=st.integers(1, 7),
    width_out=st.integers(1, 7),
    names=st.sampled_from([None, *KERNEL_AND_BIAS]),
    activation=st.sampled_from([None, "gelu", "tanh"]),
)
def test_dense(check_layer, dtype, rtol, tokens, width_in, width_out, names, activation):
    # 9 tokens of narrow width are written out, 3 go through Gram matrices.
    use_bias = names is not None
    layer = keras.layers.Dense(width_out, activation=activation, use_bias=use_bias, dtype=dtype)
    check_layer(layer, (*tokens, width_in), dtype, rtol, names)


EQUATIONS = [
    "ab,bc->ac",
    "abc,cd->abd",
    "abc,dc->abd",
    "abc,cde->abde",
    "abc,dce->adbe",
    "abcd,cde->abe",
    "abcd,dec->aeb",
    "abcd,be->aced",
    "ab,cd->abcd",
    "abc,cb->a",
]


@st.composite
def einsum_layers(draw):
    """A layer's arguments: equation, shapes and bias axes of whatever sizes."""
    equation = draw(st.sampled_from(EQUATIONS))
    inputs, rest = equation.split(",")
    kernel, outputs = rest.split("->")
    if len(outputs) == 1:  # Keras wants a place for the output's shape
        equation, outputs = f"{equation}e", f"{outputs}e"
        kernel += "e"
        equation = f"{inputs},{kernel}->{outputs}"
    sides = {letter: draw(st.integers(1, 4)) for letter in inputs + outputs + kernel}
    shape = tuple(sides[letter] for letter in inputs[1:])
    output_shape = tuple(sides[letter] for letter in outputs[1:])
    bias_axes = "".join(letter for letter in outputs[1:] if draw(st.booleans()))
    covered = [sides[letter] for letter in outputs[1:] if letter in bias_axes]
    last = sides[outputs[-1]] if outputs[-1] in bias_axes else 1
    assume(last > 1 or sum(side > 1 for side in covered) != 1)  # Keras misreads such a bias
    return equation, shape, output_shape, bias_axes or None


@precisions
@settings(max_examples=30, deadline=None)
@given(
    arguments=einsum_layers(),
    activation=st.sampled_from([None, "tanh"]),
    names=st.sampled_from(KERNEL_AND_BIAS),
)
def test_einsum_dense(check_layer, dtype, rtol, arguments, activation, names):
    equation, shape, output_shape, bias_axes = arguments
    layer = keras.layers.EinsumDense(
        equation, output_shape, activation=activation, bias_axes=bias_axes, dtype=dtype
    )
    names = None if bias_axes is None else names
    check_layer(layer, shape, dtype, rtol, names)


def test_a_bias_that_keras_misreads_is_left_to_the_fallback(no_fallback, check, functional, normal):
    layer = keras.layers.EinsumDense("abc,cd->abd", (3, 3), bias_axes="b")
    units = check(functional((3, 4), layer), normal(3, 3, 4), 1e-4)
    assert not no_fallback(units)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("value_dim", [None, 3])
def test_multi_head_attention_of_keras_needs_no_fallback(
    no_fallback, check, normal, use_bias, value_dim
):
    inputs = keras.Input((5, 8))
    attention = keras.layers.MultiHeadAttention(2, 4, value_dim=value_dim, use_bias=use_bias)
    units = check(keras.Model(inputs, attention(inputs, inputs)), normal(3, 5, 8), 1e-4)
    assert no_fallback(units)
    assert len(units) == 4


def test_biases_of_multi_head_attention_alone(check, normal, train_only):
    inputs = keras.Input((5, 8))
    model = keras.Model(inputs, keras.layers.MultiHeadAttention(2, 4)(inputs, inputs))
    train_only(model, "bias")
    units = check(model, normal(3, 5, 8), 1e-4)
    # The key's bias moves all scores of a query alike, so its gradient is zero but for rounding.
    assert [v.name for unit in units for v in unit.variables] == ["bias"] * 4


def test_group_query_attention_of_keras(no_fallback, check, normal):
    inputs = keras.Input((5, 8))
    attention = keras.layers.GroupQueryAttention(4, 4, 2)
    assert no_fallback(check(keras.Model(inputs, attention(inputs, inputs)), normal(3, 5, 8), 1e-4))


strides_or_dilation = st.sampled_from([(1, 1), (2, 1), (1, 2)])


@precisions
@settings(max_examples=20, deadline=None)
@given(
    length=st.integers(5, 9),
    channels=st.integers(1, 4),
    filters=st.integers(1, 4),
    size=st.integers(1, 3),
    steps=strides_or_dilation,
    padding=st.sampled_from(["same", "valid", "causal"]),
    names=st.sampled_from([None, *KERNEL_AND_BIAS]),
)
def test_conv1d(check_layer, dtype, rtol, length, channels, filters, size, steps, padding, names):
    layer = keras.layers.Conv1D(
        filters,
        size,
        strides=steps[0],
        dilation_rate=steps[1],
        padding=padding,
        activation="tanh",
        use_bias=names is not None,
        dtype=dtype,
    )
    check_layer(layer, (length, channels), dtype, rtol, names)


@precisions
@settings(max_examples=16, deadline=None)
@given(
    sides=st.tuples(st.integers(5, 7), st.integers(5, 7)),
    channels=st.integers(1, 3),
    filters=st.integers(1, 4),
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    steps=strides_or_dilation,
    padding=st.sampled_from(["same", "valid"]),
    names=st.sampled_from([None, *KERNEL_AND_BIAS]),
)
def test_conv2d(check_layer, dtype, rtol, sides, channels, filters, size, steps, padding, names):
    layer = keras.layers.Conv2D(
        filters,
        size,
        strides=steps[0],
        dilation_rate=steps[1],
        padding=padding,
        activation="gelu",
        use_bias=names is not None,
        dtype=dtype,
    )
    check_layer(layer, (*sides, channels), dtype, rtol, names)


@precisions
@settings(max_examples=16, deadline=None)
@given(
    sides=st.tuples(st.integers(5, 7), st.integers(5, 7)),
    channels=st.integers(1, 3),
    multiplier=st.integers(1, 3),
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    steps=strides_or_dilation,
    padding=st.sampled_from(["same", "valid"]),
    names=st.sampled_from([None, *KERNEL_AND_BIAS]),
)
def test_depthwise_conv2d(
    check_layer, dtype, rtol, sides, channels, multiplier, size, steps, padding, names
):
    layer = keras.layers.DepthwiseConv2D(
        size,
        depth_multiplier=multiplier,
        strides=steps[0],
        dilation_rate=steps[1],
        padding=padding,
        activation="tanh",
        use_bias=names is not None,
        dtype=dtype,
    )
    check_layer(layer, (*sides, channels), dtype, rtol, names)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_depthwise_conv1d(check_layer, padding):
    layer = keras.layers.DepthwiseConv1D(3, depth_multiplier=2, strides=2, padding=padding)
    check_layer(layer, (7, 3), "float32", 1e-4)


@pytest.mark.parametrize("names", [None, *GAIN_AND_BIAS])
def test_fixed_normalization(check_layer, names):
    from keras_dpvit.layers.fixed_normalization import FixedNormalization

    layer = FixedNormalization(scale=names is not None, center=True)
    layer.build((None, 5, 4))
    layer.mean.assign([0.5, -1.0, 2.0, 0.0])
    layer.variance.assign([1.0, 4.0, 0.3, 2.0])
    check_layer(layer, (5, 4), "float32", 1e-4, names)


@precisions
@settings(max_examples=12, deadline=None)
@given(
    sides=st.lists(st.integers(1, 4), max_size=2),
    groups=st.sampled_from([1, 2, 4, -1]),
    names=st.sampled_from(GAIN_AND_BIAS),
    both=st.booleans(),
)
def test_group_normalization(check_layer, dtype, rtol, sides, groups, names, both):
    layer = keras.layers.GroupNormalization(
        groups,
        epsilon=1e-2,  # a group of one value has no variance
        scale=both or "gamma" in names,
        center=both or "beta" in names,
        dtype=dtype,
    )
    check_layer(layer, (*sides, 4), dtype, rtol, names)


@precisions
@settings(max_examples=12, deadline=None)
@given(
    sides=st.lists(st.integers(1, 4), max_size=2),
    width=st.integers(2, 6),
    names=st.sampled_from(GAIN_AND_BIAS),
    both=st.booleans(),
)
def test_layer_normalization(check_layer, dtype, rtol, sides, width, names, both):
    layer = keras.layers.LayerNormalization(
        epsilon=1e-2, scale=both or "gamma" in names, center=both or "beta" in names, dtype=dtype
    )
    check_layer(layer, (*sides, width), dtype, rtol, names)


def test_layer_normalization_without_a_mean_is_left_to_the_fallback(
    no_fallback, check, functional, normal
):
    layer = keras.layers.LayerNormalization(rms_scaling=True)
    units = check(functional((3, 4), layer), normal(3, 3, 4), 1e-4)
    assert not no_fallback(units)


@precisions
@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(1, 6),
    width=st.integers(1, 5),
    places=st.sampled_from([(), (1,), (4,), (9,), (2, 3)]),
    negative=st.booleans(),
    integers=st.sampled_from(["int32", "int64", "float32"]),
)
def test_embedding(
    no_fallback, check, functional, dtype, rtol, rows, width, places, negative, integers
):
    # Few rows and many places, so that most rows are looked up several times.
    layer = keras.layers.Embedding(rows, width, dtype=dtype)
    x = np.random.default_rng(0).integers(-rows if negative else 0, rows, (3, *places))
    units = check(functional(places, layer, dtype=integers), x.astype(integers), rtol)
    assert no_fallback(units)


def test_an_embedding_called_twice(check):
    inputs = keras.Input((4,), dtype="int32")
    layer = keras.layers.Embedding(5, 3)
    shifted = keras.ops.minimum(inputs + 1, 4)
    model = keras.Model(inputs, layer(inputs) * keras.ops.sin(layer(shifted)))
    x = np.random.default_rng(0).integers(0, 5, (3, 4)).astype("int32")
    assert len(check(model, x, 1e-4)) == 1


@pytest.mark.usefixtures("kernels_in_use")
@pytest.mark.parametrize("names", [None, *KERNEL_AND_BIAS])
def test_grouped_convolutions_against_a_convolution_for_each_group(normal, at_once, names):
    """Some processors have no gradient of a grouped convolution, so the oracle has none."""
    for shape, layer in (
        ((6, 5, 4), keras.layers.Conv2D(6, 3, strides=2, groups=2, padding="same")),
        ((7, 6), keras.layers.Conv1D(3, 2, groups=3)),
    ):
        inputs = keras.Input(shape)
        model = keras.Model(inputs, layer(inputs))
        if names is not None:
            for variable in model.trainable_variables:
                variable.trainable = variable.name in names
        units = layer_rules(model)
        assert type(units[0].rule).__name__ == "GroupedConvRule"
        x = normal(3, *shape)
        arguments = {"strides": layer.strides, "padding": layer.padding.upper()}
        expected = []
        for row in x:
            with tf.GradientTape() as tape:
                parts = zip(
                    tf.split(row[None], layer.groups, -1),
                    tf.split(layer.kernel.value, layer.groups, -1),
                    strict=True,
                )
                outputs = tf.concat([tf.nn.convolution(a, k, **arguments) for a, k in parts], -1)
                loss = tf.reduce_sum(tf.sin(outputs + layer.bias) ** 2)
            own = tape.gradient(loss, [v.value for v in units[0].variables])
            expected.append([tf.convert_to_tensor(g).numpy() for g in own])
        norms, sums = at_once(model, units, tf.constant(x), tf.ones((3, 1)))
        squares = [[np.sum(g.astype(float) ** 2) for g in own] for own in expected]
        np.testing.assert_allclose(norms[:, 0], np.sqrt(np.sum(squares, axis=1)), rtol=1e-4)
        for total, each in zip(sums, zip(*expected, strict=True), strict=True):
            np.testing.assert_allclose(total, np.sum(each, axis=0), rtol=1e-4, atol=1e-4)
