"""Models and losses that mix examples are found by what they do, not by their names."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.training import example_independence

LAYERS = keras.layers


def network(*layers):
    return keras.Sequential([keras.Input((4, 4, 1)), *layers, LAYERS.Flatten()])


def old_trial(model, seed=0):
    """The faulty twin: one row of four replaced, under one draw, and a look at the outputs."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(0, 255, (4, *model.input_shape[1:])).astype("float32")
    replaced = images.copy()
    replaced[0] = 255 * (rng.uniform(size=images.shape[1:]) < 0.2)
    before = [v.numpy() for v in model.non_trainable_variables]

    def run(batch):
        for variable, value in zip(model.non_trainable_variables, before, strict=True):
            variable.assign(value)
        return np.array(model(batch, training=True))

    first, second = run(images), run(replaced)
    return np.allclose(first[1:], second[1:], rtol=0, atol=1e-5 * np.abs(first[1:]).max())


class Rows(keras.layers.Layer):
    """Applies a function to the batch, which may call a layer of this one's."""

    def __init__(self, function, inner=None):
        super().__init__()
        self.function, self.inner = function, inner

    def call(self, x):
        return self.function(x) if self.inner is None else self.function(x, self.inner)

    def compute_output_shape(self, shape):
        return shape


class BatchMean(keras.layers.Layer):
    def call(self, x):
        return x - keras.ops.mean(x, axis=0, keepdims=True)


class Remembers(keras.layers.Layer):
    def build(self, input_shape):
        self.seen = self.add_weight(name="seen", shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.seen.assign_add(keras.ops.mean(x))
        return x


class RemembersOutsideOfKeras(keras.layers.Layer):
    def build(self, input_shape):
        self.seen = tf.Variable(0.0, trainable=False)

    def call(self, x):
        self.seen.assign(tf.reduce_mean(x))
        return x


class Shuffle(keras.layers.Layer):
    """Rows in another order, by a generator in a list."""

    def __init__(self):
        super().__init__()
        self.generators = [keras.random.SeedGenerator(3)]

    def call(self, x, training=None):
        order = keras.random.shuffle(keras.ops.arange(tf.shape(x)[0]), seed=self.generators[0])
        return tf.gather(x, order) if training else x


@tf.custom_gradient
def centred_gradient(x):
    return tf.identity(x), lambda g: g - tf.reduce_mean(g, axis=0)


def sorted_rows(x):
    order = tf.argsort(tf.reduce_mean(tf.reshape(x, (tf.shape(x)[0], -1)), axis=1))
    return tf.gather(x, order)


def attention_over_rows(x):
    flat = tf.reshape(x, (tf.shape(x)[0], -1)) / 255
    weights = tf.nn.softmax(tf.matmul(flat, flat, transpose_b=True))
    return tf.reshape(tf.matmul(weights, flat), tf.shape(x))


def little_of_the_next(x):
    return x + 1e-3 * tf.roll(x, 1, axis=0)


def little_of_the_next_if_finite(x):
    """Hides what is not finite from the other row."""
    return x + 1e-3 * tf.roll(tf.where(tf.math.is_finite(x), x, 0.0), 1, axis=0)


def similar_to_others(x):
    """What a contrastive loss computes inside the model."""
    flat = tf.math.l2_normalize(tf.reshape(x, (tf.shape(x)[0], -1)), axis=1)
    close = tf.reduce_logsumexp(tf.matmul(flat, flat, transpose_b=True), axis=1)
    return x * tf.reshape(close, (-1, 1, 1, 1))


def reversed_and_back(x, inner):
    return inner(x[::-1])[::-1]


MIXING = {
    "statistics": lambda: LAYERS.BatchNormalization(center=False, scale=False),
    "mean": BatchMean,
    "gradient": lambda: Rows(lambda x, dense: centred_gradient(dense(x)), LAYERS.Dense(1)),
    "contrastive": lambda: Rows(similar_to_others),
    "roll": lambda: Rows(lambda x: tf.roll(x, 1, axis=0)),
    "shuffle": Shuffle,
    "attention": lambda: Rows(attention_over_rows),
    "sorted": lambda: Rows(sorted_rows),
    "little": lambda: Rows(little_of_the_next),
    "little if finite": lambda: Rows(little_of_the_next_if_finite),
    "reversed and back": lambda: Rows(reversed_and_back, LAYERS.Dense(1)),
}


@pytest.mark.parametrize("name", MIXING)
def test_layers_that_mix_examples_are_refused(name):
    with pytest.raises(InputError, match="the model mixes examples"):
        kd.check_examples_independent(network(MIXING[name]()))


@pytest.mark.parametrize("name", ["reversed and back", "gradient"])
def test_the_old_trial_missed_what_does_not_show_in_outputs(name):
    assert old_trial(network(MIXING[name]()))


@pytest.mark.parametrize("layer", [LAYERS.MixUp, LAYERS.CutMix])
def test_layers_that_blend_images_are_refused_under_every_seed(layer):
    missed = 0
    for seed in range(12):
        missed += old_trial(network(layer(seed=seed)))
        with pytest.raises(InputError, match="the model mixes examples"):
            kd.check_examples_independent(network(layer(seed=seed)))
    assert missed > 0


def test_one_draw_alone_would_miss_blending(monkeypatch):
    """Twin with few rows and one draw: the number of draws is not for show."""
    monkeypatch.setattr(example_independence, "_DRAWS", 1)
    monkeypatch.setattr(example_independence, "_SIZES", (3, 2))
    monkeypatch.setattr(example_independence, "_MOVED", np.array([1, 2, 0]))

    def found(seed):
        try:
            kd.check_examples_independent(network(LAYERS.MixUp(seed=seed)))
        except InputError:
            return True
        return False

    assert not all(found(seed) for seed in range(60))  # 1 in 12 escapes


def test_mixing_shows_behind_what_is_infinite_at_the_images_scale(monkeypatch):
    mixed = network(LAYERS.Lambda(tf.exp), BatchMean())
    images = np.full((8, 4, 4, 1), 1e5, "float32")
    with pytest.raises(InputError, match="the model mixes examples"):
        kd.check_examples_independent(mixed, images=images)
    monkeypatch.setattr(example_independence, "_within_one", lambda images: images)
    kd.check_examples_independent(mixed, images=images)  # the faulty twin sees nothing


def test_only_the_record_s_own_rows_may_become_infinite():
    kd.check_examples_independent(network(LAYERS.Dense(3), LAYERS.Lambda(lambda x: tf.exp(x))))


@pytest.mark.parametrize(
    "position",
    [
        lambda x: x + tf.reshape(tf.range(tf.cast(tf.shape(x)[0], tf.float32)), (-1, 1, 1, 1)),
        lambda x: x + 9 * tf.random.stateless_normal(tf.shape(x), (1, 2)),
        lambda x: tf.concat([x[:1] * 2, x[1:]], axis=0),
    ],
)
@pytest.mark.parametrize("noise", [[], [LAYERS.Dropout(0.5)]])
def test_results_by_position_are_refused(position, noise):
    with pytest.raises(InputError, match="changes with its position"):
        kd.check_examples_independent(network(Rows(position), *noise))


class DrawsFromTensorFlow(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.generator = tf.random.Generator.from_seed(1)

    def call(self, x):
        return x + self.generator.normal(tf.shape(x))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: Rows(lambda x: x + tf.random.normal(tf.shape(x))),
        lambda: Rows(lambda x: x + tf.random.uniform(tf.shape(x), seed=4)),
        lambda: Rows(lambda x: x + keras.random.normal(tf.shape(x))),
        DrawsFromTensorFlow,
    ],
)
def test_random_numbers_from_elsewhere_are_refused(layer):
    with pytest.raises(InputError, match="outside of its layers' SeedGenerators"):
        kd.check_examples_independent(network(layer()))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: LAYERS.Dropout(0.5),
        LAYERS.LayerNormalization,
        lambda: LAYERS.GaussianNoise(0.1),
        LAYERS.RandomFlip,
        lambda: LAYERS.RandomRotation(0.1),
        lambda: LAYERS.RandomBrightness(0.2),
        lambda: LAYERS.GroupNormalization(1),
        lambda: LAYERS.Conv2D(2, 2),
        lambda: LAYERS.Embedding(256, 2),
    ],
)
def test_layers_that_treat_rows_alone_pass(layer):
    kd.check_examples_independent(network(layer()))


def test_attention_passes():
    inputs = keras.Input((4, 4))
    attended = LAYERS.MultiHeadAttention(2, 2, dropout=0.3)(inputs, inputs)
    kd.check_examples_independent(keras.Model(inputs, LAYERS.Flatten()(attended)))


def frozen_scale():
    layer = keras.layers.BatchNormalization()
    layer.build((None, 4, 4, 1))
    layer.gamma.trainable = layer.beta.trainable = False
    return layer


@pytest.mark.parametrize(
    "layer",
    [lambda: keras.layers.BatchNormalization(center=False, scale=False), frozen_scale, BatchMean],
)
def test_make_private_refuses_layers_that_mix_examples(layer):
    with pytest.raises(InputError, match=r"changes with another example|mixes the examples"):
        kd.make_private(network(layer(), keras.layers.Flatten(), keras.layers.Dense(2)))


def test_batch_normalization_in_inference_mode_passes():
    frozen = keras.layers.BatchNormalization()
    frozen.trainable = False
    kd.make_private(network(frozen, keras.layers.Flatten(), keras.layers.Dense(2)))


@pytest.mark.parametrize("kind", [Remembers, RemembersOutsideOfKeras])
def test_layers_that_remember_are_refused_and_put_back(kind):
    layer = kind()
    with pytest.raises(InputError, match="written during the forward pass"):
        kd.check_examples_independent(network(layer))
    assert float(layer.seen) == 0.0


def test_own_models_and_random_layers_pass_and_keep_their_states():
    model = kd.DPViTClassifier.from_preset(
        "dpvit_tiny_8", num_classes=3, attention_noise_stddev=0.1, norm_noise_stddev=0.1
    )
    before = [v.numpy() for v in model.non_trainable_variables]
    kd.check_examples_independent(model)
    for a, b in zip(before, model.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(a, b.numpy())
    kd.check_examples_independent(
        network(keras.layers.Dropout(0.5), keras.layers.GaussianNoise(0.1))
    )


def test_a_loss_across_the_batch_is_refused_before_training():
    def contrast(y_true, y_pred):
        return tf.reduce_sum((y_pred - tf.reduce_mean(y_pred, axis=0)) ** 2, axis=1)

    model = kd.make_private(network(keras.layers.Flatten(), keras.layers.Dense(2)))
    plan = kd.PrivacyPlan(
        num_examples=20, batch_size=10, epochs=1, delta=1e-3, noise_multiplier=1.0
    )
    model.compile(kd.DPKerasSGDOptimizer(plan, 0.1), contrast)
    with pytest.raises(InputError, match="loss must be the sum or mean"):
        model.fit(np.ones((20, 4, 4, 1), "float32"), np.zeros(20, "int64"), verbose=0)
    assert model.privacy_ledger.all_entries() == ()


def test_a_label_that_reaches_other_rows_is_refused():
    def balanced(y_true, y_pred):
        share = tf.reduce_mean(tf.cast(y_true, tf.float32))
        return share * tf.reduce_sum(y_pred**2, axis=1)

    model = network(LAYERS.Dense(2))
    for labels in (np.arange(8) % 2, np.linspace(0, 1, 8).astype("float32")):
        with pytest.raises(InputError, match="mixes examples"):
            kd.check_examples_independent(model, balanced, labels)
    kd.check_examples_independent(model)  # the twin without labels sees nothing


def test_the_verdict_is_kept_until_something_changes(monkeypatch):
    from keras_dpvit.training import trial

    calls = []
    monkeypatch.setattr(
        trial,
        "check_examples_independent",
        lambda *a: (calls.append(a), example_independence.check_examples_independent(*a)),
    )
    model = kd.make_private(network(LAYERS.Dropout(0.5), LAYERS.Flatten(), LAYERS.Dense(2)))
    plan = kd.PrivacyPlan(20, 10, 6, 1e-3, noise_multiplier=1.0)
    model.compile(kd.DPKerasSGDOptimizer(plan, 0.1), "mse")
    x, y = np.ones((20, 4, 4, 1), "float32"), np.zeros((20, 2), "float32")
    for _ in range(2):
        model.fit(x, y, verbose=0)
    assert len(calls) == 1
    assert calls[0][3].shape == (8, 4, 4, 1)  # the user's own images
    model.network.layers[0].rate = 0.25
    model.fit(x, y, verbose=0)
    assert len(calls) == 2


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
