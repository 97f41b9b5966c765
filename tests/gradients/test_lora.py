"""Low-rank adapters of Keras' `enable_lora`, against Keras' own backward pass, and in training."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.gradients.fallback import VectorizedRule

layers = keras.layers


def adapted(make, shape, rank=2, dtype="float32", alpha=None, input_dtype=None):
    inputs = keras.Input(shape, dtype=input_dtype or dtype)
    layer = make(dtype)
    model = keras.Model(inputs, layer(inputs))
    layer.enable_lora(rank, lora_alpha=alpha)
    rng = np.random.default_rng(3)
    for variable in layer.trainable_variables:  # B starts at zero, which would hide A
        variable.assign(rng.normal(size=variable.shape))
    return model


def check_adapted(check, model, x, rtol):
    units = check(model, x, rtol, randomize=False)
    assert not any(isinstance(unit.rule, VectorizedRule) for unit in units)
    names = [v.name for unit in units for v in unit.variables]
    assert sum("lora" in name for name in names) == 2
    return names


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-4), ("float64", 1e-6)])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("tokens", [(), (5,), (2, 3)])
def test_dense(check, normal, tokens, use_bias, dtype, rtol):
    make = lambda kind: layers.Dense(4, "tanh", use_bias=use_bias, dtype=kind)  # noqa: E731
    model = adapted(make, (*tokens, 6), dtype=dtype, alpha=5)
    check_adapted(check, model, normal(3, *tokens, 6, dtype=dtype), rtol)


EQUATIONS = {
    "abc,cde->abde": ((5, 6), (5, 2, 3), "de"),
    "abcd,cde->abe": ((5, 2, 3), (5, 4), "e"),
    "abc,cd->abd": ((5, 6), (5, 4), None),
    "ab,bc->ac": ((6,), (4,), "c"),
}


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum_dense(check, normal, equation):
    shape, output, bias = EQUATIONS[equation]
    make = lambda kind: layers.EinsumDense(equation, output, bias_axes=bias, dtype=kind)  # noqa: E731
    check_adapted(check, adapted(make, shape, alpha=5), normal(3, *shape), 1e-4)


def test_a_last_axis_that_is_summed_over_is_left_to_the_fallback(check, normal):
    make = lambda kind: layers.EinsumDense("abc,dc->abd", (5, 4), dtype=kind)  # noqa: E731
    units = check(adapted(make, (5, 6)), normal(3, 5, 6), 1e-4, randomize=False)
    assert any(isinstance(unit.rule, VectorizedRule) for unit in units)


def test_embedding(check):
    model = adapted(lambda kind: layers.Embedding(7, 4), (5,), alpha=5, input_dtype="int32")
    words = np.array([[0, 1, 1, 6, 2], [3, 3, 3, 3, 3], [6, 5, 4, -1, 0]])
    check_adapted(check, model, words, 1e-4)


def test_one_layer_called_twice(check, normal):
    inputs, shared = keras.Input((6,)), layers.Dense(4)
    model = keras.Model(inputs, layers.Add()([shared(inputs), shared(inputs * inputs)]))
    shared.enable_lora(2)
    shared.lora_kernel_b.assign(np.random.default_rng(0).normal(size=(2, 4)))
    check_adapted(check, model, normal(3, 6), 1e-4)


@pytest.fixture(scope="module")
def trained(digit_images):
    """A small attention model with adapters, trained privately on digits; and before."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8))
    x = layers.Dense(16)(inputs)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 8)(x, x)])
    network = keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))
    for layer in network._flatten_layers():
        if isinstance(layer, (layers.Dense, layers.EinsumDense)):
            layer.enable_lora(4)
    frozen = {v.path: v.numpy() for v in network.non_trainable_variables}
    model = kd.make_private(network)
    plan = kd.PrivacyPlan(1437, 256, 4, 1e-4, noise_multiplier=0.6)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kd.DPKerasAdamOptimizer(plan, 1e-2), loss, metrics=["accuracy"])
    x = digit_images.x_train.reshape(-1, 8, 8).astype("float32") / 255
    start = [v.numpy() for v in network.trainable_variables]
    history = model.fit(x, digit_images.y_train, epochs=4, verbose=0).history
    return model, x, frozen, start, history


def test_adapters_train_and_what_is_frozen_stays_to_the_bit(trained):
    model, _, frozen, start, history = trained
    for variable in model.network.non_trainable_variables:
        np.testing.assert_array_equal(variable.numpy(), frozen[variable.path])
    for variable, before in zip(model.network.trainable_variables, start, strict=True):
        if "bias" not in variable.path or "key" not in variable.path:  # whose gradient is zero
            assert np.abs(variable.numpy() - before).max() > 0
    assert history["loss"][-1] < history["loss"][0]


def test_saved_reloaded_merged_and_served_are_one_model(trained, tmp_path):
    model, x, _, _, _ = trained
    expected = model.predict(x[:20], verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = kd.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(x[:20], verbose=0), expected, atol=1e-4)
    assert loaded.privacy_ledger.to_dict() == model.privacy_ledger.to_dict()
    # Keras merges the adapters into the kernels of a file.
    merged = next(v for v in loaded.network.layers[1].weights if v.path.endswith("/kernel"))
    layer = model.network.layers[1]
    product = layer.lora_kernel_a.numpy() @ layer.lora_kernel_b.numpy()
    np.testing.assert_allclose(merged.numpy(), layer._kernel.numpy() + product, atol=1e-5)
    model.export(str(tmp_path / "served"), verbose=False)
    np.save(tmp_path / "x.npy", x[:20])
    program = (
        "import numpy as np, tensorflow as tf, sys\n"
        "model = tf.saved_model.load(sys.argv[1] + '/served')\n"
        "np.save(sys.argv[1] + '/y.npy', model.serve(np.load(sys.argv[1] + '/x.npy')))"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-4)


def test_adapters_in_a_frozen_backbone_have_rules(check, normal):
    """The backbone is frozen, one of its layers trains again: the model trains it, as in Keras."""
    inputs = keras.Input((5, 6))
    inner = layers.Dense(6, "tanh")
    backbone = keras.Model(inputs, layers.Dense(6)(inner(layers.Dense(6)(inputs))))
    outer = keras.Input((5, 6))
    model = keras.Model(outer, layers.Dense(3)(backbone(outer)))
    backbone.trainable = False
    inner.trainable = True
    inner.enable_lora(2)
    inner.lora_kernel_b.assign(np.random.default_rng(3).normal(size=inner.lora_kernel_b.shape))
    assert not backbone.trainable_variables
    units = check(model, normal(3, 5, 6), 1e-4, randomize=False)
    assert not any(isinstance(unit.rule, VectorizedRule) for unit in units)
    assert sum(len(unit.variables) for unit in units) == 5
