"""Recurrent layers, against Keras' own backward pass of one record at a time."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dpvit.gradients.layer_rules import layer_rules

LAYERS = {
    "lstm": keras.layers.LSTM,
    "gru": keras.layers.GRU,
    "simple": keras.layers.SimpleRNN,
}
# Steps, inputs, units: written out, and by Gram matrices.
SIZES = [(9, 2, 3), (3, 5, 6), (1, 3, 2)]
PRECISIONS = [("float32", 1e-4), ("float64", 1e-9)]


@pytest.mark.parametrize(("dtype", "rtol"), PRECISIONS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer(no_fallback, check, functional, normal, name, size, dtype, rtol):
    steps, width, units = size
    layer = LAYERS[name](units, dtype=dtype)
    found = check(
        functional((steps, width), layer, dtype=dtype), normal(3, steps, width, dtype=dtype), rtol
    )
    assert no_fallback(found)
    assert len(found) == 1


@pytest.mark.parametrize(
    "names", [("kernel",), ("recurrent_kernel",), ("bias",), ("kernel", "bias")]
)
@pytest.mark.parametrize("name", LAYERS)
def test_some_variables_alone(check, functional, normal, train_only, name, names):
    model = functional((4, 3), LAYERS[name](2))
    train_only(model, *names)
    units = check(model, normal(3, 4, 3), 1e-4)
    assert sorted(v.name for unit in units for v in unit.variables) == sorted(names)


OPTIONS = {
    "sequences": {"return_sequences": True},
    "backwards": {"go_backwards": True, "return_sequences": True},
    "no_bias": {"use_bias": False},
    "activations": {"activation": "relu"},
    "unrolled": {"unroll": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_options(no_fallback, check, functional, normal, name, options):
    units = check(functional((4, 3), LAYERS[name](2, **options)), normal(3, 4, 3), 1e-4)
    assert no_fallback(units)


@pytest.mark.parametrize("zero_output", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_masked_steps(no_fallback, check, name, zero_output):
    """The mask of an embedding, at the end, in the middle and over the whole record."""
    words = np.array([[1, 2, 0, 3], [2, 2, 1, 0], [0, 0, 0, 0]])
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            keras.layers.Embedding(4, 3, mask_zero=True),
            LAYERS[name](2, return_sequences=True, zero_output_for_mask=zero_output),
        ]
    )
    assert no_fallback(check(model, words, 1e-4))


@pytest.mark.parametrize("merge", ["concat", "sum", None])
def test_bidirectional_and_stacked(no_fallback, check, normal, merge):
    inputs = keras.Input((4, 3))
    x = keras.layers.Bidirectional(keras.layers.LSTM(2, return_sequences=True), merge_mode=merge)(
        inputs
    )
    x = keras.layers.Concatenate()(x) if merge is None else x
    x = keras.layers.GRU(3, return_sequences=True)(x)
    model = keras.Model(inputs, keras.layers.SimpleRNN(2)(x))
    units = check(model, normal(3, 4, 3), 1e-4)
    assert no_fallback(units)
    assert len(units) == 4


def test_a_state_goes_from_an_encoder_to_a_decoder(no_fallback, check, normal):
    inputs = keras.Input((4, 3))
    _, *state = keras.layers.LSTM(2, return_state=True)(inputs)
    outputs = keras.layers.LSTM(2, return_sequences=True)(inputs, initial_state=state)
    units = check(keras.Model(inputs, outputs), normal(3, 4, 3), 1e-4)
    assert no_fallback(units)


def test_one_layer_called_twice(no_fallback, check, normal):
    inputs, shared = keras.Input((4, 3)), keras.layers.GRU(2)
    outputs = keras.layers.Concatenate()([shared(inputs), shared(2 * inputs)])
    assert no_fallback(check(keras.Model(inputs, outputs), normal(3, 4, 3), 1e-4))


LEFT_TO_THE_FALLBACK = {
    "reset_before": lambda: keras.layers.GRU(2, reset_after=False),
    "stacked_cells": lambda: keras.layers.RNN([keras.layers.LSTMCell(2), keras.layers.GRUCell(2)]),
    "conv_lstm": lambda: keras.layers.ConvLSTM1D(2, 2),
}


@pytest.mark.parametrize("name", LEFT_TO_THE_FALLBACK)
def test_others_are_left_to_the_fallback(no_fallback, check, functional, normal, name):
    shape = (3, 4, 2) if name == "conv_lstm" else (3, 2)
    units = check(functional(shape, LEFT_TO_THE_FALLBACK[name]()), normal(2, *shape), 1e-4)
    assert not no_fallback(units)


@pytest.mark.parametrize("name", LAYERS)
def test_the_layer_returns_what_keras_returns(functional, normal, name):
    from keras_dpvit.gradients.layer_calls import record_calls

    model = functional((6, 3), LAYERS[name](4, return_sequences=True))
    x = normal(5, 6, 3)
    with record_calls([(unit.layer, unit.rule) for unit in layer_rules(model)]):
        found = model(x, training=True)
    np.testing.assert_allclose(found, model(x, training=True), atol=1e-6)


# Keras gives LSTM and GRU a mask for each gate where states are dropped, one for all else.
dropouts = pytest.mark.parametrize("dropped", [{}, {"recurrent_dropout": 0.4}], ids=["in", "both"])


@dropouts
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_under_dropout(no_fallback, check_under_noise, functional, normal, name, dropped):
    layer = LAYERS[name](4, dropout=0.5, unroll=True, seed=3, **dropped)  # jacobian has no loops
    units = check_under_noise(functional((5, 3), layer), normal(3, 5, 3), 1e-4)
    assert no_fallback(units)


@pytest.mark.usefixtures("kernels_in_use")
@dropouts
@pytest.mark.parametrize("name", LAYERS)
def test_sums_under_dropout_of_a_mask_for_each_gate(at_once, functional, normal, name, dropped):
    """One record alone: its weighted sum is Keras' gradient."""
    layer = LAYERS[name](4, dropout=0.5, seed=3, **dropped)
    model, state, x = functional((5, 3), layer), layer.cell.seed_generator.state, normal(1, 5, 3)
    units, start = layer_rules(model), state.numpy()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(model(x, training=True)) ** 2)
    expected = tape.gradient(loss, [v.value for v in units[0].variables])
    state.assign(start)
    _, sums = at_once(model, units, x, tf.ones((1, 1)))
    for found, own in zip(sums, expected, strict=True):
        np.testing.assert_allclose(found, own, rtol=1e-4, atol=1e-6)


@dropouts
@pytest.mark.parametrize("name", LAYERS)
def test_dropout_keeps_one_mask_for_all_steps(functional, normal, name, dropped):
    """Under one state of the generator, outputs are Keras' own."""
    from keras_dpvit.gradients.layer_calls import record_calls

    layer = LAYERS[name](4, dropout=0.5, seed=3, **dropped)
    model = functional((6, 3), layer)
    x, state = normal(5, 6, 3), layer.cell.seed_generator.state
    start = state.numpy()
    expected = model(x, training=True)
    state.assign(start)
    with record_calls([(unit.layer, unit.rule) for unit in layer_rules(model)]):
        found = model(x, training=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not np.allclose(found, model(x, training=False), atol=1e-3)
    assert tf.reduce_all(tf.math.is_finite(found))
