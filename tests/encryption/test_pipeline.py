"""Encrypting in tf.data and in Keras, and searching what is saved for the key."""

import copy
import pathlib
import pickle
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dpvit import InputError, encryption

SHAPE = (32, 32, 3)


@pytest.fixture(scope="module")
def key_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "key.json"
    key = encryption.SecretKey.generate()
    encryption.write_key_file(path, encryption.KeyFile(key, "vit_block", {"block_size": 8}, SHAPE))
    return path


@pytest.fixture(scope="module")
def cipher(key_path):
    return encryption.read_key_file(key_path).cipher()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, *SHAPE), dtype=np.uint8)


def traces_of(cipher, key):
    """Key, sub-keys and permutations in every width and byte order, none shorter than 16 bytes."""
    for array in (cipher.block_permutation, cipher.pixel_permutation):
        for forms in (array, np.argsort(array), array + 1):
            yield ",".join(map(str, forms)).encode()
            yield ", ".join(map(str, forms)).encode()
            for width in "1248":
                for kind in "iu":
                    for order in "<>":
                        yield forms.astype(f"{order}{kind}{width}").tobytes()
            for width in "248":
                for order in "<>":
                    yield forms.astype(f"{order}f{width}").tobytes()
    # The gather over a whole image, which an exported graph would hold.
    place = np.arange(32 * 32).reshape(32, 32)
    hidden = cipher.encrypt(np.stack([place % 256, place // 256, place], -1).astype(np.uint8))
    index = (hidden[..., 0] + 256 * hidden[..., 1].astype(np.int64)).reshape(-1)
    for width in "248":
        for order in "<>":
            yield index.astype(f"{order}i{width}").tobytes()[:256]
    secret = key.reveal()
    yield secret
    yield secret[::-1]
    yield secret.hex().encode()
    for purpose in ("vit-blockwise/K1/n=16", "vit-blockwise/K2/n=16"):
        yield key.subkey(purpose)


def contents_of(folder):
    """Every file's bytes, and those of an archive's members."""
    for path in pathlib.Path(folder).rglob("*"):
        if path.is_file():
            yield path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    yield from (archive.read(name) for name in archive.namelist())


def classifier(layer):

    model = keras.Sequential(
        [keras.Input(SHAPE), layer, keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    model.compile("sgd", "mse")
    return model


def test_in_tf_data(cipher, images):
    labels = np.arange(5)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels))
    turn = encryption.encrypt_map(cipher)
    batched = dataset.batch(2).map(turn)
    assert batched.element_spec[0].shape.as_list() == [None, *SHAPE]
    found = list(batched.as_numpy_iterator())
    np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), cipher.encrypt(images))
    np.testing.assert_array_equal(np.concatenate([y for _, y in found]), labels)
    alone = dataset.map(lambda x, y: x).map(turn, num_parallel_calls=2)
    np.testing.assert_array_equal(list(alone.as_numpy_iterator()), cipher.encrypt(images))
    floats = tf.data.Dataset.from_tensors((images / 255).astype(np.float32)).map(turn)
    np.testing.assert_array_equal(next(iter(floats)), cipher.encrypt(images))


def test_a_wrong_shape_is_refused_while_the_map_is_made(cipher):
    dataset = tf.data.Dataset.from_tensors(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="images must have shape"):
        dataset.map(encryption.encrypt_map(cipher))


def test_a_data_sets_graph_does_not_hold_the_key(cipher, key_path, images):
    dataset = tf.data.Dataset.from_tensors(images).map(encryption.encrypt_map(cipher))
    graph = dataset._as_serialized_graph().numpy()
    assert len(graph) > images.nbytes
    key = encryption.read_key_file(key_path).key
    assert not [trace for trace in traces_of(cipher, key) if trace in graph]


def test_layer_encrypts(key_path, cipher, images):
    layer = encryption.EncryptImages.from_key_file(key_path)
    expected = cipher.encrypt(images)
    np.testing.assert_array_equal(layer(images), expected)
    np.testing.assert_array_equal(layer(images.astype(np.float32)), expected)
    unit = encryption.EncryptImages.from_key_file(key_path, value_range=(0, 1))
    np.testing.assert_allclose(unit((images / 255).astype(np.float32)), expected / 255, atol=1e-7)
    model = classifier(layer)
    model.layers[-1].set_weights([np.eye(3072, 3), np.zeros(3)])
    np.testing.assert_allclose(
        model.predict(images, verbose=0), expected.reshape(5, -1)[:, :3], atol=1e-4
    )
    dataset = tf.data.Dataset.from_tensors(images).map(layer)
    np.testing.assert_array_equal(next(iter(dataset)), expected)


def test_grayscale_layer_has_its_shape(tmp_path):
    key = encryption.SecretKey.generate()
    key_file = encryption.KeyFile(key, "etc", {"mode": "grayscale"}, (8, 16, 3))
    encryption.write_key_file(tmp_path / "k.json", key_file)
    layer = encryption.EncryptImages.from_key_file(tmp_path / "k.json")
    assert layer(keras.Input((8, 16, 3))).shape == (None, 8, 48, 1)
    assert layer(np.zeros((2, 8, 16, 3), np.uint8)).shape == (2, 8, 48, 1)


WAYS_OUT = {
    "save": lambda model, folder: model.save(folder / "model.keras"),
    "weights": lambda model, folder: model.save_weights(folder / "model.weights.h5"),
    "export": lambda model, folder: model.export(folder / "export", verbose=False),
    "saved_model": lambda model, folder: tf.saved_model.save(model, folder / "saved"),
    "checkpoint": lambda model, folder: tf.train.Checkpoint(model=model).save(folder / "c"),
    "pickle": lambda model, folder: pickle.dumps(model),
    "pickle the layer": lambda model, folder: pickle.dumps(model.layers[0]),
    "deepcopy": lambda model, folder: copy.deepcopy(model.layers[0]),
}


@pytest.mark.parametrize("way", WAYS_OUT)
def test_a_layer_with_its_key_is_not_saved(key_path, tmp_path, way):
    model = classifier(encryption.EncryptImages.from_key_file(key_path))
    with pytest.raises(InputError, match="forget_key"):
        WAYS_OUT[way](model, tmp_path)


def test_nothing_that_is_saved_holds_the_key(key_path, cipher, images, tmp_path):
    layer = encryption.EncryptImages.from_key_file(key_path)
    model = classifier(layer)
    model.fit(images, np.zeros((5, 3)), verbose=0)
    model.save(tmp_path / "legacy.h5")  # asks no layer
    (tmp_path / "config.json").write_text(model.to_json())
    for name in ("model.keras", "model.weights.h5"):
        with pytest.raises(InputError):
            (model.save if name.endswith(".keras") else model.save_weights)(tmp_path / name)
    layer.forget_key()
    assert not layer.has_key
    model.save(tmp_path / "after.keras")
    model.save_weights(tmp_path / "after.weights.h5")
    tf.train.Checkpoint(model=model).save(tmp_path / "checkpoint")
    (tmp_path / "layer.pickle").write_bytes(pickle.dumps(model))
    key = encryption.read_key_file(key_path).key
    contents = list(contents_of(tmp_path))
    assert any(key.kid.encode() in content for content in contents)
    traces = list(traces_of(cipher, key))
    assert min(map(len, traces)) >= 16
    assert not [trace for trace in traces for content in contents if trace in content]
    # The search would find a permutation that was kept as a weight.
    layer = encryption.EncryptImages.from_key_file(key_path)
    layer.forget_key()
    leak = layer.add_weight(name="leak", shape=(16,), dtype="int32", initializer="zeros")
    leak.assign(cipher.block_permutation.astype(np.int32))
    classifier(layer).save_weights(tmp_path / "planted.weights.h5")
    assert [trace for trace in traces if trace in (tmp_path / "planted.weights.h5").read_bytes()]


def test_a_loaded_model_takes_its_key_again(key_path, cipher, images, tmp_path):
    model = classifier(encryption.EncryptImages.from_key_file(key_path))
    expected = model.predict(images, verbose=0)
    model.layers[0].forget_key()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    with pytest.raises(InputError, match=r"load_key\(path\)"):
        loaded(images)
    loaded.layers[0].load_key(key_path)
    np.testing.assert_allclose(loaded.predict(images, verbose=0), expected, rtol=1e-5)


def test_another_key_is_refused(key_path, tmp_path):
    layer = encryption.EncryptImages.from_key_file(key_path)
    key = encryption.read_key_file(key_path).key
    encryption.write_key_file(
        tmp_path / "other.json", encryption.KeyFile(encryption.SecretKey.generate())
    )
    with pytest.raises(InputError, match=f"this layer needs {key.kid}"):
        layer.load_key(tmp_path / "other.json")
    encryption.write_key_file(tmp_path / "le.json", encryption.KeyFile(key, "le"))
    with pytest.raises(InputError, match="is for le"):
        layer.load_key(tmp_path / "le.json")
    assert layer.has_key


def test_layer_configuration(key_path):
    layer = encryption.EncryptImages.from_key_file(key_path, name="hide")
    config = layer.get_config()
    again = encryption.EncryptImages.from_config(config)
    assert again.get_config() == config
    assert not again.has_key
    assert set(config) - set(keras.layers.Layer().get_config()) == {
        "kid",
        "image_shape",
        "scheme",
        "options",
        "value_range",
    }
    for bad in ({"value_range": (0, 2)}, {"scheme": "rot13"}, {"options": {"x": 1}}):
        with pytest.raises(InputError):
            encryption.EncryptImages("0" * 16, SHAPE, **bad)


def test_floats_out_of_range_are_refused(key_path, images):
    layer = encryption.EncryptImages.from_key_file(key_path)
    for bad in (images + 300.0, images - 1000.0, np.full((1, *SHAPE), np.nan)):
        with pytest.raises(Exception, match=r"floats in \[0, 1\]"):
            layer(bad.astype(np.float32))
