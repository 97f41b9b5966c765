"""Dense layers on one tensor, whose gradients are written out by one product."""

import keras
import pytest
import tensorflow as tf

from keras_dpvit.gradients.layer_calls import record_calls
from keras_dpvit.gradients.layer_rules import layer_rules
from keras_dpvit.gradients.shared_input import JointDense, joined


def layers_on_one_tensor(tokens, width, use_bias, dtype="float32"):
    inputs = keras.Input((tokens, width), dtype=dtype)
    layers = [keras.layers.Dense(5, use_bias=biased, dtype=dtype) for biased in use_bias]
    branches = [layer(inputs) for layer in layers]
    return keras.Model(inputs, keras.layers.Concatenate(dtype=dtype)(branches))


def parts_of(model, x):
    """Names of the layers of each part, and the part."""
    units = layer_rules(model)
    with record_calls([(unit.layer, unit.rule) for unit in units]) as calls:
        model(x)
    for unit_calls in calls:
        for call in unit_calls:
            call.gradient = call.output
    return [(part, [units[i].layer for i in members]) for part, members in joined(units, calls)]


@pytest.mark.parametrize("tokens", [36, 60])
def test_norms_and_sums_are_those_of_single_records(tokens, check, normal, kernels_in_use):
    model = layers_on_one_tensor(tokens, 4, (True, False, True))
    found = parts_of(model, tf.constant(normal(3, tokens, 4)))
    if kernels_in_use == "compiled":  # which gain nothing by joining
        assert not any(isinstance(part, JointDense) for part, _ in found)
    else:
        assert isinstance(found[0][0], JointDense)
        assert len(found[0][1]) == 3
    check(model, normal(3, tokens, 4), 1e-4)


def test_float64_is_exact_to_its_rounding(check, normal):
    model = layers_on_one_tensor(40, 3, (False, True), "float64")
    check(model, normal(2, 40, 3, dtype="float64"), 1e-10)


def test_what_differs_is_not_joined(check, normal, train_only, without_kernels):
    inputs = keras.Input((40, 4))
    same = [keras.layers.Dense(5, name=name)(inputs) for name in ("first", "second")]
    wider = keras.layers.Dense(6, name="wider")(inputs)
    other = keras.layers.Dense(5, name="other")(keras.layers.ReLU()(inputs))
    twice = keras.layers.Dense(5, name="twice")
    calls = [twice(inputs), twice(inputs)]
    model = keras.Model(inputs, keras.layers.Concatenate()([*same, wider, other, *calls]))
    names = [
        sorted(layer.name for layer in layers)
        for _, layers in parts_of(model, tf.constant(normal(2, 40, 4)))
    ]
    assert sorted(names) == [["first", "second"], ["other"], ["twice"], ["wider"]]
    check(model, normal(2, 40, 4), 1e-4)
    train_only(model, "bias")  # nothing to write out
    assert all(len(layers) == 1 for _, layers in parts_of(model, tf.constant(normal(2, 40, 4))))


@pytest.mark.usefixtures("kernels_in_use")
def test_few_tokens_are_left_to_gram_matrices(normal):
    model = layers_on_one_tensor(2, 4, (True, True))
    parts = parts_of(model, tf.constant(normal(2, 2, 4)))
    assert [len(layers) for _, layers in parts] == [1, 1]
