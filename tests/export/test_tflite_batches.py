"""TFLite files for several images at a time, or any number, by the plain interpreter and ours."""

import json
import zipfile

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import keras_dpvit as kd
from keras_dpvit.edge import TFLiteRunner
from keras_dpvit.errors import InputError
from keras_dpvit.export.runners import SavedModelRunner

# Float32 and float16 compute as the SavedModel does; the others round weights or activations to
# int8, which moves a probability of these small members by a few hundredths.
TOLERANCES = {None: 1e-5, "float16": 2e-3, "dynamic": 0.05, "int8": 0.15}
SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def export(trained_fusion, tmp_path_factory):
    place, made = tmp_path_factory.mktemp("batches"), {}

    def write(quantize, batch_size):
        if (quantize, batch_size) not in made:
            path = place / f"{quantize}-{batch_size}.tflite"
            calibration = kd.export.synthetic_images(SHAPE, 64) if quantize == "int8" else None
            kd.export.tflite(
                trained_fusion,
                path,
                quantize=quantize,
                calibration=calibration,
                batch_size=batch_size,
            )
            made[quantize, batch_size] = path
        return made[quantize, batch_size]

    return write


@pytest.fixture(scope="module")
def images(digit_images):
    return digit_images.x_test[:32]


@pytest.fixture(scope="module")
def expected(trained_fusion, images, tmp_path_factory):
    place = tmp_path_factory.mktemp("served") / "1"
    kd.export.saved_model(trained_fusion, place)
    runner = SavedModelRunner(place)
    return {**runner.predict(images), **runner.call("member_probabilities", images)}


def given(interpreter):
    """Index, shape, signature of the shape and dtype of the input, without holding on to it."""
    (details,) = interpreter.get_input_details()
    shapes = [[int(side) for side in details[key]] for key in ("shape", "shape_signature")]
    return details["index"], *shapes, details["dtype"]


@pytest.mark.parametrize("quantize", TOLERANCES)
def test_a_dynamic_file_is_resized_to_any_number(export, images, expected, quantize):
    """As an app does it: `resize_tensor_input`, then `allocate_tensors`."""
    interpreter = Interpreter(model_path=str(export(quantize, None)))
    index, shape, signature, dtype = given(interpreter)
    assert (shape, signature) == ([1, *SHAPE], [-1, *SHAPE])
    for number in (1, 3, 32, 1):
        interpreter.resize_tensor_input(index, (number, *SHAPE))
        interpreter.allocate_tensors()
        interpreter.set_tensor(index, images[:number].astype(dtype))
        interpreter.invoke()
        found = [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]
        assert {len(output) for output in found} == {number}
        (probabilities,) = (output for output in found if output.shape == (number, 10))
        difference = np.abs(probabilities - expected["probabilities"][:number]).max()
        assert difference < TOLERANCES[quantize]


@pytest.mark.parametrize("batch_size", [1, 4, None])
@pytest.mark.parametrize("quantize", TOLERANCES)
def test_the_runner_takes_any_number_of_every_file(export, images, expected, quantize, batch_size):
    runner = TFLiteRunner(export(quantize, batch_size))
    assert runner.batch_size == batch_size
    assert runner.image_shape == SHAPE
    assert runner.provenance["batch_size"] == batch_size
    for number in (1, 3, 32):
        found = runner.predict(images[:number])
        assert set(found) == {"probabilities", "class_id", "weights", "member_probabilities"}
        for name in ("probabilities", "weights", "member_probabilities"):
            assert found[name].shape == expected[name][:number].shape
            difference = np.abs(found[name] - expected[name][:number]).max()
            assert difference < TOLERANCES[quantize], name
        best = found["probabilities"].argmax(axis=1)
        np.testing.assert_array_equal(found["class_id"], best)


@pytest.mark.parametrize("quantize", TOLERANCES)
def test_images_of_a_batch_do_not_meet(export, images, quantize):
    """An image's answer is the same beside others, up to the order in which sums are taken."""
    runner = TFLiteRunner(export(quantize, None))
    together = runner.predict(images)["probabilities"]
    one_by_one = [runner.predict(image[None])["probabilities"] for image in images]
    np.testing.assert_allclose(together, np.concatenate(one_by_one), rtol=0, atol=1e-5)


def test_a_file_for_four_takes_no_other_number(export, images):
    interpreter = Interpreter(model_path=str(export(None, 4)))
    index, shape, signature, _ = given(interpreter)
    assert shape == signature == [4, *SHAPE]
    interpreter.resize_tensor_input(index, (3, *SHAPE))
    with pytest.raises(RuntimeError, match="failed"):
        interpreter.allocate_tensors()


@pytest.mark.parametrize("preset", ["dpvit_scatter_28"])
def test_scattering_takes_any_number(tmp_path, preset):
    model = kd.DPViTClassifier.from_preset(preset, num_classes=10)
    images = np.random.default_rng(3).integers(0, 256, (5, 28, 28, 1)).astype("uint8")
    kd.export.tflite(model, tmp_path / "m.tflite", batch_size=None)
    kd.export.saved_model(model, tmp_path / "1")
    found = TFLiteRunner(tmp_path / "m.tflite").predict(images)["probabilities"]
    expected = SavedModelRunner(tmp_path / "1").predict(images)["probabilities"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_noise_of_a_batch_is_drawn_for_each_image(trained_fusion, images, tmp_path):
    path = tmp_path / "m.tflite"
    kd.export.tflite(trained_fusion, path, noise_at_inference=True, batch_size=None)
    same = np.repeat(images[:1], 8, axis=0)
    found = TFLiteRunner(path).predict(same)["probabilities"]
    assert len(np.unique(found.round(7), axis=0)) == 8


def test_metadata_and_labels_travel_with_it(export):
    with zipfile.ZipFile(export(None, None)) as archive:
        assert json.loads(archive.read("provenance.json"))["batch_size"] is None
        assert "labels.txt" in archive.namelist()


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "any"])
def test_other_numbers_are_refused(trained_fusion, tmp_path, batch_size):
    with pytest.raises(InputError, match="batch_size must be"):
        kd.export.tflite(trained_fusion, tmp_path / "m.tflite", batch_size=batch_size)
    assert not list(tmp_path.iterdir())
