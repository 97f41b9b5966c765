"""The SavedModel: alone in a process, the same numbers, whole or not at all."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.export.runners import SavedModelRunner, version_directory

# Hides Keras and this package before it imports TensorFlow, which imports Keras where it can.
ALONE = pathlib.Path(__file__).parents[2] / "benchmarks" / "tf_only.py"


@pytest.fixture(scope="module")
def exported(trained_fusion, digit_images, tmp_path_factory):
    directory = tmp_path_factory.mktemp("export") / "1"
    kd.export.saved_model(trained_fusion, directory, class_names=list("abcdefghij"))
    return directory


def test_it_runs_alone_and_gives_what_keras_gives(exported, trained_fusion, digit_images, tmp_path):
    images = digit_images.x_test[:200]
    np.save(tmp_path / "images.npy", images)
    arguments = [ALONE, exported, tmp_path / "images.npy", tmp_path / "answers.npz"]
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("serving_uint8 without keras, tf_keras, keras_dpvit\n")
    found = np.load(tmp_path / "answers.npz")
    expected = trained_fusion.predict(images.astype("float32"), verbose=0)
    best = expected["probabilities"].argmax(axis=1)
    assert len(set(best)) > 5  # a model that always says the same would pass all this
    for place in ("", "serving_uint8/", "serving_bytes/"):
        for name in ("probabilities", "weights"):
            np.testing.assert_allclose(found[place + name], expected[name], rtol=0, atol=1e-5)
        np.testing.assert_array_equal(found[f"{place}class_id"], best)
        assert found[f"{place}label"].tolist() == ["abcdefghij"[i] for i in best]
    for name in ("member_probabilities", "weights"):
        each = found[f"member_probabilities/{name}"]
        np.testing.assert_allclose(each, expected[name], rtol=0, atol=1e-5)
    assert found["class_names"].tolist() == list("abcdefghij")


def test_runner_takes_any_batch_size(exported, trained_fusion, digit_images):
    images = digit_images.x_test[:50]
    runner = SavedModelRunner(exported)
    assert runner.image_shape == (8, 8, 1)
    expected = trained_fusion.predict(images.astype("float32"), verbose=0)["probabilities"]
    for batch_size in (7, 50, 256):
        found = runner.predict(images, batch_size=batch_size)
        np.testing.assert_allclose(found["probabilities"], expected, rtol=0, atol=1e-5)


def test_single_classifier_has_probabilities_and_numbers_for_names(
    trained_members, digit_images, tmp_path
):
    model = trained_members[0]
    kd.export.saved_model(model, tmp_path / "1")
    images = digit_images.x_test[:20].astype("float32")
    found = SavedModelRunner(tmp_path / "1").predict(images)
    assert set(found) == {"probabilities", "class_id", "label"}
    logits = model(images).numpy().astype("float64")
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found["probabilities"], expected, rtol=0, atol=1e-5)
    labels = [label.decode() for label in found["label"]]
    assert labels == [str(i) for i in expected.argmax(axis=1)]


def test_weights_alone_are_in_the_file(exported, trained_fusion):
    # Neither the optimizer's state, nor keys and states of any noise.
    stored = tf.train.list_variables(str(exported / "variables" / "variables"))
    shapes = sorted(tuple(shape) for name, shape in stored if name.startswith("model_variables"))
    assert shapes == sorted(tuple(weight.shape) for weight in trained_fusion.weights)
    others = {name for name, _ in stored if not name.startswith("model_variables")}
    assert others == {"_CHECKPOINTABLE_OBJECT_GRAPH"}


def test_existing_target_is_refused_and_untouched(exported, trained_fusion, file_digests):
    before = file_digests(exported.parent)
    with pytest.raises(InputError, match="exists already: nothing is written over it"):
        kd.export.saved_model(trained_fusion, exported)
    assert file_digests(exported.parent) == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failed_write_leaves_nothing_behind(trained_members, tmp_path, monkeypatch, error):
    save = tf.saved_model.save

    def fail_at_the_end(*args, **kwargs):
        save(*args, **kwargs)
        raise error

    monkeypatch.setattr(tf.saved_model, "save", fail_at_the_end)
    (tmp_path / "base").mkdir()
    with pytest.raises(type(error)):
        kd.export.saved_model(trained_members[0], tmp_path / "base" / "1")
    assert list((tmp_path / "base").iterdir()) == []


@pytest.mark.parametrize("number", [0, 9, 11])
def test_class_names_must_be_as_many_as_classes(trained_members, tmp_path, number):
    with pytest.raises(InputError, match=f"class_names must be 10 names, got {number}"):
        kd.export.saved_model(trained_members[0], tmp_path / "1", class_names=["x"] * number)
    assert list(tmp_path.iterdir()) == []


def test_version_directory_is_the_newest(tmp_path):
    for version in ("2", "10", "9", "notes", "11"):
        (tmp_path / version).mkdir()
        if version != "11":
            (tmp_path / version / "saved_model.pb").touch()
    assert version_directory(tmp_path) == tmp_path / "10"
    assert version_directory(tmp_path / "2") == tmp_path / "2"
    with pytest.raises(InputError, match="holds no SavedModel"):
        version_directory(tmp_path / "11")
    with pytest.raises(InputError, match="holds no SavedModel"):
        version_directory(tmp_path / "nowhere")


def test_damaged_export_is_refused_in_one_line(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"\xff" * 100)
    with pytest.raises(InputError, match="cannot be loaded as a SavedModel") as caught:
        SavedModelRunner(tmp_path)
    assert "\n" not in str(caught.value)


def test_foreign_saved_model_is_refused(tmp_path):
    module = tf.Module()
    module.f = tf.function(
        lambda x: {"y": x}, input_signature=[tf.TensorSpec((None,), tf.float32, name="x")]
    )
    tf.saved_model.save(module, str(tmp_path), signatures=module.f)
    with pytest.raises(InputError, match=r"not exported by keras_dpvit: its input is \['x'\]"):
        SavedModelRunner(tmp_path)


ANSWER = {"class_id": "int64", "label": "string", "probabilities": "float32"}
FUSED = {**ANSWER, "weights": "float32"}


def described(directory):
    """Inputs and outputs of each signature, as name to (dtype, shape) and name to dtype."""
    found = {}
    for name, signature in tf.saved_model.load(str(directory)).signatures.items():
        _, inputs = signature.structured_input_signature
        given = {key: (spec.dtype.name, spec.shape.as_list()) for key, spec in inputs.items()}
        returned = {key: spec.dtype.name for key, spec in signature.structured_outputs.items()}
        found[name] = given, returned
    return found


def test_signatures_say_what_serving_expects(exported):
    shape = [None, 8, 8, 1]
    assert described(exported) == {
        "serving_default": ({"images": ("float32", shape)}, FUSED),
        "serving_uint8": ({"images": ("uint8", shape)}, FUSED),
        "serving_bytes": ({"image_bytes": ("string", [None])}, FUSED),
        "member_probabilities": (
            {"images": ("float32", shape)},
            {"member_probabilities": "float32", "weights": "float32"},
        ),
        "class_names": ({"class_id": ("int64", [None])}, {"class_name": "string"}),
    }


def test_a_model_of_two_channels_takes_no_picture_files(tmp_path):
    backbone = kd.DPViTBackbone((4, 4, 2), patch_size=2, hidden_dim=4, num_heads=2)
    kd.export.saved_model(kd.DPViTClassifier(backbone, 3), tmp_path / "1")
    found = described(tmp_path / "1")
    assert set(found) == {"serving_default", "serving_uint8", "class_names"}
    assert found["serving_uint8"] == ({"images": ("uint8", [None, 4, 4, 2])}, ANSWER)
    with pytest.raises(InputError, match=r"takes no picture files.* 2 channels"):
        SavedModelRunner(tmp_path / "1").predict_files([b"x"])


def test_network_is_in_the_file_once(exported, trained_members, tmp_path):
    # Five signatures share it: another copy of a member is as large as a member's export.
    kd.export.saved_model(trained_members[0], tmp_path / "1")
    sizes = [(d / "saved_model.pb").stat().st_size for d in (exported, tmp_path / "1")]
    assert sizes[0] < 2.5 * sizes[1]
