"""Nobody who has a model's files or its process' seed can draw the layers' noise again."""

import io
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.gradients.randomness import seed_generators
from keras_dpvit.training.layer_randomness import LayerRandomness

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Deep(keras.layers.Layer):
    """Draws from a generator that is deep inside an attribute."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inside = [{"deep": (keras.random.SeedGenerator(5),)}]

    def call(self, x, training=None):
        if training:
            keras.random.uniform((), seed=self.inside[0]["deep"][0])
        return x


def a_network():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            Deep(),
            keras.layers.Dropout(0.5, seed=11),
            keras.layers.Dense(10),
        ]
    )


def a_plan(**changes):
    arguments = {
        "num_examples": 64,
        "batch_size": 16,
        "epochs": 2,
        "delta": 1e-4,
        "noise_multiplier": 1.0,
    }
    return kd.PrivacyPlan(**{**arguments, **changes})


def compiled(**changes):
    model = kd.make_private(a_network())
    model.compile(kd.DPKerasSGDOptimizer(a_plan(**changes), 0.1), LOSS)
    return model


@pytest.fixture
def records(digit_images):
    return digit_images.x_train[:64], digit_images.y_train[:64]


def states(model):
    return [np.array(generator.state.value) for generator in seed_generators(model)]


def private_states(seed, step):
    """The states of one step, drawn as a fit under this plan draws them."""
    keras.utils.set_random_seed(7)
    model = compiled(seed=seed)
    randomness = model.private_trainer._layer_randomness
    found = randomness.enter(tf.constant(step, tf.int64))
    private = np.array(states(model))
    randomness.leave(found)
    return private


def test_generators_are_found_wherever_a_layer_keeps_them():
    model = kd.make_private(a_network())
    found = seed_generators(model)
    assert len(found) == len({id(generator) for generator in found}) == 2
    dropout = model.network.layers[3]
    assert {dropout.seed_generator, model.network.layers[2].inside[0]["deep"][0]} == set(found)


@pytest.mark.parametrize("keep", [lambda g: {"a": {"b": g}}, lambda g: {g}, lambda g: (g,)])
def test_generators_are_found_that_keras_does_not_track(keep):
    model = kd.make_private(a_network())
    generator = keras.random.SeedGenerator(1)
    vars(model.network.layers[3])["hidden"] = keep(generator)
    assert generator in seed_generators(model)


def test_states_are_the_plan_s_seed_s_or_nobody_s():
    assert np.array_equal(private_states(3, 0), private_states(3, 0))
    for other in (private_states(3, 1), private_states(4, 0)):
        assert not np.any(private_states(3, 0) == other)
    assert not np.any(private_states(None, 0) == private_states(None, 0))
    one, two = private_states(None, 0)  # of two generators
    assert not np.any(one == two)


def test_set_random_seed_decides_states_outside_of_private_training():
    """Twin: without the key, everything is the same in two runs."""
    runs = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        runs.append(keras.layers.Dropout(0.5).seed_generator.state.numpy())
    np.testing.assert_array_equal(*runs)


class Spy(LayerRandomness):
    """Notes the private states of each step, as numbers."""

    noted: list[bytes]

    def enter(self, step):
        found = super().enter(step)
        values = [tf.identity(generator.state.value) for generator in seed_generators(self._model)]
        tf.py_function(lambda *v: self.noted.extend(x.numpy().tobytes() for x in v), values, [])
        return found


class Leaky(Spy):
    """The faulty twin: the private states stay in the model."""

    def leave(self, found):
        pass


class SaveAll(keras.callbacks.Callback):
    """Writes every kind of file after each step."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_train_batch_end(self, batch, logs=None):
        self.model.save(self.folder / f"{batch}.keras")
        self.model.save_weights(self.folder / f"{batch}.weights.h5")


def arrays_in(path):
    """All arrays of a file as bytes, a row each."""
    if path.suffix == ".npz":
        with np.load(path) as stored:
            return [stored[name].tobytes() for name in stored.files]
    content = path.read_bytes()
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            content = archive.read("model.weights.h5")
    found = []
    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(
            lambda _, item: (
                found.append(item[()].tobytes()) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


def noted_and_written(kind, records, folder):
    model = compiled()
    trainer = model.private_trainer
    trainer._layer_randomness = spy = kind(model, trainer._layer_randomness._key)
    spy.noted = []
    before = states(model)
    model.fit(
        *records,
        verbose=0,
        callbacks=[SaveAll(folder)],
        checkpoint_dir=folder / "checkpoints",
        checkpoint_steps=1,
    )
    np.testing.assert_array_equal(states(model), before)
    model.save(folder / "end.keras")
    files = [path for path in folder.rglob("*") if path.suffix in (".keras", ".h5", ".npz")]
    assert len(files) == 10
    assert len(spy.noted) == 8  # two generators, four steps
    return set(spy.noted), {array for path in files for array in arrays_in(path)}


def test_no_file_holds_the_states_of_a_step(records, tmp_path):
    noted, written = noted_and_written(Spy, records, tmp_path)
    assert len(noted) == 8
    assert not noted & written
    key_like = {array for array in written if len(array) == 16}
    first_words = {state[:8] for state in noted}  # the second word counts on within a step
    assert not {array[:8] for array in key_like} & first_words


def test_states_left_in_the_model_would_be_in_files(records, tmp_path):
    noted, written = noted_and_written(Leaky, records, tmp_path)
    first_words = {array[:8] for array in written if len(array) == 16}
    # Those of the last step; Keras' own files have seeds alone, the checkpoint has states.
    assert len({state[:8] for state in noted} & first_words) == 2


def test_a_training_that_breaks_off_puts_the_states_back(records):
    class Fails(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise RuntimeError("no more")

    for kind in (LayerRandomness, Leaky):
        model = compiled()
        trainer = model.private_trainer
        trainer._layer_randomness = kind(model, trainer._layer_randomness._key)
        trainer._layer_randomness.noted = []
        before = states(model)
        with pytest.raises(RuntimeError, match="no more"):
            model.fit(*records, verbose=0, callbacks=[Fails()])
        np.testing.assert_array_equal(states(model), before)


def test_every_step_draws_anew_and_a_seed_repeats(records):
    keys = []
    for seed in (3, 3, None):
        keras.utils.set_random_seed(1)  # a plan's seed gives no two sets of weights the same keys
        model = compiled(seed=seed)
        trainer = model.private_trainer
        trainer._layer_randomness = spy = Spy(model, trainer._layer_randomness._key)
        spy.noted = []
        model.fit(*records, verbose=0)
        assert len(set(spy.noted)) == 8
        keys.append(spy.noted)
    assert keys[0] == keys[1]
    assert not set(keys[0]) & set(keys[2])


class Config(LayerRandomness):
    """The faulty twin: states as the config has them, advanced by the steps alone."""

    def enter(self, step):
        return []


def released_without_noise(kind, x, y):
    """The sum that one step over these records releases, before noise, and its model."""
    keras.utils.set_random_seed(1)
    model = compiled(sensitivity=kd.FixedSensitivity(1.0))
    trainer = model.private_trainer
    trainer.prepare(None)
    randomness = kind(model, trainer._layer_randomness._key)
    found = randomness.enter(tf.constant(0, tf.int64))
    present = tf.ones(len(x), tf.bool)
    images = tf.constant(x, tf.float32)
    sums, *_ = trainer.step.clipped_sums(
        images, tf.constant(y), tf.ones(len(x)), present, trainer.state.sensitivity
    )
    randomness.leave(found)
    return sums.numpy(), model


def guess(x, y):
    """What somebody computes who has the config and suspects these records."""
    return released_without_noise(Config, x, y)[0]


def test_known_masks_would_tell_neighbours_apart(records):
    """With the config's states a guess of the records gives the sum exactly; with ours it fails."""
    x, y = records[0][:16], records[1][:16]
    mine, neighbour = guess(x, y), guess(x[1:], y[1:])
    released = {kind: released_without_noise(kind, x, y)[0] for kind in (Config, LayerRandomness)}
    np.testing.assert_array_equal(released[Config], mine)
    assert np.linalg.norm(released[Config] - neighbour) > 0.1
    # Under masks of nobody's the right guess is as far away as masks make it.
    far = np.linalg.norm(released[LayerRandomness] - mine)
    assert far > 0.3 * np.linalg.norm(mine)
    again = released_without_noise(LayerRandomness, x, y)[0]
    assert np.linalg.norm(again - released[LayerRandomness]) > 0.3 * np.linalg.norm(mine)
