"""The TFLite file, run by ai_edge_litert."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.export.runners import SavedModelRunner, TFLiteRunner


@pytest.fixture(scope="module")
def exported(trained_fusion, tmp_path_factory):
    path = tmp_path_factory.mktemp("lite") / "sub" / "model.tflite"
    kd.export.tflite(trained_fusion, path)
    return path


def test_same_top_1_on_200_digits(exported, trained_fusion, digit_images):
    images = digit_images.x_test[:200].astype("float32")
    # The plain interpreter, as an app would run it.
    predict = Interpreter(model_path=str(exported)).get_signature_runner("serving_default")
    outputs = [predict(images=image[None]) for image in images]
    expected = trained_fusion.predict(images, verbose=0)
    best = expected["probabilities"].argmax(axis=1)
    assert len(set(best)) > 5
    np.testing.assert_array_equal([int(out["class_id"][0]) for out in outputs], best)
    for name in ("probabilities", "weights", "member_probabilities"):
        found = np.concatenate([out[name] for out in outputs])
        np.testing.assert_allclose(found, expected[name], rtol=0, atol=1e-4)


def test_runner_gives_all_outputs(exported, trained_fusion, digit_images):
    images = digit_images.x_test[:5]
    runner = TFLiteRunner(exported)
    assert runner.image_shape == (8, 8, 1)
    found = runner.predict(images)
    assert set(found) == {"probabilities", "class_id", "weights", "member_probabilities"}
    expected = trained_fusion.predict(images.astype("float32"), verbose=0)
    np.testing.assert_allclose(found["probabilities"], expected["probabilities"], rtol=0, atol=1e-4)


def assert_exports_agree(model, images, directory):
    """Both exports answer as the model does."""
    expected = keras.ops.softmax(model(images.astype("float32"))).numpy()
    kd.export.tflite(model, directory / "model.tflite")
    kd.export.saved_model(model, directory / "1")
    found = TFLiteRunner(directory / "model.tflite").predict(images)["probabilities"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    found = SavedModelRunner(directory / "1").predict(images)["probabilities"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_scattering_and_both_branches_survive_either_export(tmp_path):
    keras.utils.set_random_seed(1)
    model = kd.DPViTClassifier.from_preset(
        "dpvit_scatter_28",
        num_classes=10,
        head="pooled",
        mirrored=False,
        outputs="tokens",
        conv_module="parallel",
    )
    branch = model.get_layer("conv_branch").linear
    branch.kernel.assign(keras.random.normal(branch.kernel.shape, stddev=0.02, seed=2))
    images = np.random.default_rng(3).integers(0, 256, (20, 28, 28, 1)).astype("uint8")
    assert_exports_agree(model, images, tmp_path)


@pytest.mark.parametrize("preset", ["dpvit_scatter_28", "dpvit_scatter_32"])
def test_whitened_heads_survive_either_export(tmp_path, preset):
    model = kd.DPViTClassifier.from_preset(preset, num_classes=10, weights="synthetic")
    kernel = model.get_layer("logits").kernel
    kernel.assign(keras.random.normal(kernel.shape, stddev=5.0, seed=2))
    images = kd.datasets.synthetic_shapes(20, 1, model.input_shape[1:], seed=4).images
    assert_exports_agree(model, images, tmp_path)


@pytest.mark.parametrize("place", ["replace", "fsync"])
def test_failed_write_leaves_the_old_file_and_nothing_else(
    trained_members, tmp_path, monkeypatch, place
):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    failure = OSError(28, "No space left on device")

    def none(*args):
        raise failure

    monkeypatch.setattr(os, place, none)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        kd.export.tflite(trained_members[0], path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.tflite"]
    assert path.read_bytes() == b"old"


def test_bad_files_are_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"nothing.tflite is not a file"):
        TFLiteRunner(tmp_path / "nothing.tflite")
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(b"no flatbuffer" * 20)
    with pytest.raises(InputError, match="cannot be loaded as TFLite") as caught:
        TFLiteRunner(damaged)
    assert "\n" not in str(caught.value)


def test_keras_weights_are_not_changed_by_exporting(trained_members, tmp_path):
    model = trained_members[0]
    before = model.get_weights()
    kd.export.saved_model(model, tmp_path / "1")
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert keras.backend.backend() == "tensorflow"
    assert tf.saved_model.contains_saved_model(str(tmp_path / "1"))


@pytest.mark.parametrize("quantize", [None, "dynamic"])
def test_probabilities_alone(trained_fusion, digit_images, tmp_path, quantize):
    """One output, as classifier APIs want it; the runner finds the class itself."""
    images = digit_images.x_test[:50]
    found = {}
    for outputs in ("all", "probabilities"):
        path = tmp_path / f"{outputs}.tflite"
        kd.export.tflite(trained_fusion, path, quantize=quantize, outputs=outputs)
        runner = TFLiteRunner(path)
        found[outputs] = runner.predict(images)
        assert outputs == "all" or runner.output_dtypes == {"probabilities": "float32"}
    assert set(found["probabilities"]) == {"probabilities", "class_id"}
    for name in ("probabilities", "class_id"):
        np.testing.assert_array_equal(found["probabilities"][name], found["all"][name])
    with pytest.raises(InputError, match="outputs must be one of"):
        kd.export.tflite(trained_fusion, tmp_path / "x.tflite", outputs="labels")
