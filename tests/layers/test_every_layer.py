"""What every layer owes Keras and its neighbours in the batch."""

import ast
import inspect
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit import layers

GRID = [[0.5, 0.0], [2.5, 0.0], [0.5, 1.0], [2.5, 1.0]]
NOISE = {"attention_noise_stddev": 0.05}
BOTH = {**NOISE, "norm_noise_stddev": 0.05}
OTHER_GATE = {"gate": "independent", "head_offsets": "fill"}

# name: the layer from further keyword arguments, and the shape of an input
CASES = {
    "patches": (lambda **k: layers.PatchEmbedding(2, 6, **k), (3, 4, 6, 2)),
    "table": (lambda **k: layers.PositionTable(0.5, **k), (3, 5, 4)),
    "image": (lambda **k: layers.ImageStandardization(0.5, **k), (3, 4, 6, 2)),
    "pooling": (lambda **k: layers.TokenMaxPooling(**k), (3, 7, 4)),
    "pooling_padded": (lambda **k: layers.TokenMaxPooling(3, 2, 1, **k), (3, 7, 4)),
    "gain": (lambda **k: layers.GainAndBias(**k), (3, 5, 4)),
    "gain_alone": (lambda **k: layers.GainAndBias(use_bias=False, **k), (3, 5, 4)),
    "pooling_grid": (lambda **k: layers.TokenMaxPooling(3, 2, 1, (3, 4), **k), (3, 12, 4)),
    "norm": (lambda **k: layers.DPLayerNormalization(epsilon=1e-4, **k), (3, 5, 4)),
    "norm_noisy": (
        lambda **k: layers.DPLayerNormalization(0.1, True, use_bias=False, seed=7, **k),
        (3, 5, 4),
    ),
    "attention": (lambda **k: layers.SelfAttention(2, **k), (3, 5, 8)),
    "attention_noisy": (lambda **k: layers.SelfAttention(2, 0.05, seed=7, **k), (3, 5, 8)),
    "attention_options": (lambda **k: layers.SelfAttention(2, qk_scale=False, **k), (3, 5, 8)),
    "attention_noisy_rows": (
        lambda **k: layers.SelfAttention(2, 0.05, renormalize=False, seed=7, **k),
        (3, 5, 8),
    ),
    "threshold": (
        lambda **k: layers.ThresholdAttention(2, GRID, 0.5, **k),
        (3, 4, 8),
    ),
    "threshold_options": (
        lambda **k: layers.ThresholdAttention(6, None, 0.5, **OTHER_GATE, **k),
        (3, 9, 12),
    ),
    "threshold_sequence": (
        lambda **k: layers.ThresholdAttention(6, relative="1d", qk_scale=False, **k),
        (3, 5, 12),
    ),
    "threshold_noisy": (
        lambda **k: layers.ThresholdAttention(4, seed=7, noise_at_inference=True, **NOISE, **k),
        (3, 9, 8),
    ),
    "gate": (lambda **k: layers.PositionGate(GRID, 2.0, **k), (3, 2, 4, 4)),
    "gate_square": (lambda **k: layers.PositionGate(**k), (3, 5, 9, 9)),
    "gate_options": (lambda **k: layers.PositionGate(**OTHER_GATE, **k), (3, 5, 9, 9)),
    "gate_sequence": (
        lambda **k: layers.PositionGate(gate="independent", relative="1d", **k),
        (3, 5, 4, 4),
    ),
    "block": (lambda **k: layers.TransformerBlock(2, 12, **k), (3, 5, 8)),
    "block_threshold": (
        lambda **k: layers.TransformerBlock(2, 12, "threshold", GRID, 0.7, seed=7, **BOTH, **k),
        (3, 4, 8),
    ),
    "block_options_noisy": (
        lambda **k: layers.TransformerBlock(
            6,
            12,
            "threshold",
            **OTHER_GATE,
            relative="1d",
            qk_scale=False,
            renormalize=False,
            seed=7,
            **BOTH,
            **k,
        ),
        (3, 4, 12),
    ),
    "stem": (lambda **k: layers.ConvStem(3, **k), (3, 5, 4, 2)),
    "scattering": (lambda **k: layers.ScatteringTransform(1, 3, **k), (3, 8, 8, 2)),
    "depthwise": (lambda **k: layers.TokenDepthwiseConv(5, **k), (3, 7, 4)),
    "branch": (lambda **k: layers.ConvBranch(3, **k), (3, 3, 4, 6)),
    "branch_filters": (lambda **k: layers.ConvBranch(3, filters=2, **k), (3, 5, 4, 6)),
    "luma_chroma": (lambda **k: layers.LumaChroma(**k), (3, 5, 4, 3)),
    "resizing": (lambda **k: layers.AntialiasedResizing(3, 5, **k), (3, 8, 4, 2)),
    "whitened": (lambda **k: layers.WhitenedFeatures(4, **k), (3, 9)),
    "fusion": (lambda **k: layers.AdaptiveWeightedFusion(**k), (3, 2, 4)),
}
NOISY = [name for name in CASES if "noisy" in name or name == "block_threshold"]

# Loads every model in a directory without knowing of this file, and calls it as was called before.
IN_A_FRESH_PROCESS = """
import pathlib, sys
import keras, numpy as np
import keras_dpvit as kd

directory = pathlib.Path(sys.argv[1])
for path in sorted(directory.glob("*.keras")):
    known = np.load(path.with_suffix(".npz"))
    outputs = kd.load_model(path)(known["x"], training=True)
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    found = {str(n): keras.ops.convert_to_numpy(out) for n, out in enumerate(outputs)}
    np.savez(path.with_suffix(".found.npz"), **found)
"""


def inputs(name, seed=0):
    shape = CASES[name][1]
    x = np.random.default_rng(seed).standard_normal(shape).astype("float32")
    if "gate" in name or name == "fusion":  # these take distributions
        x = np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
    return x


def call(layer, x, training=False):
    """All outputs of a layer as NumPy arrays, float32."""
    takes_training = layer._call_has_training_arg
    outputs = layer(x, training=training) if takes_training else layer(x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return [keras.ops.convert_to_numpy(keras.ops.cast(out, "float32")) for out in outputs]


def constructor_arguments(cls):
    """Arguments of a layer's constructor and of those of ours that it passes the others to."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith("keras_dpvit")]
    named = (inspect.signature(base.__init__).parameters for base in ours)
    return {name for names in named for name in names} - {"self", "kwargs"}


def twins(name, shake, **arguments):
    """Two layers with equal weights, off their initial values, and equal states of the noise."""
    make, shape = CASES[name]
    first, second = make(**arguments), make(**arguments)
    for layer in (first, second):
        layer.build((None, *shape[1:]))
    shake(first)
    second.set_weights(first.get_weights())
    return first, second


def test_every_layer_of_the_room_is_here():
    made = {type(make()) for make, _ in CASES.values()}
    several_inputs = {"JoinedFeatures"}  # see test_whitening.py
    assert {cls.__name__ for cls in made} == set(layers.__all__) - several_inputs


@pytest.mark.parametrize("name", CASES)
def test_config_round_trip(name):
    layer = CASES[name][0](name="mine", dtype=keras.DTypePolicy("mixed_bfloat16"))
    config = json.loads(json.dumps(layer.get_config()))
    again = type(layer).from_config(config)
    assert again.get_config() == layer.get_config()
    assert again.name == "mine"
    assert again.dtype_policy.name == "mixed_bfloat16"
    assert set(config) == constructor_arguments(type(layer)) | {"name", "trainable", "dtype"}


@pytest.mark.parametrize("name", CASES)
def test_declared_shape_is_the_real_one(name):
    layer, x = CASES[name][0](), inputs(name)
    real = [out.shape for out in call(layer, x)]
    for batch in (len(x), None):
        declared = layer.compute_output_shape((batch, *x.shape[1:]))
        declared = [declared] if len(real) == 1 else list(declared)
        assert [tuple(shape) for shape in declared] == [(batch, *shape[1:]) for shape in real]


@pytest.mark.parametrize("name", CASES)
def test_batch_of_one_gives_what_the_batch_gives(name, shake):
    layer, _ = twins(name, shake)
    layer.noise_at_inference = False  # it would differ from call to call
    x = inputs(name)
    together = call(layer, x)
    for i in range(len(x)):
        for alone, row in zip(call(layer, x[i : i + 1]), together, strict=True):
            np.testing.assert_allclose(alone[0], row[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_no_example_touches_another(name, training, shake):
    first, second = twins(name, shake)
    x = inputs(name)
    changed = x.copy()
    changed[1] = inputs(name, seed=1)[1]
    outputs = zip(call(first, x, training), call(second, changed, training), strict=True)
    moved = 0.0
    for before, after in outputs:
        np.testing.assert_array_equal(before[[0, 2]], after[[0, 2]])
        moved += np.abs(before[1] - after[1]).max()
    assert moved > 1e-3


def gradients_of_one(layer, x, index):
    """Gradients of one example's loss in the input and in the variables, noise on."""
    inputs = tf.constant(x)
    takes_training = layer._call_has_training_arg
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=True) if takes_training else layer(inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = tf.add_n([tf.reduce_sum(tf.sin(output[index]) ** 2) for output in outputs])
    sources = [inputs, *(v.value for v in layer.trainable_variables)]
    return [gradient.numpy() for gradient in tape.gradient(loss, sources)]


@pytest.mark.parametrize("name", CASES)
def test_no_example_touches_the_gradient_of_another(name, shake):
    first, second = twins(name, shake)
    x = inputs(name)
    changed = x.copy()
    changed[1] = inputs(name, seed=1)[1]
    before, after = (gradients_of_one(*pair, 0) for pair in ((first, x), (second, changed)))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(before[0][1:], 0.0)  # in what the others put in
    for gradient in before:
        assert np.abs(gradient).max() > 1e-5


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", CASES)
def test_low_precision_is_finite_and_close(name, policy, shake):
    exact, _ = twins(name, shake)
    rough = CASES[name][0](dtype=policy)
    x = inputs(name)
    rough.build((None, *x.shape[1:]))
    rough.set_weights(exact.get_weights())
    stored = {keras.backend.standardize_dtype(w.dtype) for w in rough.weights}
    assert stored <= {"float32", "int8"}
    tolerance = 0.15 if policy == "mixed_bfloat16" else 0.02
    for training in (False, True):
        pairs = zip(call(exact, x, training), call(rough, x, training), strict=True)
        for expected, found in pairs:
            assert np.isfinite(found).all()
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NOISY)
def test_noise_follows_the_seed(name, shake):
    first, second = twins(name, shake)
    x = inputs(name)
    (one,), (same,) = call(first, x, True), call(second, x, True)
    np.testing.assert_array_equal(one, same)
    (later,) = call(first, x, True)
    assert np.abs(one - later).max() > 1e-4


@pytest.mark.parametrize("name", NOISY)
def test_noise_without_a_seed_is_fresh(name):
    config = CASES[name][0]().get_config()
    cls = type(CASES[name][0]())
    x = inputs(name)
    outputs = []
    weights = None
    for _ in range(2):
        layer = cls.from_config({**config, "seed": None})
        layer.build((None, *x.shape[1:]))
        weights = weights or layer.get_weights()
        layer.set_weights(weights)
        outputs.append(call(layer, x, True)[0])
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-4


@pytest.mark.parametrize("name", CASES)
def test_saved_layer_gives_the_same(name, shake, tmp_path):
    x = inputs(name)
    layer, twin = twins(name, shake)
    tensor = keras.Input(x.shape[1:])
    keras.Model(tensor, layer(tensor)).save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").layers[-1]
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
    for training in (False, True):  # a loaded layer's noise starts from its seed
        pairs = zip(call(twin, x, training), call(again, x, training), strict=True)
        for expected, found in pairs:
            np.testing.assert_array_equal(found, expected)


def test_layers_saved_together_give_the_same_in_a_fresh_process(shake, tmp_path):
    expected = {}
    for name in CASES:
        layer, twin = twins(name, shake)
        x = inputs(name)
        tensor = keras.Input(x.shape[1:])
        keras.Model(tensor, layer(tensor)).save(tmp_path / f"{name}.keras")
        np.savez(tmp_path / f"{name}.npz", x=x)
        expected[name] = call(twin, x, training=True)
    subprocess.run([sys.executable, "-c", IN_A_FRESH_PROCESS, tmp_path], check=True)
    for name, outputs in expected.items():
        found = np.load(tmp_path / f"{name}.found.npz")
        assert len(found.files) == len(outputs)
        for n, output in enumerate(outputs):
            np.testing.assert_array_equal(found[str(n)], output, err_msg=name)


def test_no_two_classes_are_saved_under_one_name():
    """Keras would load one as the other, as soon as both are imported."""
    names = []
    for path in pathlib.Path(kd.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and any(
                "register_keras_serializable" in ast.unparse(d) for d in node.decorator_list
            ):
                names.append(node.name)
    assert len(names) > 20
    assert sorted(names) == sorted(set(names))
