"""The classifier: logits, files, and ordinary Keras training."""

import inspect
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.models.private_model import PrivatelyTrainable

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def test_logits_are_linear_in_the_mean_token(small_classifier, images):
    model = small_classifier()
    head = model.get_layer("logits")
    tokens = model.backbone(images).numpy()
    expected = tokens.mean(axis=1) @ head.kernel.numpy() + head.bias.numpy()
    np.testing.assert_allclose(model(images), expected, rtol=1e-4, atol=1e-5)


gelu = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))


@pytest.mark.parametrize("final_norm", [False, True])
@pytest.mark.parametrize("head_hidden_dim", [None, 5])
def test_head_is_what_was_asked_for(make_variant, variant_images, final_norm, head_hidden_dim):
    model = make_variant({"final_norm": final_norm, "head_hidden_dim": head_hidden_dim})
    x = model.backbone(variant_images).numpy().astype("float64")
    if final_norm:
        learned = model.get_layer("final_norm").gain_and_bias
        x = (x - x.mean(axis=-1, keepdims=True)) / x.std(axis=-1, keepdims=True)
        x = x * learned.gain.numpy() + learned.bias.numpy()
    x = x.mean(axis=1)
    if head_hidden_dim is not None:
        hidden = model.get_layer("head_hidden")
        assert hidden.units == head_hidden_dim
        x = gelu(x @ hidden.kernel.numpy() + hidden.bias.numpy())
    head = model.get_layer("logits")
    expected = x @ head.kernel.numpy() + head.bias.numpy()
    np.testing.assert_allclose(model(variant_images), expected, rtol=1e-3, atol=1e-4)
    names = {layer.name for layer in model.layers}
    assert ("final_norm" in names, "head_hidden" in names) == (final_norm, bool(head_hidden_dim))


def both_parts(model, images):
    """Logits of the transformer and of the branch, from the layers themselves."""
    outputs = model.backbone(images)
    branch = model.get_layer("conv_branch")(outputs["features"])
    return model.get_layer("logits")(model.get_layer("pooler")(outputs["tokens"])), branch


@pytest.mark.parametrize("name", ["parallel", "scattering_parallel"])
def test_parallel_branch_is_added_to_the_logits(make_variant, variants, variant_images, name):
    model = make_variant(variants[name])
    transformer, branch = both_parts(model, variant_images)
    np.testing.assert_array_equal(model(variant_images), transformer + branch)
    for part in (transformer, branch):
        assert part.shape == (3, 3)
        assert np.std(part, axis=0).max() > 1e-3


@pytest.mark.parametrize("features", ["pixels", "scattering"])
def test_transformer_starts_alone(small_classifier, variant_images, features):
    model = small_classifier(
        image_shape=(8, 8, 1), conv_module="parallel", features=features, scattering_scales=1
    )
    transformer, branch = both_parts(model, variant_images)
    np.testing.assert_array_equal(branch, 0.0)
    np.testing.assert_array_equal(model(variant_images), transformer)
    assert np.std(transformer, axis=0).max() > 1e-3


def test_only_a_parallel_backbone_makes_a_branch(variants, make_variant):
    for variant in variants.values():
        layers = {layer.name for layer in make_variant(variant).layers}
        assert ("conv_branch" in layers) == (variant.get("conv_module") == "parallel")


@pytest.mark.parametrize("head_hidden_dim", [0, -1, 2.5])
def test_hidden_width_of_the_head_is_refused_by_name(small_classifier, head_hidden_dim):
    with pytest.raises(InputError, match="head_hidden_dim must be a whole number above 0"):
        small_classifier(head_hidden_dim=head_hidden_dim)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_logits_are_float32_whatever_the_precision(small_classifier, images, policy):
    exact, rough = small_classifier(), small_classifier(dtype=policy)
    rough.set_weights(exact.get_weights())
    logits = rough(images, training=True)
    assert logits.dtype == tf.float32
    assert np.isfinite(logits.numpy()).all()
    np.testing.assert_allclose(logits, exact(images), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("num_classes", "message"),
    [(0, "above 0"), (1, "at least 2"), (-3, "above 0"), (2.0, "above 0"), (None, "above 0")],
)
def test_number_of_classes_is_refused_by_name(small_backbone, num_classes, message):
    with pytest.raises(InputError, match=f"num_classes must be .*{message}"):
        kd.DPViTClassifier(small_backbone(), num_classes)


def test_config_round_trip(small_classifier):
    head = {"final_norm": True, "head_hidden_dim": 4}
    model = small_classifier(5, name="mine", dtype="mixed_bfloat16", **head)
    config = json.loads(json.dumps(model.get_config()))
    assert set(config) == set(inspect.signature(kd.DPViTClassifier).parameters)
    assert head.items() <= config.items()
    again = kd.DPViTClassifier.from_config(config)
    assert again.get_config() == model.get_config()
    assert (again.name, again.num_classes) == ("mine", 5)
    assert again.backbone.dtype_policy.name == "mixed_bfloat16"


@pytest.mark.parametrize(("frozen", "left"), [("none", 40), ("backbone", 2), ("all", 0)])
def test_loaded_model_trains_what_the_saved_one_did(small_classifier, tmp_path, frozen, left):
    model = small_classifier()
    if frozen != "none":
        (model if frozen == "all" else model.backbone).trainable = False
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    paths = [[v.path for v in m.trainable_variables] for m in (model, again)]
    assert len(paths[0]) == left
    assert paths[1] == paths[0]


def test_misspelled_arguments_are_refused(small_backbone):
    with pytest.raises(TypeError, match="final_normalisation"):
        kd.DPViTClassifier(small_backbone(), 3, final_normalisation=True)


def test_saved_file_keeps_outputs_and_ledger(trained_members, digit_images, tmp_path):
    model = trained_members[0]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again) is kd.DPViTClassifier
    x = digit_images.x_test[:32].astype("float32")
    np.testing.assert_array_equal(again(x), model(x))
    (entry,) = again.privacy_ledger.all_entries()
    assert entry == model.privacy_ledger.all_entries()[0]
    assert entry.steps == 23  # ceil(4 * 1437 / 256)
    assert again.privacy_statement() == model.privacy_statement()
    assert again.privacy_delta() == 1e-4


def test_weights_alone_keep_the_ledger_too(trained_members, digit_images, tmp_path):
    model = trained_members[0]
    model.save_weights(tmp_path / "model.weights.h5")
    again = kd.DPViTClassifier.from_config(model.get_config())
    again.load_weights(tmp_path / "model.weights.h5")
    x = digit_images.x_test[:8].astype("float32")
    np.testing.assert_array_equal(again(x), model(x))


def test_ordinary_optimizer_is_ordinary_training(small_classifier):
    # A quadrant brighter than the rest names the class.
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 120)
    x = rng.integers(0, 100, (120, 4, 4, 1)).astype("float32")
    for i, label in enumerate(y):
        row, column = divmod(label, 2)
        x[i, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 150
    keras.utils.set_random_seed(0)
    model = small_classifier()
    model.compile(keras.optimizers.Adam(1e-2), LOSS, metrics=["accuracy"], jit_compile=False)
    # A data set and a batch size are what a private fit refuses.
    batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(120, seed=0).batch(30)
    history = model.fit(batches, epochs=15, shuffle=False, public_data=True, verbose=0).history
    assert history["accuracy"][-1] > 0.9
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert model.privacy_ledger.all_entries() == ()
    assert "nothing is claimed" in model.privacy_statement()
    # Unless the records are declared public, no epsilon covers what was done with them.
    assert model.fit(x, y, batch_size=30, verbose=0).history["accuracy"][0] > 0.9
    assert model.privacy_ledger.epsilon(1e-5) == math.inf
    assert "epsilon by RDP: infinite" in model.privacy_statement()


def test_ordinary_fit_gives_what_a_plain_keras_model_gives(small_classifier):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 255, (40, 4, 4, 1)), rng.integers(0, 3, 40)
    ours = small_classifier()
    plain = keras.Model(ours.inputs, ours.outputs)
    start = ours.get_weights()
    after = []
    for model in (ours, plain):
        model.set_weights(start)
        model.compile(keras.optimizers.SGD(0.05), LOSS, jit_compile=False)
        model.fit(x, y, batch_size=10, epochs=2, shuffle=False, verbose=0)
        after.append(model.get_weights())
    assert not isinstance(plain, PrivatelyTrainable)
    for found, expected in zip(*after, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    moved = [np.abs(a - b).max() for a, b in zip(after[0], start, strict=True)]
    assert max(moved) > 1e-2
