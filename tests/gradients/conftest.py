"""The oracle: plain Keras gradients of one example at a time."""

import contextlib
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume

from keras_dpvit import native
from keras_dpvit.gradients.fallback import VectorizedRule
from keras_dpvit.gradients.layer_rules import layer_rules
from keras_dpvit.gradients.per_example import PerExampleGradients


def one_by_one(model, units, x):
    """Norms `(records, units)` and gradients, from batches of one and Keras' own backward pass."""
    norms, gradients = [], []
    variables = [v for unit in units for v in unit.variables]
    for i in range(len(x)):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.sin(model(x[i : i + 1], training=True)) ** 2)
        own = tape.gradient(loss, [v.value for v in variables], unconnected_gradients="zero")
        own = [tf.convert_to_tensor(g).numpy() for g in own]
        gradients.append(own)
        norms.append(norms_by_unit(units, own))
    return np.array(norms), gradients


def norms_by_unit(units, gradients):
    norms = []
    for unit in units:
        mine, gradients = gradients[: len(unit.variables)], gradients[len(unit.variables) :]
        norms.append(np.sqrt(sum(np.sum(g.astype("float64") ** 2) for g in mine)))
    return norms


def all_at_once(model, units, x, weights, jit_compile=False):
    def forward():
        outputs = tf.sin(model(x, training=True)) ** 2
        return tf.reduce_sum(outputs, axis=list(range(1, outputs.shape.rank))), None

    gradients = PerExampleGradients(units, forward, jit_compile=jit_compile)
    return gradients.layer_norms().numpy(), [s.numpy() for s in gradients.weighted_sums(weights)]


def ways(dtype):
    """Contexts in which a rule has to be right: with compiled kernels, and without.

    There are none for float64: one context then, as in a test that has put the kernels away.
    """
    found = [contextlib.nullcontext()]
    if tf.as_dtype(dtype) != tf.float64 and native.library() is not None:
        found.append(mock.patch.object(native, "library", return_value=None))
    return found


@pytest.fixture(params=["compiled", "tensorflow"])
def kernels_in_use(request):
    """With compiled kernels and without, for what is not compared by `check`, which does both."""
    if request.param == "tensorflow":
        request.getfixturevalue("without_kernels")
    return request.param


@pytest.fixture(scope="session")
def at_once():
    """Norms and weighted sums of a batch by the rules."""
    return all_at_once


@pytest.fixture(scope="session")
def check():
    """Checks norms and weighted sums against the oracle, in every unit and variable.

    With compiled kernels and without: the oracle is asked once for both.
    """

    def check_model(model, x, rtol, randomize=True):
        if randomize:  # zeros and ones as initial values would hide mistakes
            rng = np.random.default_rng(0)
            for v in model.trainable_variables:
                v.assign(v.numpy() + 0.3 * rng.standard_normal(v.shape))
        units = layer_rules(model)
        covered = [id(v) for unit in units for v in unit.variables]
        assert sorted(covered) == sorted(id(v) for v in model.trainable_variables)
        expected, gradients = one_by_one(model, units, x)
        dtype = "float64" if x.dtype == np.float64 else "float32"
        weights = np.random.default_rng(1).uniform(0, 2, expected.shape).astype(dtype)
        unit_of = [index for index, unit in enumerate(units) for _ in unit.variables]
        by_hand = [
            sum(weights[i, unit] * gradients[i][position] for i in range(len(x)))
            for position, unit in enumerate(unit_of)
        ]
        # A gradient that is zero by nature (an attention's key bias) is rounding and no more.
        rounding = 10 * np.finfo(dtype).eps * max(np.abs(g).max() for g in by_hand)
        for way in ways(dtype):
            with way:
                norms, sums = all_at_once(model, units, tf.constant(x), tf.constant(weights))
            np.testing.assert_allclose(norms, expected, rtol=rtol, atol=rtol * expected.max())
            for total, expected_sum in zip(sums, by_hand, strict=True):
                atol = max(rtol * np.abs(expected_sum).max(), rounding)
                np.testing.assert_allclose(total, expected_sum, rtol=rtol, atol=atol)
        return units

    return check_model


@pytest.fixture(scope="session")
def check_under_noise():
    """Checks norms of a model with random layers: one batch, one noise, all gradients at once."""

    def check_model(model, x, rtol):
        units = layer_rules(model)
        variables = [v for unit in units for v in unit.variables]
        states = [v for v in model.non_trainable_variables if "seed" in v.path]
        before = [state.numpy() for state in states]
        with tf.GradientTape() as tape:
            outputs = tf.sin(model(x, training=True)) ** 2
            losses = tf.reduce_sum(outputs, axis=list(range(1, outputs.shape.rank)))
        each = tape.jacobian(losses, [v.value for v in variables])
        expected = [norms_by_unit(units, [g[i].numpy() for g in each]) for i in range(len(x))]
        for way in ways(x.dtype):
            for state, value in zip(states, before, strict=True):
                state.assign(value)
            with way:
                norms, _ = all_at_once(model, units, x, tf.ones((len(x), len(units))))
            np.testing.assert_allclose(norms, expected, rtol=rtol, atol=rtol * np.max(expected))
        return units

    return check_model


@pytest.fixture(scope="session")
def functional():
    """A functional model of layers one after another."""

    def build(shape, *layers, dtype="float32"):
        inputs = keras.Input(shape, dtype=dtype)
        x = inputs
        for layer in layers:
            x = layer(x)
        return keras.Model(inputs, x)

    return build


@pytest.fixture(scope="session")
def normal():
    """Normal numbers of a shape, the same each time."""

    def draw(*shape, dtype="float32"):
        return np.random.default_rng(2).standard_normal(shape).astype(dtype)

    return draw


@pytest.fixture(scope="session")
def train_only():
    """Freezes all variables of a model but those with one of the names."""

    def freeze(model, *names):
        for variable in model.trainable_variables:
            variable.trainable = variable.name in names

    return freeze


@pytest.fixture(scope="session")
def no_fallback():
    """True for units that all have a rule of their layer's own."""

    def all_have_rules(units):
        return not any(isinstance(unit.rule, VectorizedRule) for unit in units)

    return all_have_rules


def _assume_sound_oracle(layer):
    """Leaves out a kernel of one place with strides.

    TensorFlow 2.21's gradient of its filter (oneDNN, few channels) writes past a buffer, and the
    process dies many tests later. No rule calls it; the oracle would.
    """
    sizes, strides = getattr(layer, "kernel_size", (2,)), getattr(layer, "strides", (1,))
    assume(max(sizes) > 1 or max(strides) == 1)


@pytest.fixture(scope="session")
def check_layer(check, functional, normal, train_only, no_fallback):
    """Checks a layer by itself; `names` are the variables that train."""

    def check_one(layer, shape, dtype, rtol, names=None):
        _assume_sound_oracle(layer)
        model = functional(shape, layer, dtype=dtype)
        if names is not None:
            train_only(model, *names)
        units = check(model, normal(3, *shape, dtype=dtype), rtol)
        assert no_fallback(units)
        assert len(units) == 1

    return check_one
