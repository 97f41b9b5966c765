"""TFLite constants in fewer bytes: the same numbers, or left alone."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from tensorflow.lite.tools import flatbuffer_utils

from keras_dpvit.export.exact_constants import compacted, smaller

WIDTH, RANK, CLASSES = 60, 40, 30


def constants(kind):
    rng = np.random.default_rng(0)
    whole = rng.integers(-127, 128, (WIDTH, RANK)).astype("float32")
    half = rng.normal(size=(WIDTH, CLASSES)).astype("float16").astype("float32")
    if kind == "none fits":
        return whole + np.float32(2**-20), half + np.float32(2**-20)
    if kind == "too large":
        return whole * 2**12 + 1, half * 1e6
    if kind == "not finite":
        whole[0, 0], half[0, 0] = np.nan, np.inf
    return whole, half


def converted(kind, directions=None):
    """The file of a network that uses one matrix both ways, and another."""
    whole, half = constants(kind)
    directions = whole if directions is None else directions

    @tf.function(input_signature=[tf.TensorSpec((1, WIDTH), tf.float32)])
    def network(x):
        wide = tf.cast(directions, tf.float32)
        # Of two products with one matrix, the converter stores one matrix turned.
        return (x + tf.matmul(tf.nn.relu(x @ wide), wide, transpose_b=True)) @ half

    converter = tf.lite.TFLiteConverter.from_concrete_functions([network.get_concrete_function()])
    return converter.convert()


def run(content):
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    x = np.random.default_rng(1).normal(size=(1, WIDTH)).astype("float32")
    for _ in range(2):  # what is widened once stays
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
        interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def assert_same(found, expected):
    """Equal but for the order in which a product's terms are summed up."""
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * largest)


def ops(content):
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph = model.subgraphs[0]
    return collections.Counter(
        flatbuffer_utils.opcode_to_name(model, op.opcodeIndex) for op in graph.operators
    )


def test_fewer_bytes_hold_the_same_numbers():
    plain = converted("fits")
    small = compacted(plain)
    assert_same(run(small), run(plain))
    # 2 x 2,400 numbers of 4 bytes become 2,400 of one, and 1,800 of 4 bytes as many of 2.
    assert len(plain) - len(small) > 3 * WIDTH * RANK + 2 * WIDTH * CLASSES
    found = ops(small)
    assert found["DEQUANTIZE"] == 2
    assert found["TRANSPOSE"] == ops(plain)["TRANSPOSE"] + 1


def test_it_does_nothing_more_a_second_time():
    once = compacted(converted("fits"))
    again = compacted(once)
    assert ops(again) == ops(once)
    assert abs(len(again) - len(once)) < 100


@pytest.mark.parametrize("kind", ["none fits", "too large", "not finite"])
def test_what_would_change_stays(kind):
    plain = converted(kind)
    small = compacted(plain)
    assert_same(run(small), run(plain))
    if kind != "not finite":
        assert "DEQUANTIZE" not in ops(small)
        assert abs(len(plain) - len(small)) < 100


def test_a_cast_of_whole_numbers_is_done_once():
    # Too large for the converter to widen it by itself.
    directions = np.random.default_rng(2).integers(-127, 128, (WIDTH, 5000)).astype("int8")
    plain = converted("fits", directions)
    assert ops(plain)["CAST"]
    small = compacted(plain)
    assert not ops(small)["CAST"]
    assert_same(run(small), run(plain))
    assert len(small) < 1.1 * directions.nbytes


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 1, -127], "int8"),
        ([0, 128], "float16"),
        ([0.5, -2.25], "float16"),
        ([0.1, 1], None),
        ([1e6 + 0.5, 1], None),
        ([2**-30, 1], None),
    ],
)
def test_the_smallest_type_that_holds_them(values, kind):
    values = np.array(values, "float32")
    found = smaller(values)
    assert (None if found is None else found.dtype.name) == kind
    if found is not None:
        np.testing.assert_array_equal(found.astype("float32"), values)
