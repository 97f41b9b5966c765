"""Layers of one's own with dropout inside them, against all gradients at once under one noise."""

import keras
import numpy as np
import pytest

from keras_dpvit.errors import InputError
from keras_dpvit.gradients import kept_noise
from keras_dpvit.gradients.fallback import VectorizedNoiseRule
from keras_dpvit.gradients.layer_rules import layer_rules

KINDS = {
    "dropout": lambda: keras.layers.Dropout(0.5, seed=1),
    "one_mask_for_all_tokens": lambda: keras.layers.Dropout(0.5, noise_shape=(None, 1, 4), seed=1),
    "spatial": lambda: keras.layers.SpatialDropout1D(0.5, seed=1),
    "factors": lambda: keras.layers.GaussianDropout(0.4, seed=1),
    "summands": lambda: keras.layers.GaussianNoise(0.7, seed=1),
}


class Block(keras.layers.Layer):
    """A residual block with a variable of its own, as tutorials write them."""

    def __init__(self, noise, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.noise = keras.layers.Dense(4), noise

    def build(self, shape):
        self.gain = self.add_weight(shape=shape[-1:], initializer="ones", name="gain")
        self.dense.build(shape)

    def call(self, x, training=False):
        once = self.noise(self.dense(x * self.gain), training=training)
        return self.gain * (x + self.noise(once, training=training))


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_with_noise_and_a_variable(check_under_noise, functional, normal, kind):
    rules = check_under_noise(functional((3, 4), Block(KINDS[kind]())), normal(3, 3, 4), 1e-4)
    assert sorted(type(unit.rule).__name__ for unit in rules) == [
        "DenseRule",
        "VectorizedNoiseRule",
    ]


def test_other_noise_in_the_second_call_is_found(
    check_under_noise, functional, normal, monkeypatch
):
    """The faulty twin: the layer called again draws again."""
    from keras_dpvit.gradients import fallback

    monkeypatch.setattr(fallback, "noise_used", lambda noisy, noise: kept_noise._calls_shadowed(
        noisy, lambda part, call: call))  # fmt: skip
    with pytest.raises(AssertionError, match="Not equal"):
        check_under_noise(
            functional((3, 4), Block(keras.layers.GaussianNoise(0.7))), normal(3, 3, 4), 1e-4
        )


def test_a_block_within_a_block(check_under_noise, functional, normal):
    inner = Block(keras.layers.Dropout(0.3))
    outer = Block(keras.layers.Dropout(0.5))
    outer.dense = inner
    rules = check_under_noise(functional((3, 4), outer), normal(3, 3, 4), 1e-4)
    kinds = [type(unit.rule) for unit in rules]
    assert kinds.count(VectorizedNoiseRule) == 2


def test_noise_of_other_kinds_is_still_refused(functional):
    with pytest.raises(InputError, match="draws random numbers"):
        layer_rules(functional((3, 4), Block(keras.layers.AlphaDropout(0.5))))


def test_noise_whose_first_axis_is_not_the_records_is_refused(functional):
    class Windows(keras.layers.Layer):
        def build(self, shape):
            self.gain = self.add_weight(shape=(), initializer="ones", name="gain")
            self.noise = keras.layers.Dropout(0.5)

        def call(self, x, training=False):
            rows = self.noise(keras.ops.reshape(x, (-1, 4)), training=training)
            return self.gain * keras.ops.reshape(rows, (-1, 3, 4))

    with pytest.raises(InputError, match="draws random numbers"):
        layer_rules(functional((3, 4), Windows()))


def test_the_layer_draws_as_keras_does(functional, normal):
    from keras_dpvit.gradients.layer_calls import record_calls

    noise = keras.layers.Dropout(0.5, seed=1)
    model, x = functional((3, 4), Block(noise)), normal(3, 3, 4)
    start = noise.seed_generator.state.numpy()
    expected = model(x, training=True)
    noise.seed_generator.state.assign(start)
    with record_calls([(unit.layer, unit.rule) for unit in layer_rules(model)]):
        found = model(x, training=True)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
