"""Records that could only be read in order, from a file that a plan can sample from."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.errors import InputError

to_array_record = kd.datasets.to_array_record


def records():
    rng = np.random.default_rng(0)
    for label in range(12):
        image = {"picture": rng.normal(size=(4, 4, 1)).astype("float32"), "age": np.float32(label)}
        yield image, (np.int64(label % 3), np.uint8([label, 1])), np.float32(0.5 * label)


def leaves(record):
    return keras.tree.flatten(record)


def assert_equal(found, expected):
    keras.tree.assert_same_structure(found, expected)
    for ours, theirs in zip(leaves(found), leaves(expected), strict=True):
        assert ours.dtype == np.asarray(theirs).dtype
        np.testing.assert_array_equal(ours, theirs)


def test_a_generators_records_come_back_by_number(tmp_path):
    found = to_array_record(records(), tmp_path / "records")
    expected = list(records())
    assert len(found) == 12
    for index in (0, 11, 5, -1):
        assert_equal(found[index], expected[index])
    again = kd.datasets.ArrayRecords(tmp_path / "records")
    assert_equal(again[3], expected[3])
    with pytest.raises(IndexError):
        found[12]


@pytest.mark.parametrize("batched", [False, True])
def test_a_pipeline_over_a_generator(tmp_path, batched):
    x = np.arange(20, dtype="float32").reshape(10, 2)
    signature = (tf.TensorSpec((2,)), tf.TensorSpec((), tf.int64))
    pipeline = tf.data.Dataset.from_generator(
        lambda: ((row, int(row[0])) for row in x), output_signature=signature
    )
    pipeline = pipeline.batch(4) if batched else pipeline
    found = to_array_record(pipeline, tmp_path / "records", batched=batched)
    assert len(found) == 10
    np.testing.assert_array_equal([found[i][0] for i in range(10)], x)
    assert [int(found[i][1]) for i in range(10)] == x[:, 0].tolist()


def test_fit_samples_what_it_refused(tmp_path, digit_images):
    """The pipeline is refused with this way out, and the way out trains as the arrays do."""
    x = digit_images.x_train[:60].reshape(60, 64).astype("float32") / 255
    y = digit_images.y_train[:60].astype("int64")
    pipeline = tf.data.Dataset.from_tensor_slices((x, y)).filter(lambda image, label: True)
    start, ends = None, []
    for given in (pipeline, to_array_record(pipeline, tmp_path / "records"), (x, y)):
        model = kd.make_private(keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)]))
        start = model.get_weights() if start is None else start
        model.set_weights(start)
        plan = kd.PrivacyPlan(60, 20, 1, 1e-3, noise_multiplier=1.0, seed=5)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(kd.DPKerasSGDOptimizer(plan, 0.1), loss)
        if given is pipeline:
            with pytest.raises(InputError, match=r"filter.*to_array_record"):
                model.fit(given, verbose=0)
            continue
        model.fit(*(given if isinstance(given, tuple) else (given,)), verbose=0)
        ends.append(model.get_weights())
    for from_file, from_arrays in zip(*ends, strict=True):
        np.testing.assert_array_equal(from_file, from_arrays)


FAULTS = {
    "nothing": ([], "at least one record"),
    "no pairs": ([np.zeros(3)], r"\(x, y\)"),
    "another shape": ([(np.zeros(2), 0), (np.zeros(3), 0)], "one structure, shape and type"),
    "another type": ([(np.zeros(2), 0), (np.zeros(2), 0.5)], "one structure, shape and type"),
    "a weight at times": ([(np.zeros(2), 0), (np.zeros(2), 0, 1.0)], "one structure"),
    "an object": ([(np.array([object()]), 0)], "of no type"),
    "no end": (tf.data.Dataset.from_tensors((0.0, 0)).repeat(), "must have an end"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_others_are_refused_and_leave_nothing(tmp_path, fault):
    given, message = FAULTS[fault]
    with pytest.raises(InputError, match=message):
        to_array_record(given, tmp_path / "records")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over_and_nothing_else_is_read(tmp_path):
    to_array_record(records(), tmp_path / "records")
    with pytest.raises(InputError, match="exists already"):
        to_array_record(records(), tmp_path / "records")
    with pytest.raises(InputError, match="holds no whole records"):
        kd.datasets.ArrayRecords(tmp_path)
    (tmp_path / "records" / "records.array_record").write_bytes(b"cut off")
    with pytest.raises(InputError, match="holds no whole records"):
        kd.datasets.ArrayRecords(tmp_path / "records")
