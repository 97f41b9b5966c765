"""Where records come from: every source gives the same training, and says what it cannot do."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.privacy.ledger import PrivacyLedger
from keras_dpvit.training.sources import (
    ArraySource,
    PyDatasetSource,
    RandomAccessSource,
    source_for,
)

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Records:
    """What tfds.data_source looks like: a length, and a mapping by number."""

    def __init__(self, x, y):
        self.x, self.y, self.read = x, y, []

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        self.read.append(index)
        return {"image": self.x[index], "label": self.y[index], "id": f"record {index}"}


class Batches(keras.utils.PyDataset):
    """Batches of given sizes over arrays."""

    def __init__(self, x, y, sizes):
        super().__init__()
        self.x, self.y, self.read = x, y, []
        self.ends = np.cumsum([0, *sizes])

    def __len__(self):
        return len(self.ends) - 1

    def __getitem__(self, index):
        self.read.append(index)
        mine = slice(self.ends[index], self.ends[index + 1])
        return self.x[mine], self.y[mine]


def by_seven(x, y):
    return Batches(x, y, [7] * 8 + [4])


SOURCES = {
    "arrays": ArraySource,
    "pairs": lambda x, y: RandomAccessSource(list(zip(x, y, strict=True))),
    "lists": lambda x, y: RandomAccessSource([[a, int(b)] for a, b in zip(x, y, strict=True)]),
    "mappings": lambda x, y: RandomAccessSource(
        [{"image": a, "label": b} for a, b in zip(x, y, strict=True)]
    ),
    "other_mappings": lambda x, y: RandomAccessSource(
        [types.MappingProxyType({"image": a, "label": b}) for a, b in zip(x, y, strict=True)]
    ),
    "own_class": lambda x, y: RandomAccessSource(Records(x, y)),
    "batches": lambda x, y: PyDatasetSource(by_seven(x, y)),
    "whole_batches": lambda x, y: PyDatasetSource(Batches(x, y, [20] * 3)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_rows_are_taken_with_their_labels(name, small_records):
    x, y = small_records
    source = SOURCES[name](x, y)
    assert source.num_records == 60
    shuffled = np.random.default_rng(3).permutation(60)
    for rows in ([], [0], [59], [3, 6, 7, 20, 56, 59], range(60), shuffled, [8, 3, 8, 59, 2]):
        rows = np.array(rows, int)
        found = source.take(rows)
        images, labels = found.x, found.y
        assert found.present.all()
        assert found.weights.tolist() == [1.0] * len(rows)
        np.testing.assert_array_equal(images, x[rows])
        np.testing.assert_array_equal(labels, y[rows])
        assert (images.dtype, labels.dtype) == (x.dtype, y.dtype)
    images, labels = source.example().x, source.example().y
    np.testing.assert_array_equal(images, x[:1])
    np.testing.assert_array_equal(labels, y[:1])


def test_a_batch_is_read_once_a_step_and_others_not_at_all(small_records):
    data = by_seven(*small_records)
    source = PyDatasetSource(data)
    data.read.clear()
    source.take(np.array([0, 3, 6, 21, 22, 59]))
    assert data.read == [0, 3, 8]


@pytest.mark.parametrize("sizes", [[7, 5, 7], [7, 9, 4], [7, 7, 9]])
def test_batches_of_several_sizes_are_refused(sizes, small_records):
    x, y = small_records
    with pytest.raises(InputError, match="batches of one size"):
        PyDatasetSource(Batches(x, y, sizes)).take(np.arange(sum(sizes[:2])))


def test_what_cannot_be_read_is_refused(small_records):
    x, y = small_records
    with pytest.raises(InputError, match="at least one record"):
        RandomAccessSource([])
    with pytest.raises(InputError, match="at least one batch"):
        PyDatasetSource(Batches(x, y, []))
    for records in (list(x), [{"image": x[0]}], [(x[0], 1, 1.0, 0)], "ab"):
        with pytest.raises(InputError, match="x must give records as"):
            RandomAccessSource(records)
    mixed = RandomAccessSource([(x[0], 0), (x[0][:2], 1)])
    with pytest.raises(InputError, match="images must have one shape"):
        mixed.take(np.arange(2))

    class Weighted(Batches):
        def __getitem__(self, index):
            return (*super().__getitem__(index), np.ones(7), 0)

    with pytest.raises(InputError, match=r"batches as \(x, y\) or \(x, y, weights\)"):
        PyDatasetSource(Weighted(x, y, [7, 7]))


def a_network(shape=(4, 4, 1)):
    layers = keras.layers
    return keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(3)])


def compiled(shape=(4, 4, 1), **changes):
    arguments = {
        "num_examples": 60, "batch_size": 20, "epochs": 1, "delta": 1e-4, "noise_multiplier": 1.0,
    }  # fmt: skip
    keras.utils.set_random_seed(1)
    model = kd.make_private(a_network(shape))
    plan = kd.PrivacyPlan(**{**arguments, **changes})
    model.compile(kd.DPKerasSGDOptimizer(plan, 0.1), LOSS)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x, y: (dataset(x, y).repeat(), None), "sampling='external'"),
        (lambda x, y: (((a, b) for a, b in zip(x, y, strict=True)), None), "cannot sample from"),
        (lambda x, y: (Records(x, y), y), "y must be left out"),
        (lambda x, y: (by_seven(x, y), y), "y must be left out"),
        (lambda x, y: (x, None), "fit needs arrays x and y"),
        (lambda x, y: (x[:, :3], y), "images must be 4x4x1"),
        (lambda x, y: (Records(x[:, :3], y), None), "images must be 4x4x1"),
        (lambda x, y: (by_seven(x[:, :3], y), None), "images must be 4x4x1"),
        (lambda x, y: (x, y + 1), "labels must lie in 0..2"),
        (lambda x, y: (x, y[:-1]), "images and labels must have the same length"),
    ],
)
def test_what_a_plan_cannot_sample_from_is_refused(make, message, small_records):
    with pytest.raises(InputError, match=message) as caught:
        source_for(a_network(), *make(*small_records))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def on_arrays():
    """Weights after three steps on the arrays, by the plan's further arguments."""
    made = {}

    def weights(x, y, **changes):
        key = tuple(sorted(changes.items()))
        if key not in made:
            model = compiled(seed=5, **changes)
            model.fit(x, y, verbose=0)
            made[key] = model.get_weights()
        return made[key]

    return weights


@pytest.mark.parametrize("make", [Records, by_seven], ids=["records", "batches"])
@pytest.mark.parametrize(
    "changes", [{}, {"sampling": "shuffled"}, {"microbatch_size": 4}], ids=["", "shuffled", "units"]
)
def test_training_is_bit_for_bit_that_on_arrays(make, changes, small_records, on_arrays):
    model = compiled(seed=5, **changes)
    model.fit(make(*small_records), verbose=0)
    assert sum(entry.steps for entry in model.privacy_ledger.entries) == 3
    for found, expected in zip(
        model.get_weights(), on_arrays(*small_records, **changes), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_only_sampled_records_are_read(small_records):
    records = Records(*small_records)
    model = compiled(seed=5, batch_size=2, epochs=0.1)
    model.fit(records, verbose=0)
    trainer = model.private_trainer
    assert trainer.state.steps_taken == 3
    sampler = trainer.plan.sampler(trainer.keys.sampling)
    drawn = [set(sampler.sample(60, step)) for step in range(12)]
    read = set(records.read)
    assert set.union(*drawn[:3]) <= read
    # The first seven and the last show what records look like and are tried for independence; a
    # few samples are drawn ahead of their step.
    assert read <= set.union({*range(7), 59}, *drawn)
    assert len(read) < 30


@pytest.mark.parametrize("sampling", ["poisson", "shuffled"])
def test_every_step_trains_on_its_own_sample_over_several_fits(sampling):
    """A sample taken early or twice would cost more than the ledger counts."""
    x = np.arange(60 * 16).reshape(60, 4, 4, 1) // 16 * np.ones((), "float32")
    model = compiled(sampling=sampling, epochs=4, seed=5)
    trainer, seen = model.private_trainer, []
    take_step = trainer.train_step

    def watched(data):
        tf.py_function(
            lambda rows: seen.append(rows.numpy().astype(int)), [data[0][:, 0, 0, 0]], []
        )
        return take_step(data)

    trainer.train_step = watched
    for epochs in (1, 2, 1):
        model.fit(x, np.zeros(60, int), epochs=epochs, verbose=0)
    sampler = trainer.plan.sampler(trainer.keys.sampling)
    assert len(seen) == trainer.state.steps_taken == 12
    for step, rows in enumerate(seen):
        np.testing.assert_array_equal(rows, sampler.sample(60, step))


def test_a_data_source_of_tfds_trains(tmp_path):
    builder = tfds.testing.DummyMnist(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    source = builder.as_data_source("train")
    keras.utils.set_random_seed(1)
    network = keras.Sequential(
        [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    model = kd.make_private(network)
    model.compile(kd.DPKerasSGDOptimizer(kd.PrivacyPlan(20, 10, 1, 1e-3, 1.0)), LOSS)
    model.fit(source, verbose=0)
    assert model.privacy_ledger.entries[0].steps == 2


def words(model):
    return " ".join(model.privacy_statement().split())


def test_a_shuffled_plan_trains_and_counts_its_passes(small_records):
    model = compiled(sampling="shuffled", epochs=2)
    before = model.get_weights()[0]
    history = model.fit(*small_records, epochs=5, verbose=0)
    (entry,) = model.privacy_ledger.entries
    assert (entry.sampling, entry.steps, entry.passes) == ("fixed_size", 6, 2)
    assert "2 passes in shuffled batches of fixed size, not amplified" in words(model)
    assert "REPLACE_SPECIAL" in words(model)
    plan = model.private_trainer.plan
    one, two = (PrivacyLedger(plan.entries(steps)).epsilon(1e-4) for steps in (3, 6))
    assert history.history["epsilon"] == pytest.approx([one, two])
    assert np.abs(model.get_weights()[0] - before).max() > 0


@pytest.mark.parametrize("records", [40, 80])
def test_a_shuffle_of_other_records_than_planned_is_refused(records, small_records):
    """With fewer, steps that the ledger takes for one pass would be several."""
    x, y = (np.resize(a, (records, *a.shape[1:])) for a in small_records)
    with pytest.raises(InputError, match="num_examples must be the number of records"):
        compiled(sampling="shuffled").fit(x, y, verbose=0)


def test_a_shuffled_run_cut_off_without_a_seed_leaves_out_the_rest_of_its_pass(
    small_records, tmp_path
):
    class Crash(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                raise KeyboardInterrupt

    class Count(keras.callbacks.Callback):
        steps = 0

        def on_train_batch_begin(self, batch, logs=None):
            self.steps += 1

    arguments = {"epochs": 2, "verbose": 0, "checkpoint_dir": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        compiled(sampling="shuffled", epochs=2).fit(
            *small_records, callbacks=[Crash()], **arguments
        )
    model, count = compiled(sampling="shuffled", epochs=2), Count()
    model.fit(*small_records, callbacks=[count], **arguments)
    assert count.steps == 3  # a whole pass under the new key
    assert [(e.steps, e.passes) for e in model.privacy_ledger.entries] == [(6, 2)]


def dataset(x, y, size=7):
    return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(60).batch(size)


def external(**changes):
    return compiled(sampling="external", **changes)


def test_batches_made_elsewhere_train_and_each_epoch_is_a_pass(small_records):
    model = external(epochs=1.5)
    before = model.get_weights()[0]
    data = dataset(*small_records)
    model.fit(data, epochs=1, verbose=0)
    assert [(e.steps, e.passes) for e in model.privacy_ledger.entries] == [(9, 1)]
    history = model.fit(data, epochs=5, verbose=0)
    assert len(history.history["loss"]) == 1  # ceil(1.5) passes are two
    assert [(e.steps, e.passes) for e in model.privacy_ledger.entries] == [(18, 2)]
    plan = model.private_trainer.plan
    assert model.privacy_ledger.epsilon(1e-4) == pytest.approx(plan.epsilon())
    assert "2 passes over batches made outside of this package" in words(model)
    assert np.abs(model.get_weights()[0] - before).max() > 0
    with pytest.raises(InputError, match="spent"):
        model.fit(data, verbose=0)


def test_a_pass_that_breaks_off_counts_whole(small_records):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True

    model = external(epochs=3)
    for passes in (1, 2):
        model.fit(dataset(*small_records), verbose=0, callbacks=[Stop()])
        assert [e.passes for e in model.privacy_ledger.entries] == [passes]
    model.compile(kd.DPKerasSGDOptimizer(model.private_trainer.plan, 0.1), LOSS)
    model.fit(dataset(*small_records), verbose=0)
    assert [e.passes for e in model.privacy_ledger.entries] == [2, 1]


def test_what_an_external_plan_cannot_count_is_refused(small_records, tmp_path):
    x, y = small_records
    data = dataset(x, y)
    model = external()
    four = tf.data.Dataset.from_tensor_slices((x, y, y, y)).batch(20)
    for given, message in (
        ((x, y), "needs a tf.data.Dataset"),
        ((data, y), "needs a tf.data.Dataset"),
        ((Records(x, y),), "needs a tf.data.Dataset"),
        ((by_seven(x, y),), "needs a tf.data.Dataset"),
        ((data.repeat(),), "x must have an end"),
        ((four,), r"\(images, labels\) or \(images, labels, weights\)"),
        ((data.take(0),), "at least one batch"),
        ((dataset(x[:, :3], y),), "images must be 4x4x1"),
    ):
        with pytest.raises(InputError, match=message):
            model.fit(*given, verbose=0)
    with pytest.raises(InputError, match="checkpoint_dir needs a plan that samples records itself"):
        model.fit(data, verbose=0, checkpoint_dir=tmp_path)
    assert model.privacy_ledger.entries == ()
