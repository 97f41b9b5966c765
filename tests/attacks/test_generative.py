"""GAN attacks: networks, spectral norm, what reaches the training, going on, scores."""

import dataclasses
import inspect
import shutil

import numpy as np
import pytest

from keras_dpvit.attacks import (
    generative,
    image_translation,
    trained_attacks,
    trained_networks,
    trained_settings,
)
from keras_dpvit.attacks.generative import GanSettings
from keras_dpvit.attacks.image_translation import TranslationSettings
from keras_dpvit.attacks.ssim import ssim
from keras_dpvit.attacks.trained_steps import EpochStore
from keras_dpvit.encryption import SecretKey, make_cipher
from keras_dpvit.errors import InputError

SHAPE = (16, 16, 1)
SIA = GanSettings(
    generator_widths=(8, 0),
    discriminator_widths=(8, 8),
    classifier="small",
    epochs=2,
    batch_size=16,
    learning_rates=(1e-3, 2e-3),
)
DCGAN = dataclasses.replace(
    generative.DCGAN,
    generator_widths=(8, 32),
    discriminator_widths=(8, 8),
    epochs=2,
    batch_size=16,
)


@pytest.fixture(scope="module")
def parts(digit_images):
    """Three sets of 16x16 digits."""
    data = dataclasses.replace(
        digit_images,
        x_train=digit_images.x_train.repeat(2, 1).repeat(2, 2),
        x_test=digit_images.x_test.repeat(2, 1).repeat(2, 2),
    )
    return trained_attacks.make_parts(data, SHAPE, 48, 48, 40)


@pytest.fixture(scope="module")
def ciphertexts(parts):
    return make_cipher("le", bytes(32), SHAPE).encrypt(parts.victim)


def _largest_singular_values(model):
    import keras

    found = []
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.SpectralNormalization):
            kernel = np.asarray(layer.layer.kernel)
            matrix = kernel.reshape(-1, kernel.shape[-1])
            found.append(np.linalg.svd(matrix, compute_uv=False)[0])
    return found


def test_networks_have_the_published_sizes():
    generator = trained_networks.sia_generator((32, 32, 3))
    trainable = sum(int(np.prod(w.shape)) for w in generator.trainable_weights)
    # The biases of the block projections and batch normalisation count for less than a twentieth.
    assert trainable == pytest.approx(1.09e6, rel=0.05)
    discriminator = trained_networks.sia_discriminator((32, 32, 3))
    assert discriminator.output_shape == (None, 1)
    trainable = sum(int(np.prod(w.shape)) for w in discriminator.trainable_weights)
    assert trainable == pytest.approx(13.4e6, rel=0.01)


def test_spectral_norm_is_one_after_training_calls():
    """Power iteration converges; every convolution and the dense layer is normalised."""
    discriminator = trained_networks.sia_discriminator((16, 16, 1), (8, 8))
    generator = trained_networks.sia_generator((16, 16, 1), 8, 1, "shared")
    images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 1)).astype(np.float32)
    for model, count in ((discriminator, 2 + 3 + 1 + 3 + 1), (generator, 6)):
        for _ in range(15):
            model(images, training=True)
        values = _largest_singular_values(model)
        assert len(values) == count
        np.testing.assert_allclose(values, 1, atol=0.05)
    assert generator(images).shape == (2, 16, 16, 1)
    assert len(generator.get_layer(index=-2).layer.weights) == 1  # no biases


def test_attention_starts_as_the_identity_and_sees_every_place():
    layer = trained_networks.FeatureAttention()
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 16)).astype(np.float32)
    np.testing.assert_array_equal(layer(x), x)
    layer.gamma.assign(1.0)
    query, key, value = (np.asarray(p(x)).reshape(16, -1) for p in layer.projections)
    logits = query @ key.T
    weights = np.exp(logits - logits.max(1, keepdims=True))
    attended = weights / weights.sum(1, keepdims=True) @ value
    np.testing.assert_allclose(layer(x), x + attended.reshape(x.shape), atol=1e-5)


@pytest.mark.parametrize("settings", [SIA, DCGAN], ids=["sia", "dcgan"])
def test_a_killed_training_goes_on_as_if_nothing_had_been(parts, ciphertexts, settings, tmp_path):
    labels = parts.victim_labels if settings.form == "sia" else None
    store = EpochStore(tmp_path / "killed")

    def keep_the_first(epoch, losses):
        if epoch == 1:  # all that a run which is killed now leaves behind
            shutil.copytree(tmp_path / "killed", tmp_path / "first")

    arguments = (ciphertexts, labels, parts.own, settings)
    whole = generative.train(*arguments, store, keep_the_first)
    names = {"discriminator", "generator"} | ({"classifier"} if settings.form == "sia" else set())
    assert set(whole.history[0]) == names
    assert all(np.isfinite(list(losses.values())).all() for losses in whole.history)
    epochs = []
    resumed = generative.train(
        *arguments,
        EpochStore(tmp_path / "first"),
        on_epoch=lambda epoch, losses: epochs.append(epoch),
    )
    assert epochs == [2]
    for one, other in zip(resumed.history, whole.history, strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    recovered = [trained.recover(ciphertexts).astype(int) for trained in (resumed, whole)]
    assert np.abs(recovered[0] - recovered[1]).max() <= 1
    assert recovered[0].shape == parts.victim.shape
    with pytest.raises(InputError, match="another attack"):
        generative.train(ciphertexts[::-1], labels, parts.own, settings, store)


def test_a_discriminator_tells_and_a_generator_learns_to_deceive(parts, ciphertexts):
    """With the other at rest, each one's loss falls; losses are those of the form."""
    labels = parts.victim_labels
    still = dataclasses.replace(SIA, learning_rates=(1e-9, 5e-3), epochs=4)
    history = generative.train(ciphertexts, labels, parts.own, still).history
    losses = [epoch["discriminator"] for epoch in history]
    assert losses[0] == pytest.approx(2, rel=0.5)  # hinge: 1 for natural images, 1 for the others
    assert losses[-1] < losses[0] / 2
    still = dataclasses.replace(DCGAN, learning_rates=(1e-9, 5e-3), epochs=4)
    history = generative.train(ciphertexts, None, parts.own, still).history
    losses = [epoch["discriminator"] for epoch in history]
    assert losses[0] == pytest.approx(2 * np.log(2), rel=0.5)
    assert losses[-1] < 0.8 * losses[0]
    deceit = dataclasses.replace(DCGAN, learning_rates=(5e-3, 1e-9), epochs=4)
    history = generative.train(ciphertexts, None, parts.own, deceit).history
    assert history[-1]["generator"] < history[0]["generator"]


def test_no_plain_image_of_the_victim_reaches_a_training(parts, monkeypatch):
    """Trainings take ciphertexts, labels and own images; what they are given shows no other."""
    assert list(inspect.signature(generative.train).parameters) == [
        *("encrypted", "labels", "own_images"),
        *("settings", "store", "on_epoch"),
    ]
    assert list(inspect.signature(image_translation.train).parameters) == [
        *("encrypted", "plain"),
        *("settings", "store", "on_epoch"),
    ]
    hidden = {image.tobytes() for image in (*parts.victim, *parts.test)}
    own = {image.tobytes() for image in parts.own}
    assert not hidden & own
    given = {}

    class StoppedError(Exception):
        pass

    def spy(*arguments):
        given["arrays"] = [a for a in arguments if isinstance(a, np.ndarray)]
        raise StoppedError

    monkeypatch.setattr(generative, "train", spy)
    monkeypatch.setattr(image_translation, "train", spy)
    for attack in trained_settings.ATTACKERS:
        settings = trained_settings.settings_for(attack, "le", {})
        with pytest.raises(StoppedError):
            trained_attacks.attack_test_images(attack, "le", {}, parts, lambda *_: 0.0, settings)
        images = [a for a in given["arrays"] if a.ndim == 4]
        assert len(images) == 2
        for array in images:
            assert not hidden & {image.tobytes() for image in array}
        plain = {image.tobytes() for image in images[1]}
        assert plain == own, attack
        labels = [a for a in given["arrays"] if a.ndim == 1]
        assert len(labels) == (attack == "sia_gan")


def test_scores_of_a_perfect_a_constant_and_a_useless_recovery(parts):
    encrypted = make_cipher("pe", bytes(32), SHAPE).encrypt(parts.test)
    perfect = trained_attacks.score(parts, encrypted, parts.test)
    assert perfect["broken"] is True
    assert perfect["ssim_uniform7"]["median"] == 1
    expected = ssim(parts.test, encrypted, "gaussian11")
    assert perfect["ssim_gaussian11_ciphertext"] == {
        "mean": pytest.approx(expected.mean()),
        "median": pytest.approx(np.median(expected)),
        "percentile_95": pytest.approx(np.percentile(expected, 95)),
    }
    mean = np.rint(parts.own.mean(0)).astype(np.uint8)
    constant = trained_attacks.score(parts, encrypted, np.broadcast_to(mean, parts.test.shape))
    assert constant["broken"] is False
    assert constant["ssim_uniform7"] == constant["ssim_uniform7_mean_image"]
    assert constant["ssim_uniform7_other_image"]["median"] == pytest.approx(
        constant["ssim_uniform7"]["median"], abs=1e-9
    )
    assert trained_attacks.score(parts, encrypted, encrypted)["broken"] is False


def test_an_outcome_has_the_victims_ciphertexts_and_the_judges_word(parts):
    judge = trained_attacks.train_judge(parts.own, parts.own_labels, 10)
    told = trained_attacks.attack_test_images("fr", "pe", {}, parts, judge, seed=3)
    again = trained_attacks.attack_test_images("fr", "pe", {}, parts, judge, seed=3)
    other = trained_attacks.attack_test_images("fr", "pe", {}, parts, judge, seed=4)
    np.testing.assert_array_equal(told.encrypted, again.encrypted)
    assert (told.encrypted != other.encrypted).any()
    key = SecretKey(np.random.default_rng([3, 0]).bytes(32))
    np.testing.assert_array_equal(told.encrypted, make_cipher("pe", key, SHAPE).encrypt(told.plain))
    accuracy = told.summary["accuracy"]
    assert accuracy["plain"] == judge(parts.test, parts.test_labels)
    assert accuracy["plain"] > accuracy["ciphertext"]
    assert key.kid not in repr(told.summary)
    with pytest.raises(InputError, match="changes the images' shape"):
        trained_attacks.attack_test_images(
            "fr",
            "etc",
            {"mode": "grayscale"},
            dataclasses.replace(parts, test=parts.test.repeat(3, -1)),
            judge,
        )


def test_settings_follow_the_scheme_and_the_scale():
    for attack in trained_settings.ATTACKERS:
        full = trained_settings.settings_for(attack, "vit_block", {}, "full")
        small = trained_settings.settings_for(attack, "vit_block", {"block_size": 4})
        assert (full.block_size, small.block_size) == (16, 4)
        assert full.epochs >= small.epochs
        assert trained_settings.settings_for(attack, "pe", {}, epochs=2).epochs == 2
        assert trained_settings.settings_for(attack, "pe", {}).block_size == 1
    full = trained_settings.settings_for("itn", "le", {}, "full")
    assert full == TranslationSettings()
    stack = trained_settings.settings_for("itn", "le", {}, "full", "stack")
    assert stack == image_translation.STACK
    paired = trained_settings.settings_for("itn_paired", "ele", {}, "full", "unet")
    assert paired == TranslationSettings(adaptation="per_block_mixed")
    full = trained_settings.settings_for("dcgan", "le", {}, "full")
    assert full == generative.DCGAN
    published = trained_settings.settings_for("sia_gan", "ele", {}, "full", adaptation="per_block")
    assert published == GanSettings()


def test_bad_input(parts, ciphertexts):
    with pytest.raises(InputError, match=r"^form must be one of"):
        GanSettings(form="wasserstein")
    with pytest.raises(InputError, match=r"^total_variation must be"):
        GanSettings(total_variation=-1.0)
    with pytest.raises(InputError, match=r"^labels must be 48 class numbers"):
        generative.train(ciphertexts, None, parts.own, SIA)
    with pytest.raises(InputError, match=r"^labels must be None"):
        generative.train(ciphertexts, parts.victim_labels, parts.own, DCGAN)
    with pytest.raises(InputError, match=r"one image shape"):
        generative.train(ciphertexts, parts.victim_labels, parts.own[:, 4:], SIA)
    with pytest.raises(InputError, match=r"^attack must be one of"):
        trained_settings.settings_for("fr", "le", {})
    with pytest.raises(InputError, match=r"^network must be left out"):
        trained_settings.settings_for("dcgan", "le", {}, network="unet")
    with pytest.raises(InputError, match=r"^network must be one of"):
        trained_settings.settings_for("itn", "le", {}, network="resnet")
    with pytest.raises(InputError, match=r"^settings must be those of"):
        trained_attacks.attack_test_images("itn", "le", {}, parts, lambda *_: 0.0, SIA)
