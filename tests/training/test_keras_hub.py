"""Classifiers of KerasHub, built without weights, trained privately."""

import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.errors import InputError

models = keras_hub.models
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
# Ten classes: 0.1 is chance. Random features under a new head are worth less than trained ones.


def vit(dropout=0.0):
    backbone = models.ViTBackbone(
        image_shape=(8, 8, 1),
        patch_size=2,
        num_layers=2,
        num_heads=2,
        hidden_dim=32,
        mlp_dim=64,
        dropout_rate=dropout,
        attention_dropout=dropout,
    )
    return models.ViTImageClassifier(backbone=backbone, num_classes=10)


def convolutional(number):
    """MobileNet's and ResNet's smallest, with batch normalisation."""
    if number == 0:
        backbone = models.MobileNetBackbone(
            [[1], [1]],
            [1, 1],
            [[8], [8]],
            [[3], [3]],
            [[1], [1]],
            [[None], [None]],
            [["relu"], ["relu"]],
            [[1], [1]],
            output_num_filters=16,
            depthwise_filters=16,
            depthwise_stride=1,
            depthwise_residual=False,
            last_layer_filter=16,
            image_shape=(32, 32, 3),
        )
        return models.MobileNetImageClassifier(backbone=backbone, num_classes=5)
    backbone = models.ResNetBackbone(
        [64], [3], [64, 64], [1, 1], [1, 2], "basic_block", image_shape=(32, 32, 3)
    )
    return models.ResNetImageClassifier(backbone=backbone, num_classes=5)


def a_plan(records, epochs):
    return kd.PrivacyPlan(
        num_examples=records,
        batch_size=256,
        epochs=epochs,
        delta=1e-4,
        noise_multiplier=0.8,
        seed=4,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainable", "dropout", "enough"),
    [("head", 0.0, 0.25), ("bias", 0.0, 0.25), ("all", 0.1, 0.4)],
)
def test_training_on_digits(trainable, dropout, enough, digit_images):
    keras.utils.set_random_seed(0)
    network = vit(dropout)
    before = [v.numpy() for v in network.weights]
    model = kd.make_private(network, trainable=trainable)
    plan = a_plan(len(digit_images.x_train), 12)
    model.compile(kd.DPKerasAdamOptimizer(plan, 5e-3), LOSS, metrics=["accuracy"])
    x = digit_images.x_train.astype("float32") / 255
    history = model.fit(x, digit_images.y_train, epochs=12, verbose=0).history
    assert history["loss"][-1] < 0.85 * history["loss"][0]
    assert np.mean(model.predict(x, verbose=0).argmax(axis=1) == digit_images.y_train) > enough
    moved = [v for v, b in zip(network.weights, before, strict=True) if np.any(v.numpy() != b)]
    assert {id(v) for v in moved} == {id(v) for v in network.trainable_variables}
    assert model.privacy_ledger.epsilon(1e-4) == pytest.approx(plan.epsilon())


def test_a_saved_model_loads_in_a_fresh_process(digit_images, tmp_path):
    model = kd.make_private(vit(), trainable="bias")
    x = digit_images.x_train[:300].astype("float32") / 255
    model.compile(kd.DPKerasAdamOptimizer(a_plan(300, 1), 1e-2), LOSS)
    model.fit(x, digit_images.y_train[:300], verbose=0)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "expected.npy", model.predict(x[:20], verbose=0))
    np.save(tmp_path / "x.npy", x[:20])
    code = (
        "import sys, warnings, numpy as np\n"
        "import keras_hub, keras_dpvit as kd\n"
        "folder = sys.argv[1]\n"
        "warnings.simplefilter('error')\n"
        "model = kd.load_model(folder + '/model.keras')\n"
        "found = model.predict(np.load(folder + '/x.npy'), verbose=0)\n"
        "np.testing.assert_allclose(found, np.load(folder + '/expected.npy'), atol=1e-5)\n"
        "assert [e.steps for e in model.privacy_ledger.all_entries()] == [2]\n"
        "assert model.trainable_part == 'bias'\n"
        "assert len(model.trainable_variables) == len(model.optimizer.variables) // 2 - 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", [0, 1])
def test_batch_normalisation_is_refused(number):
    model = convolutional(number)
    with pytest.raises(InputError, match="BatchNormalization: it mixes the examples"):
        kd.make_private(model)
    with pytest.raises(InputError, match="mixes examples"):
        kd.make_private(model, trainable="head")


def test_a_frozen_backbone_with_batch_normalisation_lends_its_features():
    model = convolutional(1)
    model.backbone.trainable = False  # so that Keras runs its statistics as they are
    private = kd.make_private(model, trainable="head")
    assert [v.path for v in private.trainable_variables] == [
        "predictions/kernel",
        "predictions/bias",
    ]


def test_what_hub_models_need_before_they_are_private():
    backbone = models.VGGBackbone([1], [4], image_shape=(None, None, 3))
    model = models.ImageClassifier(backbone=backbone, num_classes=3)
    with pytest.raises(InputError, match=r"inputs of fixed sides, .* has"):
        kd.make_private(model)
    model = vit()
    model.preprocessor = models.ViTImageClassifierPreprocessor()
    with pytest.raises(InputError, match=r"set model\.preprocessor = None"):
        kd.make_private(model)
