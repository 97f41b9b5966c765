"""The position gate's rule, option by option, against one example at a time."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dpvit.gradients.fallback import VectorizedRule
from keras_dpvit.gradients.layer_rules import layer_rules
from keras_dpvit.gradients.per_example import PerExampleGradients
from keras_dpvit.gradients.position import PositionGateRule
from keras_dpvit.gradients.rules import rule_for
from keras_dpvit.layers import PositionGate, ThresholdAttention
from keras_dpvit.layers.pooling import grid_coordinates

pytestmark = pytest.mark.usefixtures("kernels_in_use")

# name: arguments of the gate, and its tokens
CASES = {
    "sigmoid": ({}, 9),
    "independent": ({"gate": "independent"}, 9),
    "sequence": ({"relative": "1d"}, 7),
    "independent_sequence": ({"gate": "independent", "relative": "1d"}, 7),
    "fill": ({"head_offsets": "fill", "locality_strength": 0.3}, 9),
    "coordinates": ({"coordinates": grid_coordinates(2, 3), "gate": "independent"}, 6),
}
HEADS = 6


def built(name, seed=0):
    """A model of one gate off its initial values, and content attention of three records."""
    arguments, tokens = CASES[name]
    rng = np.random.default_rng(seed)
    inputs = keras.Input((HEADS, tokens, tokens))
    layer = PositionGate(**arguments)
    model = keras.Model(inputs, layer(inputs))
    for v in model.trainable_variables:
        v.assign(v.numpy() + 0.5 * rng.standard_normal(v.shape))
    content = rng.dirichlet(np.ones(tokens), (3, HEADS, tokens)).astype("float32")
    return model, layer, content


def losses(model, x):
    return tf.reduce_sum(tf.sin(7.0 * model(x)) ** 2, axis=(1, 2, 3))


def one_by_one(model, x):
    """Gradients of each record alone, by Keras' own backward pass."""
    gradients = []
    for i in range(len(x)):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(losses(model, x[i : i + 1]))
        variables = [v.value for v in model.trainable_variables]
        gradients.append([g.numpy() for g in tape.gradient(loss, variables)])
    return gradients


def at_once(model, x, weights):
    gradients = PerExampleGradients(layer_rules(model), lambda: (losses(model, x), None))
    return gradients.layer_norms().numpy(), gradients.weighted_sums(tf.constant(weights))


def squared_norm(gradients):
    return sum(np.sum(g.astype("float64") ** 2) for g in gradients)


@pytest.mark.parametrize("name", CASES)
def test_norms_and_sums_are_those_of_single_records(name):
    model, layer, x = built(name)
    assert isinstance(rule_for(layer), PositionGateRule)
    expected = one_by_one(model, x)
    weights = np.float32([[0.3], [1.7], [0.9]])
    norms, sums = at_once(model, x, weights)
    by_hand = [np.sqrt(squared_norm(gradients)) for gradients in expected]
    np.testing.assert_allclose(norms[:, 0], by_hand, rtol=1e-4)
    assert len(sums) == len(model.trainable_variables)
    for position, total in enumerate(sums):
        mine = sum(
            w * gradients[position] for (w,), gradients in zip(weights, expected, strict=True)
        )
        np.testing.assert_allclose(total, mine, rtol=1e-3, atol=1e-4 * np.abs(mine).max())


@pytest.mark.parametrize("frozen", ["position_weights", "gate", "content_gate"])
def test_a_frozen_variable_takes_no_part(frozen):
    model, layer, x = built("independent")
    getattr(layer, frozen).trainable = False
    expected = one_by_one(model, x)
    norms, sums = at_once(model, x, np.ones((3, 1), "float32"))
    by_hand = [np.sqrt(squared_norm(gradients)) for gradients in expected]
    np.testing.assert_allclose(norms[:, 0], by_hand, rtol=1e-4)
    assert [tuple(s.shape) for s in sums] == [tuple(v.shape) for v in model.trainable_variables]


@pytest.mark.parametrize("name", CASES)
def test_gates_shut_far_out_leave_finite_gradients(name):
    model, layer, x = built(name)
    for gate in (layer.gate, layer.content_gate):
        if gate is not None:
            gate.assign([-300.0] * HEADS)
    norms, sums = at_once(model, x, np.ones((3, 1), "float32"))
    assert np.isfinite(norms).all()
    assert all(np.isfinite(total.numpy()).all() for total in sums)


def norms_of_the_gate(model, layer, x):
    """Each record's norm in the gate that is inside a threshold attention."""
    units = layer_rules(model)
    assert not any(isinstance(unit.rule, VectorizedRule) for unit in units)
    (gate,) = (n for n, unit in enumerate(units) if unit.layer is layer.position_gate)

    def forward():
        return tf.reduce_sum(tf.cast(model(x), "float32") ** 2, axis=(1, 2)), None

    norms = PerExampleGradients(units, forward).layer_norms()
    assert norms.dtype == tf.float64
    return norms.numpy()[:, gate]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_low_precision_gives_norms_close_to_the_exact(policy):
    arguments = {"gate": "independent", "head_offsets": "fill", "relative": "1d"}
    inputs = keras.Input((5, 12))
    exact, rough = (ThresholdAttention(6, dtype=d, **arguments) for d in ("float32", policy))
    models = [keras.Model(inputs, layer(inputs)) for layer in (exact, rough)]
    models[1].set_weights(models[0].get_weights())
    x = np.random.default_rng(0).standard_normal((3, 5, 12)).astype("float32")
    expected, found = (
        norms_of_the_gate(model, layer, x)
        for model, layer in zip(models, (exact, rough), strict=True)
    )
    np.testing.assert_allclose(found, expected, rtol=0.1)
