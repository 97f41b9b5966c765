"""Which layer serves which variable, and what is refused."""

import keras
import numpy as np
import pytest

from keras_dpvit.errors import InputError
from keras_dpvit.gradients.fallback import VectorizedRule
from keras_dpvit.gradients.layer_rules import layer_rules

FALLBACK_LAYERS = {
    "conv_transpose": ((6, 6, 2), lambda: keras.layers.Conv2DTranspose(4, 3, dilation_rate=2)),
    "einsum_dense_ellipsis": ((5, 4), lambda: keras.layers.EinsumDense("...c,cd->...d", 3)),
    # b is in all three operands: every place has a kernel of its own.
    "einsum_dense_by_place": ((5, 4), lambda: keras.layers.EinsumDense("abc,bcd->abd", (5, 3))),
    "einsum_dense_summed": ((5, 4), lambda: keras.layers.EinsumDense("abc,cd->ad", 3)),
    # keras.ops.add adds this bias along the last axis, which has as many places.
    "einsum_dense_misread_bias": (
        (5, 4),
        lambda: keras.layers.EinsumDense("abc,cde->abde", (5, 2, 2), bias_axes="d"),
    ),
    "group_normalization_first_axis": (
        (6, 6, 4),
        lambda: keras.layers.GroupNormalization(2, axis=1),
    ),
    "layer_normalization_two_axes": ((5, 4), lambda: keras.layers.LayerNormalization(axis=(1, 2))),
}


@pytest.mark.parametrize("name", FALLBACK_LAYERS)
def test_other_layers_go_through_the_fallback_and_say_so(name, check, functional, normal, caplog):
    shape, layer = FALLBACK_LAYERS[name]
    units = check(functional(shape, layer()), normal(3, *shape), 1e-4)
    assert isinstance(units[0].rule, VectorizedRule)
    assert "vectorised fallback" in caplog.text


def test_fallback_with_some_variables_frozen(check, functional, normal, train_only):
    for name in ("kernel", "bias"):
        model = functional((6, 6, 2), keras.layers.Conv2DTranspose(4, 3, dilation_rate=2))
        train_only(model, name)
        (unit,) = check(model, normal(3, 6, 6, 2), 1e-4)
        assert [v.name for v in unit.variables] == [name]


WITH_LORA = {
    "conv1d": ((5, 4), "float32", lambda: keras.layers.Conv1D(3, 2)),
    "conv2d": ((5, 5, 4), "float32", lambda: keras.layers.Conv2D(3, 2)),
}


@pytest.mark.parametrize("name", WITH_LORA)
def test_adapters_of_convolutions_go_through_the_fallback(name, check, functional):
    shape, dtype, make = WITH_LORA[name]
    layer = make()
    model = functional(shape, layer, dtype=dtype)
    layer.enable_lora(2)
    x = np.random.default_rng(0).integers(0, 7, (3, *shape)).astype(dtype)
    (unit,) = check(model, x, 1e-4)
    assert isinstance(unit.rule, VectorizedRule)
    assert "lora_kernel_a" in {v.name for v in unit.variables}


def test_quantised_weights_go_through_the_fallback(check, functional, normal):
    layer = keras.layers.Dense(3)
    model = functional((5, 4), layer)
    layer.quantize("int8")
    units = check(model, normal(3, 5, 4), 1e-4)
    assert [(type(u.rule), [v.name for v in u.variables]) for u in units] == [
        (VectorizedRule, ["bias"])
    ]


def test_frozen_layers_are_left_out(check, functional, normal):
    model = functional((6,), keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(4))
    model.layers[1].trainable = False
    units = check(model, normal(3, 6), 1e-4)
    assert [unit.layer for unit in units] == [model.layers[2]]


def test_a_subclass_with_its_own_call_is_not_served_by_its_bases_rule(check, functional, normal):
    class Doubled(keras.layers.Dense):
        def call(self, inputs):
            return 2.0 * super().call(inputs)

    units = check(functional((4,), Doubled(3)), normal(3, 4), 1e-4)
    assert isinstance(units[0].rule, VectorizedRule)


def test_a_subclass_with_another_variable_is_not_served_by_its_bases_rule(
    check, functional, normal
):
    class Scaled(keras.layers.Dense):
        def build(self, input_shape):
            super().build(input_shape)
            self.scale = self.add_weight(shape=(self.units,), name="scale")
            self.activation = lambda x: x * self.scale

    (unit,) = check(functional((4,), Scaled(3)), normal(3, 4), 1e-4)
    assert isinstance(unit.rule, VectorizedRule)
    assert len(unit.variables) == 3


class Patches(keras.layers.Layer):
    """Places added from a table, as Keras' own examples write it: no records at the table."""

    def __init__(self, places, lead=(), token=False, **kwargs):
        super().__init__(**kwargs)
        self.places, self.lead, self.token = places, lead, token
        self.projection = keras.layers.Dense(4)
        self.table = keras.layers.Embedding(places, 4)

    def build(self, input_shape):
        self.projection.build(input_shape)
        self.table.build()
        if self.token:
            self.first = self.add_weight(shape=(1, 1, 4), name="first")

    def call(self, x):
        positions = keras.ops.reshape(keras.ops.arange(self.places), (*self.lead, self.places))
        x = self.projection(x) + self.table(positions)
        if self.token:
            x = x + self.first
        return x


# Three records and three places: the table's rows could be mistaken for the records'.
@pytest.mark.parametrize("lead", [(), (1,)], ids=["rows like records", "one row"])
@pytest.mark.parametrize("token", [False, True])
def test_a_table_of_places_is_served_by_the_layer_around_it(lead, token, check, functional, normal):
    layer = Patches(3, lead, token)
    units = check(functional((3, 5), layer), normal(3, 3, 5), 1e-4)
    assert [unit.layer for unit in units] == [layer.projection, layer]
    own = ["first"] if token else []
    assert [v.name for v in units[1].variables] == [*own, "embeddings"]


@pytest.mark.parametrize("places", [2, 3])
def test_a_table_is_seen_through_whatever_number_of_rows_it_has(places, functional):
    """As many as the records of one of the two traces."""
    layer = Patches(places)
    units = layer_rules(functional((places, 5), layer))
    assert [unit.layer for unit in units] == [layer.projection, layer]


def test_what_no_layer_sees_with_its_records_is_refused():
    table = keras.layers.Embedding(3, 4)
    table.build()

    class Constant(keras.Model):
        input_shape = (None, 4)

        def __init__(self):
            super().__init__()
            self.table = table

        def call(self, x):
            return self.table(keras.ops.arange(3))

    with pytest.raises(InputError, match=r"embeddings is used on tensors whose first axis is not"):
        layer_rules(Constant())


def test_a_model_of_unknown_input_is_refused(functional):
    with pytest.raises(InputError, match=r"inputs of fixed sides, .* has \(None, None, 4\)"):
        layer_rules(functional((None, 4), keras.layers.Dense(1)))


def test_batch_normalization_is_refused(functional):
    model = functional((4,), keras.layers.Dense(3), keras.layers.BatchNormalization())
    with pytest.raises(InputError, match="mixes the examples"):
        layer_rules(model)


def test_tied_weights_have_their_whole_gradient(check):
    """A table that words are read with and scored with: its layer's rule sees half of it."""

    class Tied(keras.Model):
        def __init__(self):
            super().__init__()
            self.table = keras.layers.Embedding(6, 4)
            self.hidden = keras.layers.Dense(4, "tanh")

        def call(self, words, training=None):
            hidden = self.hidden(self.table(words))
            return keras.ops.matmul(hidden, keras.ops.transpose(self.table.embeddings))

    model = Tied()
    words = np.array([[0, 1, 2], [3, 3, 3], [5, 0, 5]])
    model(words)
    units = check(model, words, 1e-4)
    assert [type(unit.rule) for unit in units].count(VectorizedRule) == 1
    assert len(units) == 2


def test_a_variable_of_two_layers_is_refused(functional):
    first = keras.layers.Dense(4, use_bias=False)

    class Tied(keras.layers.Layer):
        def build(self, input_shape):
            self.kernel = first.kernel

        def call(self, x):
            return keras.ops.matmul(x, self.kernel)

    model = functional((4,), first, Tied())
    with pytest.raises(InputError, match="two layers"):
        layer_rules(model)


def test_a_table_under_two_layers_is_refused(functional):
    first, second = Patches(3), Patches(3)
    second.table = first.table
    with pytest.raises(InputError, match="two layers"):
        layer_rules(functional((3, 4), first, second))


def test_random_layers_without_a_rule_are_refused(functional):
    class Noisy(keras.layers.Layer):
        def build(self, input_shape):
            self.scale = self.add_weight(shape=())
            self.seed_generator = keras.random.SeedGenerator(1)

        def call(self, x):
            return self.scale * x + keras.random.normal((1,), seed=self.seed_generator)

    with pytest.raises(InputError, match="draws random numbers"):
        layer_rules(functional((4,), Noisy()))


def test_finding_units_runs_nothing(functional):
    dropout = keras.layers.Dropout(0.5, seed=1)
    model = functional((4,), keras.layers.Dense(3), dropout)
    before = dropout.seed_generator.state.numpy()
    assert len(layer_rules(model)) == 1
    np.testing.assert_array_equal(dropout.seed_generator.state.numpy(), before)
    assert "call" not in vars(dropout)
