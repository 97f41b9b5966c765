"""Models and losses that mix examples are found by what they do, not by their names."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.errors import InputError


def network(*layers):
    return keras.Sequential([keras.Input((4, 4, 1)), *layers, keras.layers.Flatten()])


class BatchMean(keras.layers.Layer):
    def call(self, x):
        return x - keras.ops.mean(x, axis=0, keepdims=True)


class Remembers(keras.layers.Layer):
    def build(self, input_shape):
        self.seen = self.add_weight(name="seen", shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.seen.assign_add(keras.ops.mean(x))
        return x


def frozen_scale():
    layer = keras.layers.BatchNormalization()
    layer.build((None, 4, 4, 1))
    layer.gamma.trainable = layer.beta.trainable = False
    return layer


@pytest.mark.parametrize(
    "layer",
    [lambda: keras.layers.BatchNormalization(center=False, scale=False), frozen_scale, BatchMean],
)
def test_layers_that_mix_examples_are_refused(layer):
    with pytest.raises(InputError, match=r"change with another example|mixes the examples"):
        kd.make_private(network(layer(), keras.layers.Flatten(), keras.layers.Dense(2)))


def test_batch_normalization_in_inference_mode_passes():
    frozen = keras.layers.BatchNormalization()
    frozen.trainable = False
    kd.make_private(network(frozen, keras.layers.Flatten(), keras.layers.Dense(2)))


def test_layers_that_remember_are_refused_and_put_back():
    layer = Remembers()
    with pytest.raises(InputError, match="written during the forward pass"):
        kd.validate(network(layer))
    assert float(layer.seen) == 0.0


def test_own_models_and_random_layers_pass_and_keep_their_states():
    model = kd.DPViTClassifier.from_preset(
        "dpvit_tiny_8", num_classes=3, attention_noise_stddev=0.1, norm_noise_stddev=0.1
    )
    before = [v.numpy() for v in model.non_trainable_variables]
    kd.validate(model)
    for a, b in zip(before, model.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(a, b.numpy())
    kd.validate(network(keras.layers.Dropout(0.5), keras.layers.GaussianNoise(0.1)))


def test_a_loss_across_the_batch_is_refused_before_training():
    def contrast(y_true, y_pred):
        return tf.reduce_sum((y_pred - tf.reduce_mean(y_pred, axis=0)) ** 2, axis=1)

    model = kd.make_private(network(keras.layers.Flatten(), keras.layers.Dense(2)))
    plan = kd.PrivacyPlan(
        num_examples=20, batch_size=10, epochs=1, delta=1e-3, noise_multiplier=1.0
    )
    model.compile(kd.DPKerasSGDOptimizer(plan, 0.1), contrast)
    with pytest.raises(InputError, match="losses of one example change"):
        model.fit(np.ones((20, 4, 4, 1), "float32"), np.zeros(20, "int64"), verbose=0)
    assert model.privacy_ledger.all_entries() == ()


def test_the_same_seed_never_draws_the_same_noise_for_one_model_twice():
    plan = kd.PrivacyPlan(
        num_examples=20,
        batch_size=20,
        epochs=1,
        delta=1e-3,
        noise_multiplier=1.0,
        sensitivity=kd.FixedSensitivity(1.0),
        seed=9,
    )
    model = kd.make_private(network(keras.layers.Flatten(), keras.layers.Dense(100)))
    x, y = np.zeros((20, 4, 4, 1), "float32"), np.zeros((20, 100), "float32")
    kernel = model.network.layers[1].kernel
    moves = []
    for _ in range(2):
        model.compile(kd.DPKerasSGDOptimizer(plan, 1.0), "mse")
        before = kernel.numpy()
        model.fit(x, y, verbose=0)
        moves.append((kernel.numpy() - before).ravel())
    assert abs(np.corrcoef(*moves)[0, 1]) < 0.15
