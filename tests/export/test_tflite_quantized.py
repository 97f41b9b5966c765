"""TFLite in smaller numbers: agreement with Keras on Fashion-MNIST, sizes, what is in int8."""

import collections
import pathlib

import keras
import numpy as np
import pytest
import skimage.data
import skimage.transform
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

import keras_dpvit as kd
from keras_dpvit import datasets
from keras_dpvit.edge import TFLiteRunner
from keras_dpvit.errors import InputError
from keras_dpvit.export.calibration import extreme_images
from keras_dpvit.export.quantization import count_ops

SHAPE = (28, 28, 1)
SHIPPED = pathlib.Path(__file__).parents[2] / "savedmodels" / "fashion_mnist" / "1"
BARS = {None: 0.999, "float16": 0.995, "dynamic": 0.98, "int8": 0.97}


@pytest.fixture(scope="module")
def fashion():
    return datasets.load("fashion_mnist")


@pytest.fixture(scope="module")
def fused(fashion):
    """Two members, each trained privately on 20,000 Fashion-MNIST images for a minute at most."""
    members = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        rows = slice(20_000 * seed, 20_000 * (seed + 1))
        plan = kd.PrivacyPlan(
            num_examples=20_000,
            batch_size=512,
            epochs=1,
            delta=1e-5,
            noise_multiplier=0.8,
            seed=seed,
        )
        model = kd.DPViTClassifier.from_preset("dpvit_small_28", num_classes=10)
        model.compile(
            kd.DPKerasAdamOptimizer(plan, learning_rate=5e-3),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
        model.fit(fashion.x_train[rows], fashion.y_train[rows], epochs=1, verbose=0)
        members.append(model)
    return kd.FusedClassifier(members, members_data="disjoint")


@pytest.fixture(scope="module")
def expected(fused, fashion):
    images = fashion.x_test[:1000]
    outputs = fused.predict(images.astype("float32"), verbose=0)
    right = outputs["probabilities"].argmax(axis=1) == fashion.y_test[:1000]
    assert right.mean() > 0.7  # it has learnt what agreement is asked about
    return images, outputs


@pytest.fixture(scope="module")
def files(fused, fashion, tmp_path_factory):
    """A file for each quantisation; int8 is calibrated on synthetic images."""
    folder = tmp_path_factory.mktemp("quantized")
    for quantize in BARS:
        calibration = kd.export.synthetic_images(SHAPE) if quantize == "int8" else None
        kd.export.tflite(
            fused,
            folder / f"{quantize}.tflite",
            quantize=quantize,
            calibration=calibration,
            class_names=fashion.class_names,
        )
    return folder


def agreement(path, images, outputs):
    found = TFLiteRunner(path).predict(images)
    best = outputs["probabilities"].argmax(axis=1)
    np.testing.assert_array_equal(found["class_id"], found["probabilities"].argmax(axis=1))
    np.testing.assert_allclose(found["probabilities"].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found["weights"].sum(axis=1), 1, atol=1e-5)
    return np.mean(found["class_id"] == best)


@pytest.mark.slow
@pytest.mark.parametrize("quantize", BARS)
def test_top_1_agrees_with_keras(files, expected, quantize):
    assert agreement(files / f"{quantize}.tflite", *expected) >= BARS[quantize]


def public_digits():
    images = datasets.load("digits").x_train[:200]
    return np.stack(
        [
            skimage.transform.resize(image, SHAPE, preserve_range=True).round().astype("uint8")
            for image in images
        ]
    )


def public_photographs():
    rng = np.random.default_rng(0)
    photographs = [skimage.data.camera(), skimage.data.coins(), skimage.data.moon()]
    crops = []
    for number in range(200):
        photograph = photographs[number % len(photographs)]
        side = rng.integers(28, min(photograph.shape))
        top, left = (rng.integers(0, length - side + 1) for length in photograph.shape)
        crop = photograph[top : top + side, left : left + side, None]
        small = skimage.transform.resize(crop, SHAPE, preserve_range=True, anti_aliasing=True)
        crops.append(small.round().astype("uint8"))
    return np.stack(crops)


@pytest.mark.slow
@pytest.mark.parametrize("images", [public_digits, public_photographs], ids=lambda f: f.__name__)
def test_int8_calibrated_on_public_images(fused, expected, images, tmp_path):
    kd.export.tflite(fused, tmp_path / "m.tflite", quantize="int8", calibration=images())
    assert agreement(tmp_path / "m.tflite", *expected) >= BARS["int8"]


def test_sizes(files, fused):
    sizes = {q: (files / f"{q}.tflite").stat().st_size for q in BARS}
    weights = 4 * fused.count_params()
    assert sizes["float16"] < 0.7 * sizes[None]
    assert sizes["dynamic"] < 0.55 * sizes[None]
    assert sizes["int8"] < 0.55 * sizes[None]
    assert weights < sizes[None] < 1.4 * weights + 100_000


def graph_of(path):
    """Ops as (name, input types, output types), read by LiteRT's own schema."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    types = {v: k for k, v in vars(schema.TensorType).items() if not k.startswith("_")}
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
    graph = model.subgraphs[0]

    def types_of(indices):
        return [types[graph.tensors[i].type] for i in indices if i >= 0]

    return [
        (
            names[model.operatorCodes[op.opcodeIndex].builtinCode],
            types_of(op.inputs),
            types_of(op.outputs),
        )
        for op in graph.operators
    ]


def test_full_int8_is_what_it_says(files):
    ops = graph_of(files / "int8.tflite")
    by_name = collections.Counter(name for name, _, _ in ops)
    in_float = [
        name
        for name, before, after in ops
        if "FLOAT32" in before + after and name not in ("QUANTIZE", "DEQUANTIZE")
    ]
    # All that carries weights, all attention, all normalisation of tokens.
    for name in ("FULLY_CONNECTED", "BATCH_MATMUL", "GELU", "SQRT", "ADD"):
        assert by_name[name]
        assert name not in in_float
    assert by_name["SOFTMAX"] - in_float.count("SOFTMAX") == 4  # one of each block
    # What is left: dividing the image by its deviation, a reciprocal for each normalisation of
    # tokens (two blocks of two members, two in each), two softmaxes and eq 14-17.
    tail = [name for name in in_float if name != "DIV"]
    assert in_float.count("DIV") == by_name["DIV"] == 1 + 8 + 1
    assert in_float[0] == "DIV"
    assert tail[:2] == ["SOFTMAX", "SOFTMAX"]
    assert tail[-1] == "ARG_MAX"
    assert len(tail) <= 15
    counts = count_ops((files / "int8.tflite").read_bytes())
    assert counts["float"] == len(in_float)
    assert counts["conversion"] == by_name["QUANTIZE"] + by_name["DEQUANTIZE"] <= 22
    assert counts["integer"] == len(ops) - counts["float"] - counts["conversion"]
    assert TFLiteRunner(files / "int8.tflite").provenance["ops"] == counts


@pytest.mark.parametrize("quantize", [None, "float16", "dynamic"])
def test_others_compute_in_float(files, quantize):
    counts = count_ops((files / f"{quantize}.tflite").read_bytes())
    assert counts["integer"] == 0
    kinds = {kind for _, before, _ in graph_of(files / f"{quantize}.tflite") for kind in before}
    assert ("FLOAT16" in kinds) == (quantize == "float16")
    assert ("INT8" in kinds) == (quantize == "dynamic")


def test_int8_takes_pixels_as_they_are(files, expected):
    interpreter = Interpreter(model_path=str(files / "int8.tflite"))
    (given,) = interpreter.get_input_details()
    assert given["dtype"] == np.uint8
    # One step is one gray level, whatever the calibration images.
    np.testing.assert_allclose(given["quantization"], (1.0, 0), atol=1e-6)
    assert {out["dtype"] for out in interpreter.get_output_details()} == {np.float32, np.int32}
    runner = TFLiteRunner(files / "int8.tflite")
    images = expected[0][:20]
    exact = runner.predict(images)["probabilities"]
    np.testing.assert_array_equal(runner.predict(images + 0.2)["probabilities"], exact)
    # Not multiples of 1/256: the last softmax is in float32.
    each = 256 * runner.predict(images)["member_probabilities"]
    assert np.mean(np.abs(each - np.rint(each)) > 1e-3) > 0.3


def test_dark_calibration_images_do_not_cut_off_bright_ones(fused, expected, tmp_path):
    # Of little contrast: without the extreme images, brighter pixels and a deviation above theirs
    # would be cut off.
    dark = kd.export.synthetic_images(SHAPE) // 4
    kd.export.tflite(fused, tmp_path / "m.tflite", quantize="int8", calibration=dark)
    (given,) = Interpreter(model_path=str(tmp_path / "m.tflite")).get_input_details()
    np.testing.assert_allclose(given["quantization"], (1.0, 0), atol=1e-6)
    assert agreement(tmp_path / "m.tflite", *expected) >= 0.9


def test_wavelet_features_stay_in_float(fashion, tmp_path):
    keras.utils.set_random_seed(1)
    model = kd.DPViTClassifier.from_preset(
        "dpvit_scatter_28",
        num_classes=10,
        head="pooled",
        mirrored=False,
        outputs="tokens",
        conv_module="parallel",
        hidden_dim=64,
        position_stddev=0.7,
    )
    branch = model.get_layer("conv_branch").linear
    branch.kernel.assign(keras.random.normal(branch.kernel.shape, stddev=0.02, seed=2))
    calibration = kd.export.synthetic_images(SHAPE, 50)
    kd.export.tflite(model, tmp_path / "m.tflite", quantize="int8", calibration=calibration)
    images = fashion.x_test[:200]
    logits = model.predict(images.astype("float32"), verbose=0)
    found = TFLiteRunner(tmp_path / "m.tflite").predict(images)
    assert np.mean(found["class_id"] == logits.argmax(axis=1)) >= 0.97
    counts = count_ops((tmp_path / "m.tflite").read_bytes())
    assert counts["integer"] > 80  # the transformer
    assert counts["float"] > 80  # the features


def test_between_the_products_of_a_whitened_model_all_stays_in_float(fashion, tmp_path):
    model = kd.load_model(SHIPPED / "model.keras")
    calibration = kd.export.synthetic_images(SHAPE)
    kd.export.tflite(model, tmp_path / "m.tflite", quantize="int8", calibration=calibration)
    images = fashion.x_train[-500:]  # not test images: the rule was chosen on such
    exact = TFLiteRunner(SHIPPED / "model.tflite").predict(images)["class_id"]
    found = TFLiteRunner(tmp_path / "m.tflite").predict(images)["class_id"]
    assert np.mean(found == exact) >= 0.98  # 0.982 of 2,000 without the rule, 0.992 with it
    integers = {
        name
        for name, before, after in graph_of(tmp_path / "m.tflite")
        if "FLOAT32" not in before + after
    }
    assert integers <= {"FULLY_CONNECTED", "BATCH_MATMUL", "DEQUANTIZE", "QUANTIZE"}
    assert "BATCH_MATMUL" in integers or "FULLY_CONNECTED" in integers


def test_two_exports_are_equal(fused, files, tmp_path, fashion):
    kd.export.tflite(
        fused, tmp_path / "again.tflite", quantize="dynamic", class_names=fashion.class_names
    )
    assert (tmp_path / "again.tflite").read_bytes() == (files / "dynamic.tflite").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantize": "int4"}, "quantize must be one of dynamic, float16, int8, got 'int4'"),
        ({"quantize": "int8"}, "needs calibration images that are public or synthetic"),
        ({"calibration": np.zeros((1, 8, 8, 1))}, 'calibration is for quantize="int8" alone'),
        (
            {"quantize": "int8", "calibration": np.zeros((2, 9, 8, 1))},
            r"calibration must be images of 8x8x1 .* got an array of shape \(2, 9, 8, 1\)",
        ),
        ({"quantize": "int8", "calibration": np.zeros((0, 8, 8, 1))}, "at least one"),
        ({"quantize": "int8", "calibration": "public"}, "got an array of shape"),
        (
            {"quantize": "int8", "calibration": np.full((1, 8, 8, 1), 256)},
            r"pixels in 0..255, got 256..256",
        ),
        ({"quantize": "int8", "calibration": np.full((1, 8, 8, 1), -1.0)}, "pixels in 0..255"),
        ({"quantize": "int8", "calibration": np.full((1, 8, 8, 1), np.nan)}, "finite pixels"),
        ({"class_names": ["a"]}, "class_names must be 10 names"),
        ({"noise_at_inference": True}, "norm_noise_stddev above 0"),
    ],
)
def test_bad_arguments_write_nothing(arguments, message, tmp_path):
    model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=10)
    with pytest.raises(InputError, match=message) as caught:
        kd.export.tflite(model, tmp_path / "m.tflite", **arguments)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_why_calibration_must_not_be_private_is_said():
    with pytest.raises(InputError, match="release outside epsilon"):
        kd.export.tflite(
            kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=10), "m", quantize="int8"
        )
    assert "written into the file" in " ".join(kd.export.tflite.__doc__.split())


@pytest.mark.parametrize("shape", [(28, 28, 1), (8, 8, 1), (32, 48, 3), (1, 1, 1), (5, 4, 7)])
def test_synthetic_images(shape):
    images = kd.export.synthetic_images(shape, n=40, seed=3)
    assert images.shape == (40, *shape)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, kd.export.synthetic_images(shape, n=40, seed=3))
    if min(shape[:2]) > 4:
        assert len(np.unique(images.reshape(40, -1), axis=0)) == 40
        assert np.any(images != kd.export.synthetic_images(shape, n=40, seed=4))
        assert images.min() < 30
        assert images.max() > 220
        spread = images.reshape(40, -1).std(axis=1)
        assert spread.min() < 25 < 60 < spread.max()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((28, 28),), "image_shape must be"),
        (("28,28,1",), "image_shape must be"),
        (((28, 0, 1),), "image_shape must be a whole number above 0"),
        (((28, 28, 1), 0), "n must be a whole number above 0"),
    ],
)
def test_synthetic_images_of_no_such_shape(arguments, message):
    with pytest.raises(InputError, match=message):
        kd.export.synthetic_images(*arguments)


@pytest.mark.parametrize("shape", [(28, 28, 1), (9, 7, 3)])
def test_no_image_has_a_greater_deviation_than_the_extreme_ones(shape):
    images = extreme_images(shape).reshape(4, -1).astype("float64")
    assert images.std(axis=1).max() == pytest.approx(127.5, rel=0.01)
    assert images.min() == 0
    assert images.max() == 255
