"""tf.data pipelines of arrays and maps, sampled by the plan as arrays are."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.training.dataset_source import DatasetSource
from keras_dpvit.training.sources import ArraySource

RECORDS = 60
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(scope="module")
def digits(digit_images):
    return digit_images.x_train[:RECORDS], digit_images.y_train[:RECORDS].astype("int64")


def scaled(image, label):
    return tf.cast(image, tf.float32) / 255, label


PIPELINES = {
    "plain": lambda d: d.map(scaled),
    "as people write it": lambda d: (
        d.map(scaled, num_parallel_calls=2).cache().shuffle(50).batch(16).prefetch(2)
    ),
    "two maps": lambda d: d.map(lambda a, b: (a, b)).map(scaled),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_records_are_taken_by_number(digits, name):
    x, y = digits
    source = DatasetSource(PIPELINES[name](tf.data.Dataset.from_tensor_slices((x, y))))
    assert source.num_records == RECORDS
    expected = ArraySource(x.astype("float32") / 255, y)
    for rows in ([], [0], [59, 3, 3], range(60)):
        found, own = (s.take(np.array(rows, int)) for s in (source, expected))
        np.testing.assert_allclose(found.x, own.x, rtol=1e-6)
        np.testing.assert_array_equal(found.y, own.y)
        assert (found.x.dtype, found.y.dtype) == (own.x.dtype, own.y.dtype)


def test_a_training_is_that_of_arrays(digits):
    x, y = digits
    pipeline = PIPELINES["as people write it"](tf.data.Dataset.from_tensor_slices((x, y)))
    ends, start = [], None
    for data in ((x.astype("float32") / 255, y), (pipeline, None)):
        network = keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
        )
        start = network.get_weights() if start is None else start
        network.set_weights(start)
        model = kd.make_private(network)
        plan = kd.PrivacyPlan(RECORDS, 20, 2, 1e-3, noise_multiplier=1.0, seed=3)
        model.compile(kd.DPKerasSGDOptimizer(plan, 0.1), SPARSE)
        model.fit(*data, epochs=2, verbose=0)
        ends.append(model.get_weights())
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_weights_and_several_inputs(digits):
    x, y = digits
    own = np.linspace(0, 2, RECORDS)
    parts = ({"image": x, "age": y}, y, own)
    source = DatasetSource(tf.data.Dataset.from_tensor_slices(parts).batch(7))
    found = source.take(np.array([5, 2]))
    np.testing.assert_array_equal(found.x["age"], y[[5, 2]])
    np.testing.assert_allclose(found.weights, own[[5, 2]], rtol=1e-6)


REFUSED = {
    "a map that draws": (
        lambda d: d.map(lambda a, b: (tf.cast(a, tf.float32) * tf.random.uniform([]), b)),
        "function of its record alone",
    ),
    "a map that calls Python": (
        lambda d: d.map(lambda a, b: (tf.numpy_function(lambda v: v, [a], tf.uint8), b)),
        "function of its record alone",
    ),
    "filtered": (lambda d: d.filter(lambda a, b: b > 0), "a tf.data pipeline with filter"),
    "repeated": (lambda d: d.repeat(2), "a tf.data pipeline with repeat"),
    "generated": (
        lambda d: tf.data.Dataset.from_generator(lambda: iter([]), output_types=tf.int64),
        "sampling='external'",
    ),
    "batches of batches": (lambda d: d.batch(2).batch(2), "a tf.data pipeline with batch"),
    "maps of batches": (lambda d: d.batch(2).map(scaled), "a tf.data pipeline with batch"),
    "shuffled before the map": (
        lambda d: d.shuffle(9).map(scaled), "shuffle must come after map in x",
    ),
    "images alone": (lambda d: d.map(lambda a, b: a), r"records as \(x, y\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_numbers_is_refused_in_one_line(digits, name):
    make, message = REFUSED[name]
    with pytest.raises(kd.InputError, match=message) as caught:
        DatasetSource(make(tf.data.Dataset.from_tensor_slices(digits)))
    assert "\n" not in str(caught.value)
