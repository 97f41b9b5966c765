"""Every rule against one example at a time: our own layers, and models as a whole."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.gradients.fallback import VectorizedRule
from keras_dpvit.gradients.layer_rules import layer_rules
from keras_dpvit.gradients.per_example import PerExampleGradients
from keras_dpvit.layers import (
    ConvBranch,
    ConvStem,
    DPLayerNormalization,
    GainAndBias,
    PositionGate,
    PositionTable,
    SelfAttention,
    ThresholdAttention,
    TokenDepthwiseConv,
    TransformerBlock,
)


def test_a_layer_called_twice_adds_its_gradients_before_the_norm(check, normal):
    inputs = keras.Input((4, 6))
    shared = keras.layers.Dense(6, activation="tanh")
    norm = GainAndBias()
    model = keras.Model(inputs, norm(shared(norm(shared(inputs)))))
    units = check(model, normal(3, 4, 6), 1e-4)
    assert len(units) == 2


SMALL_LAYERS = {
    "gain_and_bias": lambda: GainAndBias(),
    "gain_alone": lambda: GainAndBias(use_bias=False),
    "dp_layer_normalization": lambda: DPLayerNormalization(),
    "position_table": lambda: PositionTable(),
    "self_attention": lambda: SelfAttention(2),
    "threshold_attention": lambda: ThresholdAttention(2),
    "block": lambda: TransformerBlock(2, 6, attention="threshold"),
}


@pytest.mark.parametrize("name", SMALL_LAYERS)
def test_own_layers(name, check, functional, normal):
    units = check(functional((9, 8), SMALL_LAYERS[name]()), normal(3, 9, 8), 1e-4)
    assert not any(isinstance(unit.rule, VectorizedRule) for unit in units)


@pytest.mark.usefixtures("kernels_in_use")
@pytest.mark.slow
def test_what_xla_compiles_gives_the_same(at_once, functional, normal):
    model = functional(
        (9, 8),
        keras.layers.Conv1D(8, 3, padding="same"),
        PositionTable(),
        TransformerBlock(2, 6, attention="threshold"),
        keras.layers.EinsumDense("abc,cd->abd", (9, 4), bias_axes="d"),
        keras.layers.Dense(3),
    )
    units = layer_rules(model)
    for records in (2, 5):  # a compilation for each size
        x = tf.constant(normal(records, 9, 8))
        weights = tf.constant(np.abs(normal(records, len(units))))
        norms, sums = at_once(model, units, x, weights)
        compiled_norms, compiled_sums = at_once(model, units, x, weights, jit_compile=True)
        np.testing.assert_allclose(compiled_norms, norms, rtol=1e-4, atol=1e-5 * norms.max())
        for compiled, total in zip(compiled_sums, sums, strict=True):
            np.testing.assert_allclose(compiled, total, rtol=1e-4, atol=1e-5 * norms.max())


def test_own_layers_whose_variables_are_frozen_in_part(check, functional, normal, train_only):
    for names in (("bias",), ("gain", "gate"), ("position_weights", "kernel")):
        model = functional((9, 8), TransformerBlock(2, 6, attention="threshold"))
        train_only(model, *names)
        units = check(model, normal(3, 9, 8), 1e-4)
        assert {v.name for unit in units for v in unit.variables} == set(names)


CONVOLUTIONS = {"stem": lambda: ConvStem(3), "conv_branch": lambda: ConvBranch(3)}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_own_convolutions(name, check, functional, normal):
    units = check(functional((6, 6, 4), CONVOLUTIONS[name]()), normal(3, 6, 6, 4), 1e-4)
    assert not any(isinstance(unit.rule, VectorizedRule) for unit in units)


def test_token_depthwise_convolution(check, functional, normal):
    units = check(functional((5, 4), TokenDepthwiseConv(3)), normal(3, 5, 4), 1e-4)
    assert not isinstance(units[0].rule, VectorizedRule)


def test_position_gate_alone(check, functional, normal):
    content = keras.ops.softmax(normal(3, 2, 9, 9)).numpy()
    check(functional((2, 9, 9), PositionGate()), content, 1e-4)


def test_whole_model(check):
    model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=10, stage_depths=(2, 1))
    x = np.random.default_rng(3).uniform(0, 255, (4, 8, 8, 1)).astype("float32")
    check(model, x, 2e-4, randomize=False)


@pytest.mark.usefixtures("kernels_in_use")
def test_a_layer_that_is_not_called_has_norm_zero(at_once, normal):
    first, second = keras.layers.Dense(3), keras.layers.Dense(3)

    class Half(keras.Model):
        input_shape = (None, 4)

        def __init__(self):
            super().__init__()
            self.first, self.second = first, second

        def call(self, x):
            return self.first(x)

    model = Half()
    first.build((None, 4))
    second.build((None, 4))
    model(normal(1, 4))
    norms, sums = at_once(model, layer_rules(model), tf.constant(normal(2, 4)), tf.ones((2, 2)))
    assert norms[:, 0].min() > 0
    assert (norms[:, 1] == 0).all()
    assert not sums[2].any()


@pytest.mark.usefixtures("kernels_in_use")
def test_a_row_that_is_not_finite_leaves_no_trace_in_the_sums(functional, normal):
    model = functional(
        (5, 4),
        GainAndBias(),
        keras.layers.EinsumDense("abc,cd->abd", (5, 4), bias_axes="bd"),
        keras.layers.Conv1D(4, 3),
        keras.layers.DepthwiseConv1D(2),
        keras.layers.Dense(3),
    )
    x = normal(3, 5, 4)
    units = layer_rules(model)
    weights = np.ones((3, len(units)), "float32") * [[1], [0], [1]]

    def sums(factors):
        def forward():
            losses = tf.reduce_sum(model(tf.constant(x)) ** 2, axis=(1, 2))
            return losses * tf.constant(factors), None

        return PerExampleGradients(units, forward).weighted_sums(tf.constant(weights, tf.float32))

    for clean, dropped, spoiled in zip(
        sums([1.0, 1.0, 1.0]), sums([1.0, 7.0, 1.0]), sums([1.0, np.nan, 1.0]), strict=True
    ):
        np.testing.assert_array_equal(clean, dropped)
        np.testing.assert_allclose(spoiled, clean, rtol=1e-6, atol=1e-7)


@pytest.mark.usefixtures("kernels_in_use")
def test_a_row_that_is_not_finite_in_one_layer_leaves_no_trace_in_any(normal):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [keras.layers.Dense(3)(inputs), keras.layers.Dense(2)(inputs)])
    units, x = (
        layer_rules(keras.Model(inputs, keras.layers.Concatenate()(model.outputs))),
        normal(3, 4),
    )

    def sums(factor):
        def forward():
            one, two = model(tf.constant(x))
            own = tf.reduce_sum(one**2, axis=1) * tf.constant([1.0, factor, 1.0])
            return own + tf.reduce_sum(two**2, axis=1) * tf.constant([1.0, 0.0, 1.0]), None

        return PerExampleGradients(units, forward).weighted_sums(tf.ones((3, 2)))

    for clean, spoiled in zip(sums(0.0), sums(np.nan), strict=True):
        np.testing.assert_allclose(spoiled, clean, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("kernels_in_use")
def test_a_row_without_a_finite_gradient_leaves_those_of_its_record(functional, normal):
    model = functional((4,), keras.layers.Dense(3))
    units, x = layer_rules(model), normal(4, 4)

    def sums(factor, present):
        def forward():
            outputs = model(tf.constant(x)) * tf.constant([[1.0], [factor], [1.0], [1.0]])
            return tf.sqrt(tf.reduce_sum(outputs**2, axis=1)), None

        found = PerExampleGradients(units, forward, 2, 0.5, present=tf.constant(present))
        return found.weighted_sums(tf.ones((2, 1)))

    absent = sums(1.0, [True, False, True, True])
    # The loss of the second row is 0, its gradient is none: 0 over 0.
    for found, expected in zip(sums(0.0, [True] * 4), absent, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.usefixtures("kernels_in_use")
def test_a_record_of_infinite_loss_counts_as_zero_though_its_gradient_is_finite(functional, normal):
    model = functional((4,), keras.layers.Dense(3))

    def sums(added, rows):
        def forward():
            return tf.reduce_sum(model(tf.constant(x[rows])) ** 2, axis=1) + added, None

        found = PerExampleGradients(layer_rules(model), forward)
        return found.weighted_sums(tf.ones((len(rows), 1)))

    x = normal(3, 4)
    without = sums(tf.constant([0.0, 0.0]), [0, 2])
    for found, expected in zip(
        sums(tf.constant([0.0, np.inf, 0.0]), [0, 1, 2]), without, strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
