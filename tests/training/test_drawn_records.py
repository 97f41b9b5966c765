"""Every record is looked at when it is drawn: what cannot be one is named, NaN counts as none."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.training.sources import PyDatasetSource, source_for

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Batches(keras.utils.PyDataset):
    """Batches of given sizes over arrays."""

    def __init__(self, x, y, sizes):
        super().__init__()
        self.x, self.y, self.ends = x, y, np.cumsum([0, *sizes])

    def __len__(self):
        return len(self.ends) - 1

    def __getitem__(self, index):
        mine = slice(self.ends[index], self.ends[index + 1])
        return self.x[mine], self.y[mine]


def by_seven(x, y):
    return Batches(x, y, [7] * 8 + [4])


def a_network():
    layers = keras.layers
    return keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(3)])


def compiled(batch_size=20, seed=None, **changes):
    keras.utils.set_random_seed(1)
    model = kd.make_private(a_network())
    plan = kd.PrivacyPlan(60, batch_size, 1, 1e-4, noise_multiplier=1.0, seed=seed, **changes)
    model.compile(kd.DPKerasSGDOptimizer(plan, 0.1), LOSS)
    return model


def altered(x, y, row, image=None, label=None):
    """The records with one of them altered, as pairs."""
    records = [[a, b] for a, b in zip(x, y, strict=True)]
    records[row][0] = records[row][0] if image is None else image
    records[row][1] = records[row][1] if label is None else label
    return records


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 1.5}, "labels must be of one type, got int64 and another one"),
        ({"label": [1, 0, 0]}, "labels must have one shape"),
        ({"image": np.zeros((4, 5, 1), "uint8")}, "images must have one shape"),
        ({"image": np.full((4, 4, 1), 0.5)}, "images must be of one type, got uint8 and"),
    ],
)
def test_every_record_is_checked_as_it_is_drawn(change, message, small_records):
    records = altered(*small_records, 41, **change)
    source = source_for(a_network(), records, None)
    source.take(np.arange(41))
    with pytest.raises(InputError, match=message) as caught:
        source.take(np.array([50, 41, 3]))
    assert "\n" not in str(caught.value)
    model = compiled(batch_size=60)
    with pytest.raises(InputError, match=message) as caught:
        model.fit(records, verbose=0)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("label", [3, -2])
def test_a_label_outside_the_classes_takes_its_record_out(label, small_records):
    x, y = small_records
    batches = by_seven(x, np.where(np.arange(60) == 41, label, y))
    for records in (altered(x, y, 41, label=label), batches):
        source = source_for(a_network(), records, None)
        found = source.take(np.array([59, 41, 3]))
        np.testing.assert_array_equal(found.present, [True, False, True])
        np.testing.assert_array_equal(found.y, [y[59], 0, y[3]])


def test_batches_that_change_are_refused(small_records):
    x, y = small_records

    class Changing(Batches):
        """Its fourth batch is of another kind."""

        def __getitem__(self, index):
            images, labels = super().__getitem__(index)
            return self.change(images, labels) if index == 3 else (images, labels)

    for change, message in (
        (lambda a, b: (a[:, :3], b), "images must have one shape"),
        (lambda a, b: (a / 2, b), "images must be of one type"),
        (lambda a, b: (a, b[:-1]), "x must give as many images as labels"),
    ):
        data = Changing(x, y, [7] * 8 + [4])
        data.change = change
        source = PyDatasetSource(data)
        source.take(np.arange(21))
        with pytest.raises(InputError, match=message):
            source.take(np.array([22, 3]))
    with pytest.raises(InputError, match="its first batch holds none"):
        PyDatasetSource(Batches(x, y, [0, 7]))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_drawn_record_that_is_not_finite_counts_as_none(value, small_records):
    """An end that it brings about would tell of it: it trains to what a record left out does."""
    x, y = small_records[0].astype("float32"), small_records[1]
    odd = x[41].copy()
    odd[2, 1] = value
    sampler = compiled(seed=5).private_trainer
    drawn = [sampler.plan.sampler(sampler.keys.sampling).sample(60, step) for step in range(3)]
    assert any(41 in rows for rows in drawn)
    model = compiled(seed=5)
    model.fit(altered(x, y, 41, image=odd), verbose=0)
    weights = model.get_weights()
    assert all(np.isfinite(w).all() for w in weights)
    blank = compiled(seed=5, sensitivity=kd.FixedSensitivity(1.0))
    blank.fit(altered(x, y, 41, image=odd), verbose=0)
    masked = compiled(seed=5, sensitivity=kd.FixedSensitivity(1.0))
    step = masked.private_trainer

    def without(data, take_step=step.train_step):
        images, labels, weights, present = data
        here = present & tf.reduce_all(tf.math.is_finite(images), axis=[1, 2, 3])
        parts = (images, labels, weights, present)
        return take_step(tuple(tf.boolean_mask(part, here) for part in parts))

    step.train_step = without
    masked.fit(altered(x, y, 41, image=odd), verbose=0)
    for found, expected in zip(blank.get_weights(), masked.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
