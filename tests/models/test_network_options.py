"""What every variant of the network owes: files, precision, and nothing across examples."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd

NOISE = {"attention_noise_stddev": 0.1, "norm_noise_stddev": 0.1, "seed": 3}

# Loads every model in a directory and calls it on images beside them.
IN_A_FRESH_PROCESS = """
import pathlib, sys
import numpy as np
import keras_dpvit as kd

directory = pathlib.Path(sys.argv[1])
images = np.load(directory / "images.npy")
for path in sorted(directory.glob("*.keras")):
    model = kd.load_model(path)
    found = {"logits": model(images).numpy(), **model.attention_maps(images)}
    np.savez(path.with_suffix(".npz"), **found)
"""


def test_config_round_trip(variant, make_variant):
    model = make_variant(variant, dtype="mixed_bfloat16", **NOISE)
    config = json.loads(json.dumps(model.get_config()))
    again = kd.DPViTClassifier.from_config(config)
    assert again.get_config() == model.get_config()
    for ours, twin in ((model, again), (model.backbone, again.backbone)):
        assert [layer.name for layer in ours.layers] == [layer.name for layer in twin.layers]
        for layer, other in zip(ours.layers, twin.layers, strict=True):
            assert layer.get_config() == other.get_config()


def test_saved_file_gives_the_same(variant, make_variant, variant_images, tmp_path):
    model, twin = make_variant(variant, **NOISE), make_variant(variant, **NOISE)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again) is kd.DPViTClassifier
    assert again.get_config() == model.get_config()
    for training in (False, True):  # the noise of a loaded model starts from its seed
        expected = twin(variant_images, training=training)
        np.testing.assert_array_equal(again(variant_images, training=training), expected)


def test_saved_files_give_the_same_in_a_fresh_process(
    variants, make_variant, variant_images, tmp_path
):
    np.save(tmp_path / "images.npy", variant_images)
    expected = {}
    for name, variant in variants.items():
        model = make_variant(variant, **NOISE)
        model.save(tmp_path / f"{name}.keras")
        maps = model.attention_maps(variant_images)
        expected[name] = {"logits": model(variant_images).numpy(), **maps}
    subprocess.run([sys.executable, "-c", IN_A_FRESH_PROCESS, tmp_path], check=True)
    for name, arrays in expected.items():
        found = np.load(tmp_path / f"{name}.npz")
        assert set(found) == set(arrays)
        for key, array in arrays.items():
            np.testing.assert_array_equal(found[key], array, err_msg=f"{name}: {key}")


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_low_precision_is_finite_and_close(policy, variant, make_variant, variant_images):
    exact, rough = make_variant(variant), make_variant(variant, dtype=policy)
    expected, logits = exact(variant_images), rough(variant_images, training=True)
    assert logits.dtype == tf.float32
    assert np.isfinite(logits.numpy()).all()
    spread = np.abs(expected).max()
    tolerance = (0.1 if policy == "mixed_bfloat16" else 0.02) * max(spread, 1.0)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)


def test_batch_of_one_gives_what_the_batch_gives(variant, make_variant, variant_images):
    model = make_variant(variant)
    together = model(variant_images).numpy()
    for i, row in enumerate(together):
        alone = model(variant_images[i : i + 1])[0]
        np.testing.assert_allclose(alone, row, rtol=1e-4, atol=1e-5)


def losses_gradients(model, images, index):
    """Logits, and one image's gradient in the images and all variables, noise on."""
    images = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = model(images, training=True)
        loss = tf.reduce_sum(tf.sin(logits[index]) ** 2)
    sources = [images, *(v.value for v in model.trainable_variables)]
    return logits.numpy(), [g.numpy() for g in tape.gradient(loss, sources)]


def test_no_image_touches_another_nor_its_gradient(variant, make_variant, variant_images):
    changed = variant_images.copy()
    changed[1] = 255 - changed[1] ** 2 / 255
    found = []
    for images in (variant_images, changed):
        found.append(losses_gradients(make_variant(variant, **NOISE), images, 2))
    (logits, gradients), (other_logits, other_gradients) = found
    np.testing.assert_array_equal(logits[[0, 2]], other_logits[[0, 2]])
    assert np.abs(logits[1] - other_logits[1]).max() > 1e-3
    for one, other in zip(gradients, other_gradients, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(gradients[0][:2], 0.0)  # in the other images


def test_every_weight_has_a_gradient(variant, make_variant, variant_images):
    # Under DP one without would receive nothing but noise.
    model = make_variant(variant)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(model(variant_images)) ** 2)
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert np.abs(gradient.numpy()).max() > 1e-5, variable.path


def test_noise_is_for_training_only(variant, make_variant, variant_images):
    noisy, quiet = make_variant(variant, **NOISE), make_variant(variant)
    np.testing.assert_array_equal(noisy(variant_images), quiet(variant_images))
    trained = noisy(variant_images, training=True)
    assert np.abs(trained - noisy(variant_images)).max() > 1e-3
