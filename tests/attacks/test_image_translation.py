"""Image translation: pairs, networks, training, going on; on real images."""

import dataclasses
import shutil

import numpy as np
import pytest

from keras_dpvit.attacks import image_translation, trained_networks
from keras_dpvit.attacks.image_translation import TranslationSettings
from keras_dpvit.attacks.ssim import ssim
from keras_dpvit.attacks.trained_steps import EpochStore, Trained
from keras_dpvit.encryption import make_cipher
from keras_dpvit.errors import InputError

SMALL = (16, 16, 1)
QUICK = TranslationSettings(
    network="stack",
    widths=(32, 32, 64),
    adaptation="shared",
    epochs=3,
    batch_size=32,
    optimizer="adam",
    learning_rate=5e-3,
    drops=(),
    weight_decay=0.0,
)


@pytest.fixture(scope="module")
def digits(digit_images):
    """16x16 digits."""
    return digit_images.x_train.repeat(2, 1).repeat(2, 2)


@pytest.fixture(scope="module")
def clothes():
    """Fashion-MNIST without its outermost pixels: 24x24, twelve hundred of each part."""
    from keras_dpvit import datasets

    data = datasets.load("fashion_mnist")
    return tuple(x[:1200, 2:26, 2:26] for x in (data.x_train, data.x_test))


def test_every_image_has_a_key_of_its_own():
    same = np.repeat(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), 12, axis=0)
    encrypted, plain = image_translation.random_key_pairs(
        same, "vit_block", {"block_size": 4}, np.random.default_rng(0)
    )
    np.testing.assert_array_equal(plain, same)
    assert len({image.tobytes() for image in encrypted}) == 12
    for image in encrypted:  # the cipher only moves pixels
        np.testing.assert_array_equal(np.sort(image.ravel()), np.arange(256))
    again, _ = image_translation.random_key_pairs(
        same, "vit_block", {"block_size": 4}, np.random.default_rng(0)
    )
    np.testing.assert_array_equal(again, encrypted)


def test_mirrored_images_come_too_and_are_mirrored_before_encryption(digits):
    few = digits[:3]
    encrypted, plain = image_translation.random_key_pairs(
        few, "pe", {"shuffle_colors": False}, np.random.default_rng(0), mirrored=True
    )
    np.testing.assert_array_equal(plain, np.concatenate([few, few[:, :, ::-1]]))
    # PE without colours leaves each value, or inverts it.
    difference = np.minimum(encrypted ^ plain, 255 - (encrypted ^ plain))
    assert not difference.any()
    assert (encrypted != plain).any()


@pytest.mark.parametrize("scheme", ["le", "vit_block"])
def test_known_pairs_beat_the_untouched_ciphertext_on_other_images(clothes, scheme):
    own, other = clothes
    other = other[:200]
    cipher = make_cipher(scheme, bytes(range(32)), (24, 24, 1), block_size=4)
    settings = dataclasses.replace(
        QUICK, adaptation="shared" if scheme == "le" else "mixed", epochs=8
    )
    told = []
    trained = image_translation.train(
        cipher.encrypt(own), own, settings, on_epoch=lambda *epoch: told.append(epoch)
    )
    encrypted = cipher.encrypt(other)
    recovered = trained.recover(encrypted)
    scores, untouched = (np.median(ssim(other, x)) for x in (recovered, encrypted))
    mean = np.broadcast_to(own.mean(0).round().astype(np.uint8), other.shape)
    assert scores > untouched + 0.3
    assert scores > np.median(ssim(other, mean)) + 0.1
    assert [epoch for epoch, _ in told] == list(range(1, 9))
    errors = [losses["validation_error"] for losses in trained.history]
    assert trained.best_epoch == np.argmin(errors) + 1
    assert errors[-1] < errors[0] / 2


def test_the_best_epoch_is_restored_and_validation_pairs_are_held_out(digits):
    """A learning rate that breaks the network after one epoch: the first must come back."""
    plain = digits[:100]
    settings = dataclasses.replace(QUICK, epochs=4, learning_rate=0.05, optimizer="sgd")
    encrypted = make_cipher("le", bytes(32), SMALL).encrypt(plain)
    trained = image_translation.train(encrypted, plain, settings)
    errors = [losses["validation_error"] for losses in trained.history]
    held = np.random.default_rng(settings.seed).permutation(100)[:10]
    difference = trained.recover(encrypted[held]).astype(float) - plain[held]
    assert np.mean(difference**2) / 255**2 == pytest.approx(min(errors), rel=1e-6)
    # Other validation targets change no weight, only the choice.
    other = plain.copy()
    other[held] = 255 - other[held]
    again = image_translation.train(encrypted, other, settings)
    losses = [[epoch["loss"] for epoch in t.history] for t in (trained, again)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_a_killed_training_goes_on_as_if_nothing_had_been(digits, tmp_path):
    plain = digits[:64]
    encrypted = make_cipher("le", bytes(32), SMALL).encrypt(plain)

    def keep_the_second(epoch, losses):
        if epoch == 2:  # all that a run which is killed now leaves behind
            shutil.copytree(tmp_path / "killed", tmp_path / "a")

    store = EpochStore(tmp_path / "killed")
    whole = image_translation.train(encrypted, plain, QUICK, store, keep_the_second)
    epochs = []
    resumed = image_translation.train(
        encrypted,
        plain,
        QUICK,
        EpochStore(tmp_path / "a"),
        on_epoch=lambda epoch, losses: epochs.append(epoch),
    )
    assert epochs == [3]
    np.testing.assert_allclose(
        [list(h.values()) for h in resumed.history],
        [list(h.values()) for h in whole.history],
        rtol=1e-3,
    )
    for one, other in zip(resumed.model.weights, whole.model.weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    found = image_translation.train(
        encrypted, plain, QUICK, store, on_epoch=lambda *_: pytest.fail("trained once more")
    )
    np.testing.assert_array_equal(found.recover(encrypted), whole.recover(encrypted))
    with pytest.raises(InputError, match="another attack"):
        image_translation.train(encrypted, 255 - plain, QUICK, EpochStore(tmp_path / "a"))
    (tmp_path / "a" / "attack_training.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="damaged"):
        image_translation.train(encrypted, plain, QUICK, EpochStore(tmp_path / "a"))


def test_networks_have_the_published_sizes_and_ranges():
    import keras

    network = trained_networks.unet((32, 32, 3))
    assert network.output_shape == (None, 32, 32, 3)
    # Ronneberger's network has 31 million weights for these widths.
    assert 30.5e6 < network.count_params() < 31.5e6
    stack = trained_networks.block_stack((8, 8, 3), weight_decay=0.1)
    kernels = [w.shape for w in stack.trainable_weights if w.path.endswith("kernel")]
    assert kernels == [(4, 4, 3, 48), (1, 1, 48, 48), (1, 1, 48, 512), (1, 1, 32, 3)]
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.float32)
    found = np.asarray(stack(images))
    assert found.min() > 0
    assert found.max() < 1
    # The decay's gradient is decay * kernel, for 1x1 kernels.
    squares = sum(np.sum(np.square(w)) for w in stack.trainable_weights if w.shape[:2] == (1, 1))
    assert float(keras.ops.sum(stack.losses)) == pytest.approx(0.05 * squares, rel=1e-4)


def test_each_block_is_read_alone_and_places_matter_only_where_they_shall():
    images = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3)).astype(np.float32)
    moved = images.copy()
    moved[:, :4, :4], moved[:, 4:, 4:] = images[:, 4:, 4:], images[:, :4, :4]
    changed = images.copy()
    changed[:, :4, :4] = 0
    for adaptation, alone, alike in (
        ("shared", True, True),
        ("per_block", True, False),
        ("mixed", False, False),
        ("per_block_mixed", False, False),
    ):
        stack = trained_networks.block_stack((8, 8, 3), (16, 32), adaptation)
        found, after_move, after_change = (np.asarray(stack(x)) for x in (images, moved, changed))
        same = np.allclose(found[:, 4:], after_change[:, 4:], atol=1e-6)
        assert same == alone, adaptation
        equivariant = np.allclose(found[:, :4, :4], after_move[:, 4:, 4:], atol=1e-6)
        assert equivariant == alike, adaptation


def test_recovered_images_span_black_to_white():
    class Same:
        def __call__(self, images, training):
            assert training is False
            return images / 255 * (1 - self.lowest) + self.lowest

    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(300, 0)
    for lowest in (0.0, -1.0):
        model = Same()
        model.lowest = lowest
        recovered = Trained(model, [], 1, lowest).recover(images)
        np.testing.assert_array_equal(recovered, images)


def test_bad_input(digits, tmp_path):
    with pytest.raises(InputError, match=r"^network must be one of"):
        TranslationSettings(network="transformer")
    with pytest.raises(InputError, match=r"^validation_share must lie"):
        TranslationSettings(validation_share=1.0)
    with pytest.raises(InputError, match=r"^learning_rate must be"):
        TranslationSettings(learning_rate=0.0)
    with pytest.raises(InputError, match=r"pairs of one shape"):
        image_translation.train(digits[:4], digits[:3], QUICK)
    with pytest.raises(InputError, match=r"^encrypted must be uint8"):
        image_translation.train(digits[:4] / 255, digits[:4], QUICK)
    with pytest.raises(InputError, match=r"sides divisible by 16 for 5 widths"):
        trained_networks.unet((24, 24, 1))
    with pytest.raises(InputError, match=r"divisible by block_size=3"):
        trained_networks.block_stack((16, 16, 1), (4, 9), block_size=3)
    with pytest.raises(InputError, match=r"^adaptation must be one of"):
        trained_networks.block_stack((16, 16, 1), adaptation="none")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^checkpoint_dir must be"):
        EpochStore(tmp_path / "file" / "below")
