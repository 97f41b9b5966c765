"""What one record holds ends no run and shows in no message: it counts as zero, or not at all."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.gradients import per_example
from keras_dpvit.training import batch_selection
from keras_dpvit.training.adapted import adapted_statistics
from keras_dpvit.training.labels import ClassNumbers
from keras_dpvit.training.sources import ArraySource, source_for

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Records:
    """A random-access source."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"image": self.x[index], "label": self.y[index]}


def compiled(first=(), **changes):
    keras.utils.set_random_seed(1)
    layers = [keras.Input((4, 4, 1)), *first, keras.layers.Flatten(), keras.layers.Dense(3)]
    model = kd.make_private(keras.Sequential(layers))
    arguments = {"num_examples": 60, "batch_size": 60, "epochs": 1, "delta": 1e-4,
                 "noise_multiplier": 1.0, "seed": 5}  # fmt: skip
    plan = kd.PrivacyPlan(**{**arguments, **changes})
    model.compile(kd.DPKerasSGDOptimizer(plan, 0.1), LOSS)
    return model


def trained(x, y, source=lambda x, y: (x, y), **changes):
    model = compiled(**changes)
    model.fit(*source(x, y), verbose=0)
    assert model.private_trainer.state.steps_taken == model.private_trainer.plan.steps
    return model.get_weights()


@pytest.fixture
def records(small_records):
    x, y = small_records
    return x.astype("float32") / 255, y


SPOILS = {
    "nan_pixel": lambda x, y, i: (np.where(np.arange(60)[:, None, None, None] == i, np.nan, x), y),
    "infinite": lambda x, y, i: (np.where(np.arange(60)[:, None, None, None] == i, np.inf, x), y),
    "label_above": lambda x, y, i: (x, np.where(np.arange(60) == i, 3, y)),
    "label_below": lambda x, y, i: (x, np.where(np.arange(60) == i, -7, y)),
    "label_column": lambda x, y, i: (x, np.where(np.arange(60) == i, 99, y)[:, None]),
}


def as_source(x, y):
    return (Records(x, y),)


@pytest.fixture(scope="module")
def without_one():
    """Weights after the step without record 41; once, for all that shall be like it."""
    made = []

    def weights(x, y):
        if not made:
            rest = np.arange(60) != 41
            made.append(trained(x[rest], y[rest], sensitivity=kd.FixedSensitivity()))
        return made[0]

    return weights


@pytest.mark.parametrize(
    ("name", "form"),
    [*((name, lambda x, y: (x, y)) for name in SPOILS),
     ("nan_pixel", as_source), ("label_above", as_source)],
)  # fmt: skip
def test_a_bad_record_trains_as_one_without_a_gradient(name, form, records, without_one):
    """All sixty are in the step, so that the run without the record differs by it alone."""
    x, y = SPOILS[name](*records, 41)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = trained(x.astype("float32"), y, form, sensitivity=kd.FixedSensitivity())
    for a, b in zip(found, without_one(*records), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_label_taken_for_a_class_would_be_seen(records, without_one):
    """The faulty twin: label 0 in place of the bad one, and the record counted."""
    x, y = records
    wrong = trained(x, np.where(np.arange(60) == 41, 0, y), sensitivity=kd.FixedSensitivity())
    assert np.abs(wrong[0] - without_one(x, y)[0]).max() > 1e-5


@pytest.mark.parametrize("bad", [5, 6, 10])
def test_no_record_decides_a_refusal_alone_in_small_data(bad, records):
    """Up to five are passed over in any data; of sixty, six are more than 5 %."""
    x, y = records
    y = np.where(np.arange(60) < bad, 3, y)
    if bad <= 5:
        found = source_for(compiled(), x, y).take(np.arange(60))
        np.testing.assert_array_equal(found.present, np.arange(60) >= bad)
        assert found.y.max() == 2
        return
    with pytest.raises(InputError, match=r"more than 5 % of the labels lie outside 0..2") as caught:
        source_for(compiled(), x, y)
    for told in (str(bad), "60", "3,"):
        assert told not in str(caught.value)


def test_five_percent_are_passed_over_in_large_data():
    y = np.zeros(1000, int)
    y[:50] = 9
    x = np.zeros((1000, 4, 4, 1), "float32")
    assert source_for(compiled(), x, y).take(np.arange(100)).present.sum() == 50
    y[50] = 9
    with pytest.raises(InputError, match="more than 5 %"):
        source_for(compiled(), x, y)


def test_a_source_whose_labels_are_all_of_another_kind_is_refused_at_its_first_sample(records):
    x, y = records
    with pytest.raises(InputError, match="more than 50 % of the labels lie outside") as caught:
        compiled().fit(Records(x, y + 3), verbose=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spoil",
    [{"image": np.zeros((5, 7, 1), "float32")}, {"label": np.array([1, 2])},
     {"image": np.zeros((4, 4, 1), "complex64")}, {"label": 1.5}],
)  # fmt: skip
def test_errors_about_a_record_do_not_name_it(spoil, records):
    class Spoiled(Records):
        def __getitem__(self, index):
            return {**super().__getitem__(index), **(spoil if index == 41 else {})}

    source = source_for(compiled(), Spoiled(*records), None)
    with pytest.raises(InputError) as caught:
        source.take(np.arange(60))
    for told in ("41", "7", "complex", "float64", "(2,)"):
        assert told not in str(caught.value)


@pytest.mark.parametrize("records_given", [0, 3, 500])
def test_no_number_of_records_shows(records_given, records, capsys):
    x, y = (np.resize(a, (records_given, *a.shape[1:])) for a in records)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trained(x, y)
    assert not any(str(records_given) in line for line in capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros((60, 4, 4, 1), object), np.zeros(60, int)),
        (np.zeros((60, 4, 4, 1), "complex64"), np.zeros(60, int)),
        (np.zeros((60, 4, 3, 1)), np.zeros(60, int)),
        (np.zeros((60, 4, 4, 1)), np.zeros(59, int)),
    ],
)
def test_a_wrong_schema_is_refused(x, y):
    with pytest.raises(InputError) as caught:
        compiled().fit(x, y, verbose=0)
    assert "59" not in str(caught.value)


def test_targets_of_a_single_output_are_numbers_and_a_sparse_loss_numbers_classes(records):
    model = compiled()
    network = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    x, y = records
    found = [
        source_for(*arguments).numbers[0].classes
        for arguments in (
            (network, x, y),  # counts, or 0 and 1
            (model, x, y.astype("float32")),
            (model, x, np.eye(3, dtype=int)[y]),
        )
    ]
    assert found == [None, 3, None]


def places_of(source, **changes):
    """Rows, labels and presence of a step's microbatches, and each by microbatch."""
    plan = kd.PrivacyPlan(
        60, 20, 1, 1e-4, 1.0, microbatch_size=4, seed=1, sensitivity=kd.FixedSensitivity()
    )
    step = next(batch_selection.sampled_batches(plan, source, bytes(32), lambda: 0))
    x, y, _, present = step
    return [part.reshape(plan.num_microbatches, -1, *part.shape[1:]) for part in (x, y, present)]


def test_a_microbatch_is_filled_with_its_own_first_record_only(records):
    x = np.arange(1.0, 61)[:, None, None, None] * np.ones((1, 4, 4, 1), "float32")
    y = np.arange(60) % 3
    y[[0, 7]] = 5
    source = ArraySource(x, y)
    source.numbers = [ClassNumbers(3)]
    images, labels, present = places_of(source)
    assert present.any()
    assert not present.all()
    for rows, own, there in zip(images[..., 0, 0, 0], labels, present, strict=True):
        assert not {1.0, 8.0} & set(rows)  # those of bad labels leave no trace
        if not there.any():
            assert not rows.any()
            assert not own.any()
            continue
        first = rows[there][0]
        np.testing.assert_array_equal(rows[~there], first)
        np.testing.assert_array_equal(own, (rows.astype(int) - 1) % 3)
    # One record in all of them, as a filling for each, would spoil every microbatch by a NaN.
    fillings = [rows[~there][0] for rows, there in zip(images[..., 0, 0, 0], present, strict=True)]
    assert len(set(fillings)) > 1


def test_an_empty_sample_is_filled_with_zeros():
    source = ArraySource(np.ones((0, 4, 4, 1), "float32"), np.ones(0, int))
    images, labels, present = places_of(source)
    assert not images.any()
    assert not labels.any()
    assert not present.any()


def test_a_nan_in_one_microbatch_leaves_the_others(records):
    """As filling of other microbatches it would drop them too, and move the sum by them all."""
    x, y = records
    plan = {"batch_size": 20, "microbatch_size": 4, "sensitivity": kd.FixedSensitivity(),
            "noise_multiplier": 0.0}  # fmt: skip
    whole = np.concatenate([w.ravel() for w in trained(x, y, **plan, epochs=1 / 3)])
    sampler = compiled(**plan).private_trainer
    row = sampler.plan.sampler(sampler.keys.sampling).sample(60, 0)[0]
    spoiled = x.copy()
    spoiled[row] = np.nan
    start = np.concatenate([w.ravel() for w in compiled(**plan).get_weights()])
    moved = np.concatenate([w.ravel() for w in trained(spoiled, y, **plan, epochs=1 / 3)])
    assert 0 < np.linalg.norm(moved - whole) <= 0.1 * 1.0 / 5 * (1 + 1e-5)  # one unit of norm 1
    assert np.linalg.norm(moved - start) > 1e-3


def adapted_layer():
    layer = keras.layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(5.0, 2.0, (50, 4, 4, 1)).astype("float32"))
    return layer


def test_adapted_statistics_open_the_statement(records):
    model = compiled([adapted_layer()])
    model.fit(*records, verbose=0)
    (entry,) = model.privacy_ledger.entries
    assert "holds statistics that adapt() computed" in entry.invalidated_by[0]
    assert "adapt() computed" in " ".join(model.privacy_statement().split()).split(". ")[0]


@pytest.mark.parametrize(
    "make",
    [lambda: keras.layers.Normalization(mean=3.0, variance=2.0), keras.layers.Normalization,
     lambda: keras.layers.Rescaling(0.5)],
)  # fmt: skip
def test_constants_and_layers_without_statistics_are_no_matter(make, records):
    model = compiled([make()])
    model.fit(*records, verbose=0)
    assert model.privacy_ledger.entries[0].invalidated_by == ()


def test_layers_adapted_after_they_were_compiled_are_found_too(records):
    layer = keras.layers.Normalization()
    model = compiled([layer])
    layer.adapt(records[0])
    model.fit(*records, verbose=0)
    assert model.privacy_ledger.entries[0].invalidated_by


def test_every_layer_that_adapts_is_known():
    class Holder:
        def __init__(self, *layers):
            self._flatten_layers = lambda **_: layers

    given = [keras.layers.Discretization(bin_boundaries=[0.0, 1.0]),
             keras.layers.StringLookup(vocabulary=["a"]),
             keras.layers.IntegerLookup(vocabulary=[1]),
             keras.layers.TextVectorization(vocabulary=["a"]), keras.layers.StringLookup(),
             keras.layers.Discretization(num_bins=3)]  # fmt: skip
    assert adapted_statistics(Holder(*given)) == ()
    adapted = [keras.layers.Discretization(num_bins=3), keras.layers.StringLookup(),
               keras.layers.IntegerLookup(), keras.layers.TextVectorization()]  # fmt: skip
    for layer, data in zip(adapted, (np.arange(9.0), ["a"], [1, 2], ["a b"]), strict=True):
        layer.adapt(data)
    assert len(adapted_statistics(Holder(*adapted))) == len(adapted)
    others = {name for name in dir(keras.layers) if hasattr(getattr(keras.layers, name), "adapt")}
    known = {"Discretization", "StringLookup", "IntegerLookup", "TextVectorization"}
    assert others - known - {"Normalization"} <= {"FeatureSpace", "HashedCrossing", "Hashing"}


def test_a_disclosure_stands_in_the_limits(records):
    model = compiled()
    model.disclose("The number of records is taken as public.")
    model.disclose("The number of records is taken as public.")
    model.fit(*records, verbose=0)
    (entry,) = model.privacy_ledger.entries
    assert entry.not_covered.count("The number of records is taken as public.") == 1
    assert "The number of records is taken as public." in model.privacy_statement()


def test_one_filling_for_all_microbatches_would_spoil_them_all(records, monkeypatch):
    """The faulty twin: the sample's first record in every empty place, and no row made zero."""

    def faulty(places, present):
        return np.where(present, places, 0)

    x, y = records
    plan = {"batch_size": 20, "microbatch_size": 4, "sensitivity": kd.FixedSensitivity(),
            "noise_multiplier": 0.0, "epochs": 1 / 3}  # fmt: skip
    whole = np.concatenate([w.ravel() for w in trained(x, y, **plan)])
    sampler = compiled(**plan).private_trainer
    spoiled = x.copy()
    spoiled[sampler.plan.sampler(sampler.keys.sampling).sample(60, 0)[0]] = np.nan
    monkeypatch.setattr(batch_selection, "_filled", faulty)
    monkeypatch.setattr(per_example, "_cleaned", lambda call, usable: call)
    moved = np.concatenate([w.ravel() for w in trained(spoiled, y, **plan)])
    assert np.linalg.norm(moved - whole) > 0.1 * 1.0 / 5 * 1.01


def test_the_norm_of_a_record_of_infinite_loss_is_counted_as_zero(records):
    """Its gradient is finite, and above the bound as everybody's: the count must not have it."""
    x, _ = records

    def loss(y_true, y_pred):
        infinite = tf.where(y_true == 2, np.inf, 0.0)
        return tf.reduce_sum(y_pred**2, axis=-1) + tf.reshape(infinite, (-1,))

    def below_count(labels):
        model = compiled(sensitivity=kd.DynamicSensitivity(initial=1e-3))
        model.compile(kd.DPKerasSGDOptimizer(model.private_trainer.plan, 0.1), loss)
        trainer = model.private_trainer
        trainer.prepare(64)
        present = np.ones(len(labels), bool)
        found = trainer.step.clipped_sums(
            tf.constant(x[: len(labels)]),
            tf.constant(labels),
            tf.ones(len(labels)),
            present,
            trainer.state.sensitivity,
        )
        return float(found[1])

    ordinary = np.zeros(20, "int64")
    # From one half on one side of the bound to one half on the other.
    assert abs(below_count(np.append(ordinary[1:], 2)) - below_count(ordinary)) == pytest.approx(
        1.0
    )
