"""The SavedModel: alone in a process, the same numbers, whole or not at all."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.export.running import SavedModelRunner, version_directory

# TensorFlow imports Keras by itself where it is installed, so it is hidden first: a process
# in which the import fails cannot lean on it.
ALONE = """
import sys

HIDDEN = ("keras", "tf_keras", "keras_dpvit")

class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]

import numpy as np
import tensorflow as tf

directory, images, answers = sys.argv[1:]
predict = tf.saved_model.load(directory).signatures["serving_default"]
images = np.load(images)
outputs = {name: value.numpy() for name, value in predict(images=tf.constant(images)).items()}
outputs["label"] = outputs["label"].astype("U")
one = {name: value.numpy() for name, value in predict(images=tf.constant(images[:1])).items()}
np.savez(answers, one=one["probabilities"], **outputs)
assert not [name for name in sys.modules if name.partition(".")[0] in HIDDEN]
print("neither was imported")
"""


@pytest.fixture(scope="module")
def exported(trained_fusion, digit_images, tmp_path_factory):
    directory = tmp_path_factory.mktemp("export") / "1"
    kd.export.saved_model(trained_fusion, directory, class_names=list("abcdefghij"))
    return directory


def test_it_runs_alone_and_gives_what_keras_gives(exported, trained_fusion, digit_images, tmp_path):
    images = digit_images.x_test[:200].astype("float32")
    np.save(tmp_path / "images.npy", images)
    arguments = [exported, tmp_path / "images.npy", tmp_path / "answers.npz"]
    result = subprocess.run(
        [sys.executable, "-c", ALONE, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "neither was imported\n"
    found = np.load(tmp_path / "answers.npz")
    expected = trained_fusion.predict(images, verbose=0)
    for name in ("probabilities", "weights", "member_probabilities"):
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5)
    assert found["probabilities"].shape == (200, 10)
    best = expected["probabilities"].argmax(axis=1)
    np.testing.assert_array_equal(found["class_id"], best)
    assert len(set(best)) > 5  # a model that always says the same would pass all this
    assert found["label"].tolist() == ["abcdefghij"[i] for i in best]
    np.testing.assert_allclose(found["one"][0], expected["probabilities"][0], rtol=0, atol=1e-5)


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


def test_noise_at_inference_goes_with_the_model(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 1)).astype("float32")
    keras.utils.set_random_seed(0)
    backbone = kd.DPViTBackbone(
        (4, 4, 1),
        patch_size=2,
        hidden_dim=8,
        num_heads=2,
        attention_noise_stddev=0.1,
        noise_at_inference=True,
    )
    kd.export.saved_model(kd.DPViTClassifier(backbone, 3), tmp_path / "1")
    runner = SavedModelRunner(tmp_path / "1")
    first, second = (runner.predict(images)["probabilities"] for _ in range(2))
    assert np.abs(first - second).max() > 1e-4


def test_existing_target_is_refused_and_untouched(exported, trained_fusion, file_digests):
    before = file_digests(exported.parent)
    with pytest.raises(InputError, match="exists already: nothing is written over an export"):
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


def test_signature_says_what_serving_expects(exported):
    signature = tf.saved_model.load(str(exported)).signatures["serving_default"]
    _, inputs = signature.structured_input_signature
    assert inputs["images"].shape.as_list() == [None, 8, 8, 1]
    assert inputs["images"].dtype == tf.float32
    outputs = {name: spec.dtype.name for name, spec in signature.structured_outputs.items()}
    assert json.dumps(outputs, sort_keys=True) == json.dumps(
        {
            "class_id": "int64",
            "label": "string",
            "member_probabilities": "float32",
            "probabilities": "float32",
            "weights": "float32",
        }
    )
