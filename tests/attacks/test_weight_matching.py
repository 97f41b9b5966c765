"""A transformed model gives its key away to who has the weights it was made from."""

import keras
import numpy as np
import pytest

from keras_dpvit.attacks import weight_matching
from keras_dpvit.encryption import SecretKey, ViTBlockCipher
from keras_dpvit.errors import InputError


@pytest.fixture(scope="module")
def victim():
    return ViTBlockCipher.from_key(SecretKey(b"k" * 32), (64, 64, 3), 16)


@pytest.fixture(scope="module")
def public():
    generator = np.random.default_rng(0)
    return generator.normal(size=(16, 16, 3, 24)), generator.normal(size=(17, 24))


def transformed(victim, kernel, positions):
    """Every filter is encrypted as if it were an image of one block; so are the positions."""
    blocks = len(victim.block_permutation)
    moved = np.concatenate([positions[:1], positions[1:][victim.block_permutation]])
    one = ViTBlockCipher.from_permutations(16, [0], victim.pixel_permutation)
    places = one.encrypt(np.arange(256, dtype=np.uint8).reshape(16, 16, 1)).reshape(-1)
    assert blocks == 16
    return kernel.reshape(256, *kernel.shape[2:])[places].reshape(kernel.shape), moved


@pytest.mark.parametrize("drift", [0.0, 0.5])
def test_rows_are_matched_in_spite_of_fine_tuning(victim, public, drift):
    generator = np.random.default_rng(1)
    weights = [w + drift * generator.normal(size=w.shape) for w in transformed(victim, *public)]
    found = weight_matching.recover(*public, *weights)
    np.testing.assert_array_equal(found.block_permutation, victim.block_permutation)
    np.testing.assert_array_equal(found.pixel_permutation, victim.pixel_permutation)


def test_other_weights_tell_nothing(victim, public):
    generator = np.random.default_rng(2)
    weights = [generator.normal(size=w.shape) for w in public]
    found = weight_matching.recover(*public, *weights)
    assert np.mean(found.pixel_permutation == victim.pixel_permutation) < 0.2


@pytest.mark.slow
def test_transform_model_gives_its_key_to_the_holder_of_the_preset(victim):
    import keras_hub

    from keras_dpvit.encryption.keyed_model import transform_model

    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(64, 64, 3),
        patch_size=16,
        num_layers=1,
        num_heads=2,
        hidden_dim=24,
        mlp_dim=24,
    )
    model = keras_hub.models.ViTImageClassifier(backbone=backbone, num_classes=3)
    hidden = transform_model(model, victim, public_base=False)
    found = weight_matching.recover_from_models(model, hidden)
    np.testing.assert_array_equal(found.block_permutation, victim.block_permutation)
    np.testing.assert_array_equal(found.pixel_permutation, victim.pixel_permutation)


def test_bad_input(public):
    kernel, positions = public
    with pytest.raises(InputError, match=r"^public and transformed must be kernels"):
        weight_matching.recover_pixel_permutation(kernel, kernel[:8])
    with pytest.raises(InputError, match=r"^public must have an even block"):
        weight_matching.recover_pixel_permutation(kernel[:15, :15], kernel[:15, :15])
    with pytest.raises(InputError, match=r"^public and transformed must be position tables"):
        weight_matching.recover_block_permutation(positions, positions[1:])
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(InputError, match=r"patch kernel"):
        weight_matching.embedding_weights(model)
