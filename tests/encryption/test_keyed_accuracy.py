"""What trained models under a key see of encrypted images and of plain ones."""

import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit import datasets
from keras_dpvit.encryption import SecretKey, ViTBlockCipher, transform_model

KEYS = [SecretKey(bytes([number]) * 32) for number in range(8)]


def trained(data, patch_size, examples, epochs):
    """A classifier that can be transformed, trained for some seconds without privacy."""
    keras.utils.set_random_seed(3)
    backbone = kd.DPViTBackbone(
        data.image_shape,
        patch_size,
        hidden_dim=32,
        num_heads=4,
        position_stddev=0.7,
        first_attention="self",
        stage_depths=(1,),
    )
    model = kd.DPViTClassifier(backbone, data.num_classes)
    model.compile(
        keras.optimizers.Adam(5e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    model.fit(
        data.x_train[:examples].astype("float32"),
        data.y_train[:examples],
        batch_size=50,
        epochs=epochs,
        verbose=0,
        public_data=True,
    )
    return model


def logits(model, images):
    return model.predict(images.astype("float32"), batch_size=500, verbose=0)


def accuracies(model, images, labels, unit, patch_size):
    """Of the models under each key, on plain images: of the plain one, on decrypted ones."""
    found = []
    for key in KEYS:
        cipher = ViTBlockCipher.from_key(key, images.shape[1:], patch_size, unit=unit)
        found.append(np.mean(logits(model, cipher.decrypt(images)).argmax(-1) == labels))
    return found


@pytest.mark.slow
def test_1000_images_of_clothes():
    fashion = datasets.load("fashion_mnist")
    model = trained(fashion, 4, 6000, 3)
    plain, labels = fashion.x_test[:1000], fashion.y_test[:1000]
    keyed = transform_model(model, KEYS[1])
    assert isinstance(keyed, kd.DPViTClassifier)
    cipher = ViTBlockCipher.from_key(KEYS[1], (28, 28, 1), 4)
    expected, found = logits(model, plain), logits(keyed, cipher.encrypt(plain))
    assert np.mean(expected.argmax(-1) == labels) > 0.75
    assert np.abs(found - expected).max() <= 1e-5
    assert (expected.argmax(-1) == found.argmax(-1)).all()
    # To the keyed model a plain image is what its key makes of it when it decrypts.
    apart = logits(keyed, plain)
    np.testing.assert_allclose(apart, logits(model, cipher.decrypt(plain)), rtol=0, atol=1e-5)
    # Without the key little is left. It is not chance, 0.1: how much is dark is no secret, and
    # alone tells 0.26; quadrants, which keep their places in a patch, tell some more.
    assert np.mean(accuracies(model, plain, labels, "quadrant", 4)) < 0.3
    assert np.mean(accuracies(model, plain, labels, "patch", 4)) < 0.22


def test_plain_digits_are_classified_near_chance_without_the_key():
    digits = datasets.load("digits")
    model = trained(digits, 2, 1437, 15)
    images, labels = digits.x_test, digits.y_test
    assert np.mean(logits(model, images).argmax(-1) == labels) > 0.85
    assert np.mean(accuracies(model, images, labels, "patch", 2)) < 0.15
