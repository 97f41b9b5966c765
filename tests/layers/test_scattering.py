"""The scattering transform against kymatio's own NumPy front end."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from kymatio.scattering2d.frontend.numpy_frontend import ScatteringNumPy2D

from keras_dpvit import datasets
from keras_dpvit.errors import InputError
from keras_dpvit.layers.scattering import ScatteringTransform


def kymatio(images, scales=2, orientations=8, order=2):
    """`(batch, rows, columns, channels * paths)`, all paths of a channel together."""
    shape = images.shape[1:3]
    transform = ScatteringNumPy2D(scales, shape, orientations, max_order=order)
    channels = [transform(np.ascontiguousarray(x)) for x in np.moveaxis(images, -1, 0)]
    return np.moveaxis(np.concatenate(channels, axis=1), 1, -1)


def largest_error(found, expected):
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / np.abs(expected).max()


def random_images(*shape):
    return np.random.default_rng(0).uniform(0, 255, shape).astype("float32")


@pytest.fixture(scope="module")
def clothes():
    """One hundred images, float32 `(100, 28, 28, 1)` in 0..255."""
    return datasets.load("fashion_mnist").x_test[:100].astype("float32")


@pytest.fixture(scope="module")
def digit_model():
    """A small model with a layer after the transform, and images for it."""
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 1))
    features = keras.layers.Flatten()(ScatteringTransform(name="scattering")(images))
    digits = datasets.load("digits").x_test[:16].astype("float32")
    model = keras.Model(images, keras.layers.Dense(10)(features))
    return model, digits / digits.max()


def test_fashion_mnist_as_kymatio(clothes):
    features = ScatteringTransform()(clothes).numpy()
    assert features.shape == (100, 7, 7, 81)
    assert largest_error(features, kymatio(clothes)) < 1e-5


@pytest.mark.parametrize(
    ("shape", "scales", "orientations", "order"),
    [
        ((32, 32, 3), 2, 8, 2),
        ((32, 32, 2), 3, 8, 2),
        ((32, 32, 1), 1, 8, 2),
        ((28, 28, 2), 2, 8, 1),
        ((16, 24, 2), 2, 5, 2),  # no square, odd number of angles
        ((32, 16, 1), 4, 3, 2),  # one side no longer than a wavelet
        ((2, 2, 1), 1, 1, 1),
    ],
)
def test_every_geometry_as_kymatio(shape, scales, orientations, order):
    images = random_images(3, *shape)
    layer = ScatteringTransform(scales, orientations, order)
    features = layer(images).numpy()
    assert largest_error(features, kymatio(images, scales, orientations, order)) < 1e-5
    paths = 1 + scales * orientations
    if order == 2:
        paths += orientations**2 * scales * (scales - 1) // 2
    assert layer.num_paths == paths
    assert features.shape[-1] == paths * shape[-1]
    for batch in (3, None):
        declared = layer.compute_output_shape((batch, *shape))
        assert declared == (batch, *features.shape[1:])


def test_digits_as_kymatio():
    digits = datasets.load("digits").x_test[:20].astype("float32")
    resized = keras.ops.convert_to_numpy(keras.ops.image.resize(digits, (32, 32)))
    assert largest_error(ScatteringTransform()(resized).numpy(), kymatio(resized)) < 1e-5


def test_whole_numbers_and_compiled_calls_give_the_same():
    images = random_images(2, 28, 28, 1).astype("uint8")
    layer = ScatteringTransform()
    expected = kymatio(images.astype("float32"))
    assert largest_error(layer(images).numpy(), expected) < 1e-5
    for compiled in (False, True):
        call = tf.function(layer, jit_compile=compiled)
        assert largest_error(call(images).numpy(), expected) < 1e-5


@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_float16", 2e-3), ("bfloat16", 2e-2)])
def test_low_precision_rounds_only_ends(policy, tolerance):
    images = np.round(random_images(2, 16, 16, 1))  # 0..255 is exact in both
    features = ScatteringTransform(dtype=policy)(images)
    assert features.dtype.name == policy.removeprefix("mixed_")
    expected = kymatio(images)
    np.testing.assert_allclose(
        np.asarray(features, "float32"), expected, rtol=tolerance, atol=1e-5 * expected.max()
    )


def test_nothing_is_learned(digit_model):
    model, _ = digit_model
    layer = model.get_layer("scattering")
    assert layer.built
    assert layer.weights == []
    assert layer.count_params() == 0
    assert len(model.trainable_variables) == 2  # those of the dense layer


def test_one_image_touches_no_other():
    images = random_images(4, 28, 28, 2)
    changed = images.copy()
    changed[2] = changed[2, ::-1] * 0.5
    layer = ScatteringTransform()
    before, after = layer(images).numpy(), layer(changed).numpy()
    others = [0, 1, 3]
    np.testing.assert_array_equal(before[others], after[others])
    assert np.abs(before[2] - after[2]).max() > 1
    alone = layer(images[2:3]).numpy()
    assert largest_error(alone, before[2:3]) < 1e-5


def test_gradient_is_right_and_finite_at_zero():
    layer = ScatteringTransform(orientations=3)
    flat, image = np.zeros((1, 16, 16, 1), "float32"), random_images(1, 16, 16, 1) / 255
    slopes = []
    for x in (flat, image):
        x = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(layer(x))
        slopes.append(tape.gradient(total, x).numpy())
    assert np.isfinite(slopes[0]).all()
    direction = np.random.default_rng(1).standard_normal(image.shape).astype("float32")
    step = 1e-3
    ends = [
        kymatio(image + s * direction, orientations=3).astype("float64").sum()
        for s in (-step, step)
    ]
    assert np.sum(slopes[1] * direction) == pytest.approx(
        (ends[1] - ends[0]) / (2 * step), rel=0.02
    )


def test_small_shift_moves_it_less_than_the_pixels(clothes):
    # An image's own border would leave with the shift; these have none.
    images = np.pad(clothes, ((0, 0), (2, 2), (2, 2), (0, 0)))
    layer = ScatteringTransform()

    def moved(map_):
        before, after = map_(images), map_(np.roll(images, 1, axis=2))
        return np.linalg.norm(after - before) / np.linalg.norm(before)

    assert moved(lambda x: layer(x).numpy()) < 0.5 * moved(lambda x: x)


def test_config_round_trip():
    layer = ScatteringTransform(3, 6, 1, name="mine", dtype="mixed_bfloat16")
    config = json.loads(json.dumps(layer.get_config()))
    assert {"scales": 3, "orientations": 6, "order": 1}.items() <= config.items()
    again = ScatteringTransform.from_config(config)
    assert again.get_config() == layer.get_config()
    assert again.dtype_policy.name == "mixed_bfloat16"


def test_saved_model_gives_the_same(digit_model, tmp_path):
    model, images = digit_model
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again.get_layer("scattering")) is ScatteringTransform
    expected = model.predict(images, verbose=0)
    np.testing.assert_array_equal(again.predict(images, verbose=0), expected)


def test_exports_give_the_same(digit_model, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    model, images = digit_model
    expected = model.predict(images, verbose=0)
    model.export(tmp_path / "saved", verbose=False)
    saved = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(saved.serve(images), expected, rtol=0, atol=1e-5)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved"))
    interpreter = Interpreter(model_content=converter.convert())
    (image,), (logits,) = interpreter.get_input_details(), interpreter.get_output_details()
    for batch in (1, len(images)):
        interpreter.resize_tensor_input(image["index"], (batch, 8, 8, 1))
        interpreter.allocate_tensors()
        interpreter.set_tensor(image["index"], images[:batch])
        interpreter.invoke()
        found = interpreter.get_tensor(logits["index"])
        np.testing.assert_allclose(found, expected[:batch], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["scales", "orientations", "order"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_arguments_are_whole_numbers_above_0(name, value):
    with pytest.raises(InputError, match=f"{name} must be a whole number above 0"):
        ScatteringTransform(**{name: value})


def test_there_is_no_third_order():
    with pytest.raises(InputError, match="order must be 1 or 2, got 3"):
        ScatteringTransform(order=3)


@pytest.mark.parametrize(
    "shape", [(30, 28, 1), (28, 30, 1), (2, 2, 1), (None, 28, 1), (28, 28, None), (28, 28)]
)
def test_sides_are_multiples_of_the_largest_scale(shape):
    message = r"sides that are multiples of 2\*\*scales = 4"
    with pytest.raises(InputError, match=message):
        ScatteringTransform().build((None, *shape))
    with pytest.raises(InputError, match=message):
        ScatteringTransform().compute_output_shape((None, *shape))
