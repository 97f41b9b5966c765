"""A pass over batches made elsewhere costs one release: what is longer is refused, not counted."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.training import external

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(epochs=3, num_examples=60, batch_size=20):
    keras.utils.set_random_seed(1)
    layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = kd.make_private(keras.Sequential(layers))
    plan = kd.PrivacyPlan(num_examples, batch_size, epochs, 1e-4, 1.0, sampling="external", seed=3)
    model.compile(kd.DPKerasSGDOptimizer(plan, 0.1), LOSS)
    return model


@pytest.fixture
def rows(small_records):
    x, y = small_records
    return tf.data.Dataset.from_tensor_slices((x.astype("float32") / 255, y))


def counts(model):
    return [(entry.steps, entry.passes) for entry in model.privacy_ledger.entries]


@pytest.mark.parametrize(
    "make",
    [
        lambda d: d.repeat(20).batch(20),
        lambda d: d.batch(20).repeat(2),
        lambda d: d.repeat(2).shuffle(60).cache().batch(20).prefetch(1),
        lambda d: d.apply(tf.data.experimental.shuffle_and_repeat(60, 3)).batch(20),
        lambda d: d.take(5).concatenate(d.take(5).repeat(3)).batch(20),
    ],
)
def test_a_repeated_data_set_is_refused_before_a_step(make, rows):
    model = compiled()
    with pytest.raises(InputError, match="x must not be repeated"):
        model.fit(make(rows), verbose=0)
    assert counts(model) == []


LONG = {
    "twice": lambda d: d.concatenate(d).batch(20),
    "inside": lambda d: tf.data.Dataset.range(20).flat_map(lambda i: d).batch(20),
    "inner_repeat": lambda d: tf.data.Dataset.range(1).flat_map(lambda i: d.repeat(9)).batch(20),
    "generator": lambda d: tf.data.Dataset.from_generator(
        lambda: (b for _ in range(9) for b in d.batch(20)),
        output_signature=d.batch(20).element_spec,
    ),
    "uneven": lambda d: d.concatenate(d.take(3)).batch(7),
}


@pytest.mark.parametrize("name", LONG)
def test_more_rows_than_a_pass_has_are_refused_before_their_step(name, rows):
    model, seen = compiled(), []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(batch)

    with pytest.raises(InputError, match="at most num_examples=60 rows in a pass") as caught:
        model.fit(LONG[name](rows), verbose=0, callbacks=[Watch()])
    assert "\n" not in str(caught.value)
    allowed = 8 if name == "uneven" else 3  # whole batches within 60 rows
    assert len(seen) <= allowed
    assert model.private_trainer.state.steps_taken == len(seen)
    assert all(passes == 1 and steps <= allowed for steps, passes in counts(model))


def test_without_the_count_twenty_passes_were_one(rows, monkeypatch):
    """The faulty twin: what a pass over sixty steps would say of itself."""
    monkeypatch.setattr(external.ExternalBatches, "_check_rows", lambda self, rows: True)
    monkeypatch.setattr(external.ExternalBatches, "check_whole_pass", lambda self: None)
    model = compiled(epochs=1)
    model.fit(LONG["inside"](rows), verbose=0)
    assert counts(model) == [(60, 1)]


def test_each_pass_is_counted_anew_over_epochs_and_fits(rows):
    model = compiled(epochs=4)
    data = rows.cache().shuffle(60).batch(20)
    model.fit(data, epochs=2, verbose=0)
    model.fit(data, epochs=1, verbose=0)
    model.fit(rows.repeat(1).batch(16, drop_remainder=True), epochs=1, verbose=0)
    assert counts(model) == [(12, 4)]


def test_a_pass_that_is_much_shorter_than_planned_is_refused_at_its_end(rows):
    model = compiled()
    model.fit(rows.take(40).batch(20), verbose=0)
    with pytest.raises(InputError, match="num_examples must be the number of rows in a pass"):
        model.fit(rows.take(39).batch(20), verbose=0)
    assert counts(model) == [(4, 2)]  # what was released is on record


def test_a_part_of_a_pass_cannot_be_asked_for(rows):
    with pytest.raises(InputError, match="steps_per_epoch is the plan's"):
        compiled().fit(rows.batch(20), steps_per_epoch=1, verbose=0)


def test_a_pass_that_was_begun_and_took_no_step_keeps_the_ledger_whole(rows):
    class Crash(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            raise KeyboardInterrupt

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True

    model = compiled(epochs=9)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            model.fit(rows.batch(20), verbose=0, callbacks=[Crash()])
    model.fit(rows.batch(20), verbose=0, callbacks=[Stop()])
    assert counts(model) == [(1, 1)]


def test_bad_labels_count_as_zero_there_too(small_records):
    x, y = small_records
    bad = y.copy()
    bad[[3, 30]] = [77, -1]
    assert np.isin(bad, [77, -1]).sum() == 2
    data = tf.data.Dataset.from_tensor_slices((x.astype("float32") / 255, bad)).batch(20)
    model = compiled()
    made = external.ExternalBatches(model, model.private_trainer.plan, data, None)
    batches = [tuple(part.numpy() for part in batch) for batch in made.data]
    present = np.concatenate([batch[3] for batch in batches])
    labels = np.concatenate([batch[1] for batch in batches])
    np.testing.assert_array_equal(np.flatnonzero(~present), [3, 30])
    np.testing.assert_array_equal(labels, np.where(present, y, 0))
    model.fit(data, verbose=0)
    assert counts(model) == [(3, 1)]
