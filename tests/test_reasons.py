"""One line that says what is wrong, out of real errors of the libraries below us."""

import io
import pathlib
import re

import cv2
import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit import _reasons
from keras_dpvit.errors import InputError
from keras_dpvit.export import runners

HEADERLESS = b"\xff\xd8\xff" + b"x" * 50


def is_a_reason(line):
    empty = ("Graph execution error", "Exception encountered", "Detected at", "0x", "[[", "File ")
    return "\n" not in line and len(line) <= 300 and not any(part in line for part in empty)


@tf.function
def decoded(contents):
    return tf.io.decode_jpeg(contents)


@tf.function
def asserted(x):
    tf.debugging.Assert(x < 2, ["x must be below 2, got", x])
    return x


class Refusing(keras.layers.Layer):
    def call(self, x):
        raise ValueError("x must be smaller.\nAnd more so.")


class Choosy(keras.layers.Layer):
    """Fails inside the graph."""

    def call(self, x):
        check = tf.debugging.Assert(tf.reduce_max(x) < 2, ["x must be below 2, got", x[0, 0]])
        with tf.control_dependencies([check]):
            return tf.identity(x)


def broken(number):
    raise ValueError(f"record {int(number)} is broken")


def numbers(function):
    return tf.data.Dataset.range(3).map(function)


def fit_on(data=None):
    model = keras.Sequential([keras.Input((3,)), Choosy(), keras.layers.Dense(2)])
    model.compile("sgd", "mse", jit_compile=False)
    model.fit(np.full((4, 3), 5.0) if data is None else data, np.ones((4, 2)), verbose=0)


def fit_on_a_generator():
    def pairs():
        yield np.ones(3), np.ones(2)
        raise OSError("the disk has gone")

    signature = tf.TensorSpec((3,)), tf.TensorSpec((2,))
    data = tf.data.Dataset.from_generator(pairs, output_signature=signature).batch(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    model.fit(data, verbose=0)


ERRORS = {
    "picture": (lambda: PIL.Image.open(io.BytesIO(b"no")), "cannot identify image file"),
    "op": (lambda: tf.io.decode_jpeg(HEADERLESS), "jpeg::Uncompress failed. Invalid JPEG data"),
    "op in a graph": (lambda: decoded(tf.constant(HEADERLESS)), "jpeg::Uncompress failed."),
    "assertion": (lambda: asserted(tf.constant(5)), "x must be below 2, got 5"),
    "layer": (lambda: Refusing()(np.ones((2, 3))), "x must be smaller"),
    "op in fit": (fit_on, "x must be below 2, got 5"),
    "map": (lambda: list(numbers(lambda _: decoded(HEADERLESS))), "jpeg::Uncompress failed."),
    "function of a map": (
        lambda: list(numbers(lambda n: tf.py_function(broken, [n], tf.int64))),
        "ValueError: record 0 is broken",
    ),
    "generator in fit": (fit_on_a_generator, "OSError: the disk has gone"),
    "shapes": (
        lambda: tf.function(lambda a: tf.matmul(a, a))(tf.ones((2, 3))),
        "ValueError: Dimensions must be equal, but are 3 and 2",
    ),
    "OpenCV": (
        lambda: cv2.cvtColor(np.ones((2, 2, 2), np.uint8), cv2.COLOR_BGR2GRAY),
        "Bad number of channels",
    ),
    "OpenCV in C": (lambda: cv2.resize(np.zeros((0, 0), np.uint8), (2, 2)), "Assertion failed"),
    "key": (lambda: {}["images"], "KeyError: 'images'"),
    "no text": (lambda: next(iter(())), "StopIteration"),
    "a file": (
        lambda: pathlib.Path("/nowhere/at/all").read_bytes(),
        "[Errno 2] No such file or directory",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_the_reason_of_a_real_error(name):
    cause, expected = ERRORS[name]
    with pytest.raises(Exception) as caught:
        cause()
    found = _reasons.reason(caught.value)
    assert found.startswith(expected), repr(str(caught.value))
    assert is_a_reason(found), found


def test_no_module_takes_a_first_line_by_itself():
    """It may be "Graph execution error:" alone."""
    root = pathlib.Path(__file__).parents[1]
    own_way = re.compile(r"(str\(error\)|error\.message)[^\n]{0,20}\.split(lines)?\(")
    for folder in ("keras_dpvit", "trainers"):
        for path in (root / folder).rglob("*.py"):
            assert not own_way.search(path.read_text("utf-8")), path
    assert own_way.search("reason = str(error).strip().splitlines()[0]")


def test_long_reasons_are_cut_and_empty_ones_named():
    assert len(_reasons.reason("x" * 999)) == 300
    assert _reasons.reason(RuntimeError("Graph execution error:")) == "RuntimeError"
    assert _reasons.reason("The shapes are:\n\n  (3, 4)") == "The shapes are: (3, 4)"


@pytest.fixture(scope="module")
def exported(trained_members, tmp_path_factory):
    place = tmp_path_factory.mktemp("reasons") / "digits" / "1"
    kd.export.saved_model(trained_members[0], place)
    return place


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (HEADERLESS, "Invalid JPEG data"),
        (b"GIF89a" + b"x" * 50, "must be a whole JPEG or PNG file"),
        (b"", "must be a whole JPEG or PNG file"),
    ],
)
def test_an_export_refuses_a_picture_with_the_reason(exported, content, expected):
    with pytest.raises(InputError, match=expected) as caught:
        runners.SavedModelRunner(exported).predict_files([content])
    assert is_a_reason(str(caught.value).removeprefix(f"{exported} refuses "))


def private(model, num_examples=40):
    plan = kd.PrivacyPlan(num_examples, 10, 1, 1e-5, 1.0)
    model = kd.make_private(model)
    model.compile(kd.DPKerasSGDOptimizer(plan), "mse", jit_compile=False)
    return model


def test_a_failing_op_in_private_training_is_named_at_the_end():
    """TensorFlow's own error stays; its reason stands below the traceback."""
    model = private(keras.Sequential([keras.Input((3,)), Choosy(), keras.layers.Dense(2)]))
    with pytest.raises(tf.errors.OpError) as caught:
        model.fit(np.full((40, 3), 5.0, "float32"), np.ones((40, 2), "float32"), verbose=0)
    (note,) = caught.value.__notes__
    assert re.fullmatch(r"fit failed: x must be below 2, got [-\d. ]+", note)


def test_a_failing_map_in_private_training_is_named_at_the_end():
    model = private(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
    x = np.ones((40, 3), "float32")
    data = tf.data.Dataset.from_tensor_slices((x, x[:, :2])).map(
        lambda a, b: (a + tf.cast(tf.reduce_sum(decoded(HEADERLESS)), tf.float32), b)
    )
    with pytest.raises(Exception) as caught:
        model.fit(data.batch(10), verbose=0)
    said = [*getattr(caught.value, "__notes__", ()), _reasons.reason(caught.value)]
    assert "Uncompress failed" in said[0]
    assert is_a_reason(said[0])
