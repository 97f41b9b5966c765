"""Loading TFLite files: those we wrote, others', damaged ones; without TensorFlow."""

import io
import json
import os
import pathlib
import random
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_dpvit as kd
from keras_dpvit.edge import TFLiteRunner, sandbox
from keras_dpvit.edge.attachments import attach, read_attached
from keras_dpvit.errors import InputError


@pytest.fixture(scope="module")
def model(trained_fusion, tmp_path_factory):
    path = tmp_path_factory.mktemp("runner") / "model.tflite"
    kd.export.tflite(trained_fusion, path, class_names=[f"digit {i}" for i in range(10)])
    return path


@pytest.fixture(scope="module")
def bare(model):
    """The flatbuffer alone, as another tool would have written it."""
    content = model.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return content[: archive.infolist()[0].header_offset]


def refused(path):
    with pytest.raises(InputError, match="cannot be loaded as TFLite") as caught:
        TFLiteRunner(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_needs_neither_tensorflow_nor_keras(model):
    program = (
        "import sys; from keras_dpvit.edge import TFLiteRunner; "
        f"print(TFLiteRunner({str(model)!r}).labels[3]); "
        "print([m for m in ('tensorflow', 'keras', 'cv2') if m in sys.modules])"
    )
    root = pathlib.Path(kd.__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert result.stdout.splitlines() == ["digit 3", "[]"]


def test_file_of_another_tool_is_tried_first(bare, tmp_path, digit_images, model, monkeypatch):
    (tmp_path / "bare.tflite").write_bytes(bare)
    tried = []
    failure = sandbox.failure
    monkeypatch.setattr(sandbox, "failure", lambda content: tried.append(1) or failure(content))
    runner = TFLiteRunner(tmp_path / "bare.tflite")
    assert tried == [1]
    assert runner.labels is None
    assert runner.label(3) == "3"
    images = digit_images.x_test[:5]
    expected = TFLiteRunner(model)
    assert tried == [1]  # an export with its digest is not
    np.testing.assert_array_equal(
        runner.predict(images)["probabilities"], expected.predict(images)["probabilities"]
    )


@pytest.mark.parametrize(
    "length", [0, 1, 7, 8, 20, 100, 1000, 4096, 0.25, 0.5, 0.75, 0.9, 0.99, -200, -22, -1]
)
def test_truncated_at(model, bare, length, tmp_path):
    content = model.read_bytes()
    end = length if isinstance(length, int) else int(length * len(content))
    (tmp_path / "cut.tflite").write_bytes(content[:end])
    end %= len(content)
    if end < len(bare):
        refused(tmp_path / "cut.tflite")
    else:  # cut in what is attached: the flatbuffer is whole, and nothing else is believed
        assert TFLiteRunner(tmp_path / "cut.tflite").labels is None


@pytest.mark.parametrize("seed", range(4))
def test_changed_bytes_in_the_header(model, bare, seed, tmp_path):
    rng = random.Random(seed)
    content = bytearray(model.read_bytes())
    for _ in range(3):
        place = rng.randrange(4096)
        content[place] ^= rng.randrange(1, 256)
    (tmp_path / "ours.tflite").write_bytes(content)
    assert "its SHA-256 is not the one" in refused(tmp_path / "ours.tflite")
    # Without a digest it may run, be refused or crash, but not crash us.
    (tmp_path / "other.tflite").write_bytes(content[: len(bare)])
    problem = sandbox.failure(bytes(content[: len(bare)]))
    if problem is None:
        assert TFLiteRunner(tmp_path / "other.tflite").image_shape == (8, 8, 1)
    else:
        assert "\n" not in problem
        assert refused(tmp_path / "other.tflite").endswith(f": {problem}.")


def test_a_crash_of_the_trial_is_told(monkeypatch, tmp_path):
    # A child that dies as native code does.
    killer = tmp_path / "killer.py"
    killer.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(sandbox, "__file__", str(killer))
    (tmp_path / "m.tflite").write_bytes(b"anything")
    assert refused(tmp_path / "m.tflite").endswith("LiteRT crashes on it.")


def test_a_trial_without_end_is_ended(monkeypatch, tmp_path):
    sleeper = tmp_path / "sleeper.py"
    sleeper.write_text("import time; time.sleep(60)\n")
    monkeypatch.setattr(sandbox, "__file__", str(sleeper))
    monkeypatch.setattr(sandbox, "_SECONDS", 0.5)
    assert "takes more than 0.5 seconds" in sandbox.failure(b"anything")


def test_labels_that_were_changed_are_damage(model, tmp_path):
    content = bytearray(model.read_bytes())
    place = content.rindex(b"digit 3")
    content[place] ^= 1
    (tmp_path / "m.tflite").write_bytes(content)
    assert "the files attached to it are damaged" in refused(tmp_path / "m.tflite")


@pytest.mark.parametrize("provenance", [b"[]", b"{}", b'"text"', b"null"])
def test_provenance_of_another_tool_is_not_believed(bare, provenance):
    stream = io.BytesIO(bare)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("provenance.json", provenance)
    attached = read_attached(stream.getvalue())
    assert (attached.labels, attached.provenance, attached.is_intact) == (None, {}, False)


def test_provenance_that_is_no_json(bare):
    stream = io.BytesIO(bare)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("provenance.json", b"{")
    with pytest.raises(InputError, match="are damaged"):
        read_attached(stream.getvalue())


names = st.lists(
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1), min_size=1
)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=400), names)
def test_attached_files_come_back(flatbuffer, labels):
    content = attach(flatbuffer, labels, {"provenance.json": {"a": 1}})
    attached = read_attached(content)
    assert attached.labels == labels
    assert attached.is_intact
    assert attached.provenance["a"] == 1
    assert content.startswith(flatbuffer)
    assert content == attach(flatbuffer, labels, {"provenance.json": {"a": 1}})


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=1, max_size=400), st.data())
def test_every_changed_byte_of_the_model_is_noticed(flatbuffer, data):
    content = bytearray(attach(flatbuffer, ["a"], {}))
    place = data.draw(st.integers(0, len(flatbuffer) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InputError, match="SHA-256"):
        read_attached(bytes(content))


def test_no_file_of_this_package(bare, tmp_path):
    import tensorflow as tf

    module = tf.Module()
    module.double = tf.function(
        lambda x: {"y": 2 * x}, input_signature=[tf.TensorSpec((1, 3), tf.float32, name="x")]
    )
    tf.saved_model.save(module, tmp_path / "1", signatures={"serving_default": module.double})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "1"))
    (tmp_path / "double.tflite").write_bytes(converter.convert())
    with pytest.raises(InputError, match="not exported by keras_dpvit: it takes x and returns y"):
        TFLiteRunner(tmp_path / "double.tflite")


@pytest.mark.parametrize("num_threads", [0, -1, 1.5, None])
def test_threads(model, num_threads):
    with pytest.raises(InputError, match="num_threads must be a whole number above 0"):
        TFLiteRunner(model, num_threads)


def test_results_do_not_depend_on_the_threads(model, digit_images):
    images = digit_images.x_test[:20]
    one, four = (TFLiteRunner(model, n).predict(images)["probabilities"] for n in (1, 4))
    np.testing.assert_allclose(one, four, atol=1e-6)


def test_card_travels(model, trained_fusion):
    with zipfile.ZipFile(model) as archive:
        card = json.loads(archive.read("privacy_card.json"))
    assert card["statement"] == kd.export.privacy_card(trained_fusion)["statement"]
