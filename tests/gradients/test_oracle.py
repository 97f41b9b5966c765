"""Every rule against one example at a time: plain Keras gradients of a batch of one."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.gradients.fallback import VectorizedRule
from keras_dpvit.gradients.per_example import PerExampleGradients
from keras_dpvit.gradients.units import find_units
from keras_dpvit.layers import (
    ConvStem,
    DPLayerNormalization,
    GainAndBias,
    LinearBranch,
    PositionGate,
    PositionTable,
    SelfAttention,
    ThresholdAttention,
    TokenDepthwiseConv,
    TransformerBlock,
)


def one_by_one(model, units, x):
    """Norms `(records, units)` and gradients, from batches of one and Keras' own backward pass."""
    norms, gradients = [], []
    for i in range(len(x)):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.sin(model(x[i : i + 1], training=True)) ** 2)
        variables = [v for unit in units for v in unit.variables]
        own = tape.gradient(loss, [v.value for v in variables], unconnected_gradients="zero")
        own = [tf.convert_to_tensor(g).numpy() for g in own]
        gradients.append(own)
        norms.append([])
        for unit in units:
            mine, own = own[: len(unit.variables)], own[len(unit.variables) :]
            norms[-1].append(np.sqrt(sum(np.sum(g.astype("float64") ** 2) for g in mine)))
    return np.array(norms), gradients


def at_once(model, units, x, weights):
    def forward():
        outputs = tf.sin(model(x, training=True)) ** 2
        return tf.reduce_sum(outputs, axis=list(range(1, outputs.shape.rank))), None

    gradients = PerExampleGradients(units, forward)
    return gradients.layer_norms().numpy(), [s.numpy() for s in gradients.weighted_sums(weights)]


def check(model, x, rtol, randomize=True):
    """Norms and weighted sums agree with the oracle, in every unit and variable."""
    if randomize:  # zeros and ones as initial values would hide mistakes
        rng = np.random.default_rng(0)
        for v in model.trainable_variables:
            v.assign(v.numpy() + 0.3 * rng.standard_normal(v.shape))
    units = find_units(model)
    expected, gradients = one_by_one(model, units, x)
    weights = np.random.default_rng(1).uniform(0, 2, expected.shape).astype(x.dtype)
    norms, sums = at_once(model, units, tf.constant(x), tf.constant(weights))
    np.testing.assert_allclose(norms, expected, rtol=rtol, atol=rtol * expected.max())
    unit_of = [index for index, unit in enumerate(units) for _ in unit.variables]
    for position, (unit, total) in enumerate(zip(unit_of, sums, strict=True)):
        by_hand = sum(weights[i, unit] * gradients[i][position] for i in range(len(x)))
        np.testing.assert_allclose(total, by_hand, rtol=rtol, atol=rtol * np.abs(by_hand).max())
    return units


def functional(shape, *layers):
    inputs = keras.Input(shape)
    x = inputs
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def normal(*shape, dtype="float32"):
    return np.random.default_rng(2).standard_normal(shape).astype(dtype)


PRECISIONS = [("float32", 1e-4), ("float64", 1e-10)]


@pytest.mark.parametrize(("dtype", "rtol"), PRECISIONS)
@settings(max_examples=8, deadline=None)
@given(
    tokens=st.sampled_from([None, 1, 3, 9]),
    width_in=st.integers(1, 7),
    width_out=st.integers(1, 7),
    bias=st.booleans(),
    activation=st.sampled_from([None, "gelu", "tanh"]),
)
def test_dense(dtype, rtol, tokens, width_in, width_out, bias, activation):
    # 9 tokens of narrow width are written out, 3 go through Gram matrices.
    middle = () if tokens is None else (tokens,)
    layer = keras.layers.Dense(width_out, activation=activation, use_bias=bias, dtype=dtype)
    x = normal(3, *middle, width_in, dtype=dtype)
    check(functional((*middle, width_in), layer), x, rtol)


def test_dense_on_more_than_one_token_axis():
    check(functional((2, 3, 4), keras.layers.Dense(5, activation="relu")), normal(3, 2, 3, 4), 1e-4)


def test_a_layer_called_twice_adds_its_gradients_before_the_norm():
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
    "layer_normalization": lambda: keras.layers.LayerNormalization(),
    "layer_normalization_no_center": lambda: keras.layers.LayerNormalization(center=False),
    "position_table": lambda: PositionTable(),
    "self_attention": lambda: SelfAttention(2),
    "threshold_attention": lambda: ThresholdAttention(2),
    "block": lambda: TransformerBlock(2, 6, attention="threshold"),
}


@pytest.mark.parametrize("name", SMALL_LAYERS)
def test_own_layers(name):
    units = check(functional((9, 8), SMALL_LAYERS[name]()), normal(3, 9, 8), 1e-4)
    assert not any(isinstance(unit.rule, VectorizedRule) for unit in units)


CONVOLUTIONS = {
    "same": lambda: keras.layers.Conv2D(3, 3, padding="same", activation="gelu"),
    "valid_strided": lambda: keras.layers.Conv2D(5, (3, 2), strides=2, use_bias=False),
    "dilated": lambda: keras.layers.Conv2D(2, 2, dilation_rate=2),
    "stem": lambda: ConvStem(3),
    "linear_branch": lambda: LinearBranch(3),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    units = check(functional((6, 6, 4), CONVOLUTIONS[name]()), normal(3, 6, 6, 4), 1e-4)
    assert not any(isinstance(unit.rule, VectorizedRule) for unit in units)


def test_token_depthwise_convolution():
    units = check(functional((5, 4), TokenDepthwiseConv(3)), normal(3, 5, 4), 1e-4)
    assert not isinstance(units[0].rule, VectorizedRule)


def test_position_gate_alone():
    content = keras.ops.softmax(normal(3, 2, 9, 9)).numpy()
    check(functional((2, 9, 9), PositionGate()), content, 1e-4)


FALLBACK_LAYERS = {
    "conv2d_groups": ((6, 6, 2), lambda: keras.layers.Conv2D(4, 3, groups=2)),
    "depthwise": ((6, 6, 2), lambda: keras.layers.DepthwiseConv2D(3)),
    "group_normalization": ((6, 6, 4), lambda: keras.layers.GroupNormalization(2)),
    "einsum_dense": ((5, 4), lambda: keras.layers.EinsumDense("abc,cd->abd", (None, 3))),
    "layer_normalization_two_axes": ((5, 4), lambda: keras.layers.LayerNormalization(axis=(1, 2))),
}


@pytest.mark.parametrize("name", FALLBACK_LAYERS)
def test_other_layers_go_through_the_fallback_and_say_so(name, caplog):
    shape, layer = FALLBACK_LAYERS[name]
    units = check(functional(shape, layer()), normal(3, *shape), 1e-4)
    assert isinstance(units[0].rule, VectorizedRule)
    assert "vectorised fallback" in caplog.text


def test_multi_head_attention_of_keras():
    inputs = keras.Input((5, 8))
    outputs = keras.layers.MultiHeadAttention(2, 4)(inputs, inputs)
    check(keras.Model(inputs, outputs), normal(3, 5, 8), 1e-4)


def test_whole_model():
    model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=10, stage_depths=(2, 1))
    x = np.random.default_rng(3).uniform(0, 255, (4, 8, 8, 1)).astype("float32")
    units = check(model, x, 2e-4, randomize=False)
    covered = {id(v) for unit in units for v in unit.variables}
    assert covered == {id(v) for v in model.trainable_variables}


def test_frozen_layers_are_left_out():
    model = functional((6,), keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(4))
    model.layers[1].trainable = False
    units = check(model, normal(3, 6), 1e-4)
    assert [unit.layer for unit in units] == [model.layers[2]]


def test_a_layer_that_is_not_called_has_norm_zero():
    first, second = keras.layers.Dense(3), keras.layers.Dense(3)

    class Half(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = first, second

        def call(self, x):
            return self.first(x)

    model = Half()
    first.build((None, 4))
    second.build((None, 4))
    model(normal(1, 4))
    norms, sums = at_once(model, find_units(model), tf.constant(normal(2, 4)), tf.ones((2, 2)))
    assert norms[:, 0].min() > 0
    assert (norms[:, 1] == 0).all()
    assert not sums[2].any()


def test_a_subclass_with_its_own_call_is_not_served_by_its_bases_rule():
    class Doubled(keras.layers.Dense):
        def call(self, inputs):
            return 2.0 * super().call(inputs)

    units = check(functional((4,), Doubled(3)), normal(3, 4), 1e-4)
    assert isinstance(units[0].rule, VectorizedRule)


def test_batch_normalization_is_refused():
    model = functional((4,), keras.layers.Dense(3), keras.layers.BatchNormalization())
    with pytest.raises(InputError, match="mixes the examples"):
        find_units(model)


def test_a_variable_of_two_layers_is_refused():
    first = keras.layers.Dense(4, use_bias=False)

    class Tied(keras.layers.Layer):
        def build(self, input_shape):
            self.kernel = first.kernel

        def call(self, x):
            return keras.ops.matmul(x, self.kernel)

    model = functional((4,), first, Tied())
    with pytest.raises(InputError, match="two layers"):
        find_units(model)


def test_random_layers_without_a_rule_are_refused():
    class Noisy(keras.layers.Layer):
        def build(self, input_shape):
            self.scale = self.add_weight(shape=())
            self.seed_generator = keras.random.SeedGenerator(1)

        def call(self, x):
            return self.scale * x + keras.random.normal((1,), seed=self.seed_generator)

    with pytest.raises(InputError, match="draws random numbers"):
        find_units(functional((4,), Noisy()))


def test_dropped_rows_leave_no_trace_though_their_gradients_are_not_finite():
    model = functional((5, 4), GainAndBias(), keras.layers.Dense(3))
    x = normal(3, 5, 4)
    units = find_units(model)
    weights = np.array([[1, 1], [0, 0], [1, 1]], "float32")

    def sums(losses):
        def forward():
            return losses(tf.reduce_sum(model(tf.constant(x)) ** 2, axis=(1, 2))), None

        return PerExampleGradients(units, forward).weighted_sums(tf.constant(weights))

    clean = sums(lambda loss: loss)
    spoiled = sums(lambda loss: loss * tf.constant([1.0, np.nan, 1.0]))
    for a, b in zip(clean, spoiled, strict=True):
        np.testing.assert_array_equal(a, b)
