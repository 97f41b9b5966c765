"""Models with BatchNormalization: replaced, weights kept, trainable privately."""

import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.gradients.fallback import VectorizedRule
from keras_dpvit.gradients.layer_rules import layer_rules

layers = keras.layers
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network():
    """A convolutional network with a block of its own inside, in functional style."""
    inputs = keras.Input((8, 8, 1))
    block_inputs = keras.Input((8, 8, 6))
    y = layers.BatchNormalization(epsilon=1e-2)(block_inputs)
    y = layers.Conv2D(6, 3, padding="same")(layers.ReLU()(y))
    block = keras.Model(block_inputs, layers.Add()([block_inputs, y]), name="block")
    x = layers.Conv2D(6, 3, padding="same", name="stem")(inputs)
    x = block(x)
    x = layers.BatchNormalization(scale=False, name="last")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, name="head")(x))


@pytest.fixture(scope="module")
def trained(digit_images):
    """Trained by plain Keras on the first 400 digits."""
    keras.utils.set_random_seed(0)
    model = network()
    model.compile(keras.optimizers.Adam(1e-2), SPARSE, metrics=["accuracy"])
    x, y = digit_images.x_train[:400].astype("float32") / 255, digit_images.y_train[:400]
    model.fit(x, y, epochs=8, batch_size=50, verbose=0)
    return model, x, y


def kinds(model):
    return [type(layer).__name__ for layer in model._flatten_layers()]


@pytest.mark.parametrize("by", ["group", "layer", "frozen"])
def test_no_layer_is_left_and_all_other_weights_are_kept(trained, by):
    model, _, _ = trained
    before = [w.copy() for w in model.get_weights()]
    copy = kd.replace_batch_normalization(model, by)
    assert "BatchNormalization" not in kinds(copy)
    for name in ("stem", "head"):
        for a, b in zip(
            model.get_layer(name).get_weights(), copy.get_layer(name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    inner = [m.get_layer("block").get_layer(index=1) for m in (model, copy)]
    np.testing.assert_array_equal(inner[0].gamma, inner[1].gamma)
    np.testing.assert_array_equal(model.get_layer("last").beta, copy.get_layer("last").beta)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)  # the given one is as it was
    assert copy.get_layer("block").name == "block"


def test_frozen_statistics_answer_as_the_trained_model(trained):
    model, x, _ = trained
    copy = kd.replace_batch_normalization(model, "frozen")
    np.testing.assert_allclose(copy.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-4)


@pytest.mark.parametrize("by", ["group", "layer", "frozen"])
def test_it_trains_privately_by_rules_and_learns(trained, by, tmp_path):
    model, x, y = trained
    copy = kd.replace_batch_normalization(model, by)
    assert not any(isinstance(rule.rule, VectorizedRule) for rule in layer_rules(copy))
    private = kd.make_private(copy)
    plan = kd.PrivacyPlan(400, 100, 20, 1e-4, noise_multiplier=0.4)
    private.compile(kd.DPKerasAdamOptimizer(plan, 1e-2), SPARSE, metrics=["accuracy"])
    start = private.evaluate(x, y, verbose=0)[0]
    private.fit(x, y, epochs=20, verbose=0)
    if by != "frozen":  # which knew them before
        assert private.evaluate(x, y, verbose=0)[0] < start
    private.save(tmp_path / "model.keras")
    loaded = kd.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), private.predict(x, verbose=0), atol=1e-5
    )


@pytest.mark.parametrize(
    ("channels", "groups"), [(256, 32), (64, 16), (48, 12), (6, 1), (35, 7), (1, 1), (33, 3)]
)
def test_groups_divide_the_channels(channels, groups):
    model = keras.Sequential([keras.Input((2, 2, channels)), layers.BatchNormalization()])
    (layer,) = kd.replace_batch_normalization(model).layers
    assert layer.groups == groups


def test_keras_own_mobile_net_becomes_private():
    base = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=4)
    with pytest.raises(kd.InputError, match=r"kd\.replace_batch_normalization\(model\)"):
        kd.make_private(base)
    base.trainable = False
    copy = kd.replace_batch_normalization(base, "frozen")
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(copy.predict(x, verbose=0), base.predict(x, verbose=0), atol=1e-5)
    assert not copy.trainable_variables


class Inside(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.BatchNormalization()

    def build(self, input_shape):
        self.norm.build(input_shape)

    def call(self, x, training=None):
        return self.norm(x, training=training)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.norm = layers.BatchNormalization()

    def call(self, x, training=None):
        return self.norm(x, training=training)


def test_what_cannot_be_replaced_is_refused_in_one_line():
    subclassed = Subclassed()
    subclassed(np.zeros((2, 3)))
    for model, message in (
        (keras.Sequential([keras.Input((3,)), Inside()]), "inside a layer of its own"),
        (subclassed, "model must be a functional or sequential one"),
        (layers.Dense(3), "must be a built Keras model"),
    ):
        with pytest.raises(kd.InputError, match=message) as caught:
            kd.replace_batch_normalization(model)
        assert "\n" not in str(caught.value)
    with pytest.raises(kd.InputError, match="by must be"):
        kd.replace_batch_normalization(network(), "instance")
