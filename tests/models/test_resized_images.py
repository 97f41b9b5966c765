"""Networks that bring images to a size of their own."""

import keras
import numpy as np
import pytest
from PIL import Image

import keras_dpvit as kd
from keras_dpvit.edge import TFLiteRunner
from keras_dpvit.errors import InputError
from keras_dpvit.export.runners import SavedModelRunner
from keras_dpvit.layers import AntialiasedResizing
from keras_dpvit.models.presets import preset_arguments, synthetic_file

SIDES = {"dpvit_scatter_96": 96, "dpvit_scatter_128": 128, "dpvit_scatter_224": 224}


def pictures(count, shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype("float32")


def features_of(preset, images, **overrides):
    model = kd.DPViTClassifier.from_preset(preset, 3, weights="synthetic", **overrides)
    return model.features_model()(images).numpy()


@pytest.mark.parametrize(("preset", "side"), SIDES.items())
def test_larger_presets_are_that_of_64_behind_a_resizing(preset, side):
    images = pictures(2, (side, side, 3))
    shrunk = AntialiasedResizing(64, 64)(images)
    np.testing.assert_allclose(
        features_of(preset, images), features_of("dpvit_scatter_64", shrunk), atol=1e-5
    )
    with synthetic_file(preset) as large, synthetic_file("dpvit_scatter_64") as small:
        assert large == small


@pytest.mark.parametrize(
    ("preset", "shape", "own"),
    [
        ("dpvit_scatter_32", (28, 28, 1), (32, 32)),
        ("dpvit_scatter_32", (8, 8, 1), (32, 32)),
        ("dpvit_scatter_28", (8, 8, 1), (28, 28)),
        ("dpvit_scatter_32", (20, 48, 3), (32, 32)),
    ],
)
def test_images_of_any_size_go_into_a_preset_with_weights(preset, shape, own):
    images = pictures(2, shape)
    channels = preset_arguments(preset)["image_shape"][2]
    shrunk = [
        [
            np.asarray(Image.fromarray(c).resize(own[::-1], Image.Resampling.BILINEAR))
            for c in np.moveaxis(image, -1, 0)
        ]
        for image in images
    ]
    by_hand = np.moveaxis(np.array(shrunk), 1, -1)
    if shape[2] < channels:
        by_hand = np.repeat(by_hand, channels, axis=-1)
    np.testing.assert_allclose(
        features_of(preset, images, image_shape=shape), features_of(preset, by_hand), atol=1e-4
    )


def test_arguments_for_images_of_another_shape():
    found = preset_arguments("dpvit_scatter_32", (8, 8, 1))
    assert (found["image_shape"], found["resize_to"]) == ((8, 8, 1), (32, 32, 3))
    found = preset_arguments("dpvit_scatter_96", (100, 90, 3))
    assert (found["image_shape"], found["resize_to"]) == ((100, 90, 3), (64, 64, 3))
    assert "resize_to" not in preset_arguments("dpvit_scatter_32", (32, 32, 3))
    # Other presets become other networks, as they always did.
    assert "resize_to" not in preset_arguments("dpvit_small_28", (56, 56, 1))


@pytest.mark.parametrize(
    ("shape", "resize_to", "words"),
    [
        ((8, 8, 3), (16, 16, 1), "image_shape must have 1 channels, or 1, to be resized"),
        ((8, 8, 1), (16, 16), "image_shape must be"),
        ((8, 8, 1), 16, "image_shape must be"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shape, resize_to, words):
    with pytest.raises(InputError, match=words):
        kd.DPViTBackbone(shape, resize_to=resize_to)


def test_what_trains_is_the_network_behind_the_resizing():
    plain = kd.DPViTBackbone((8, 8, 3), hidden_dim=8, num_heads=2)
    resized = kd.DPViTBackbone((24, 20, 1), hidden_dim=8, num_heads=2, resize_to=(8, 8, 3))
    assert [w.shape for w in resized.weights] == [w.shape for w in plain.weights]
    assert resized.output_shape == plain.output_shape
    assert resized.image_shape == (24, 20, 1)


@pytest.fixture(scope="module")
def trained():
    """A classifier of 24x24 grey shapes that sees them at 16x16 in colour, and such shapes."""
    keras.utils.set_random_seed(0)
    shapes = kd.datasets.synthetic_shapes(3, 40, (24, 24, 1))
    backbone = kd.DPViTBackbone(
        (24, 24, 1),
        hidden_dim=16,
        num_heads=2,
        stage_depths=(1,),
        features="scattering",
        scattering_luma=True,
        patch_size=1,
        resize_to=(16, 16, 3),
    )
    model = kd.DPViTClassifier(backbone, 3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    x, y = shapes.images.astype("float32"), shapes.families
    history = model.fit(x, y, epochs=15, batch_size=20, verbose=0, public_data=True)
    assert history.history["accuracy"][-1] > 0.8
    return model, shapes.images


@pytest.mark.parametrize(
    ("quantize", "bar"), [(None, 1.0), ("float16", 0.98), ("dynamic", 0.95), ("int8", 0.9)]
)
def test_tflite_files_resize_too(trained, quantize, bar, tmp_path):
    model, images = trained
    calibration = kd.datasets.synthetic_shapes(20, 4, (24, 24, 1), seed=5).images
    kd.export.tflite(
        model,
        tmp_path / "m.tflite",
        quantize=quantize,
        calibration=calibration if quantize == "int8" else None,
    )
    found = TFLiteRunner(tmp_path / "m.tflite").predict(images)["class_id"]
    expected = model.predict(images, verbose=0).argmax(axis=1)
    assert np.mean(found == expected) >= bar


def test_a_saved_model_resizes_too(trained, tmp_path):
    model, images = trained
    kd.export.saved_model(model, tmp_path / "1", class_names=["a", "b", "c"])
    found = SavedModelRunner(tmp_path / "1").predict(images)["probabilities"]
    expected = keras.ops.softmax(model.predict(images, verbose=0)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
