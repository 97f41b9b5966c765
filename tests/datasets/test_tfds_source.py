"""tensorflow-datasets as a source, on a data set which TFDS itself prepares here; no network."""

import pathlib
import shutil

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds

from keras_dpvit.datasets import load, loading, tfds_source
from keras_dpvit.errors import InputError

CLASSES = [f"tfds {number}" for number in range(10)]


class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Seven images named as the real data set is, of the value 10 * label + split."""

    VERSION = tfds.core.Version("3.0.1")
    TRAIN_LABELS = (0, 3, 9, 1, 2)
    TEST_LABELS = (9, 4)

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(28, 28, 1)),
                    "label": tfds.features.ClassLabel(names=CLASSES),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(self.TRAIN_LABELS, 1),
            "test": self._generate_examples(self.TEST_LABELS, 2),
        }

    def _generate_examples(self, labels, offset):
        for key, label in enumerate(labels):
            image = np.full((28, 28, 1), 10 * label + offset, np.uint8)
            yield key, {"image": image, "label": label}


class Newer(Tiny, skip_registration=True):
    """A higher version, whose number sorts below 3.0.1 as text."""

    VERSION = tfds.core.Version("10.0.0")
    TEST_LABELS = (7,)


class TrainOnly(Tiny, skip_registration=True):
    """Without a test split."""

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(self.TRAIN_LABELS, 1)}


def named(builder_class, name):
    """The builder class under the name of a real data set, which TFDS's registry need not know."""
    # Of a module without a package, TFDS does not look for a file of checksums.
    fields = {"name": name, "__module__": "tiny"}
    return type(builder_class.__name__, (builder_class,), fields, skip_registration=True)


def prepare(builder_class, data_dir, name="fashion_mnist"):
    """Has TFDS write a data set; returns its version folder."""
    builder = named(builder_class, name)(data_dir=str(data_dir))
    builder.download_and_prepare()
    return pathlib.Path(builder.data_dir)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A TFDS data directory which holds the tiny fashion_mnist."""
    data_dir = tmp_path_factory.mktemp("tfds")
    prepare(Tiny, data_dir)
    return data_dir


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Fails each request as a machine without a network does, but without TFDS's long retries."""

    def refuse(self, url, **_):
        raise requests.ConnectionError(f"no route to {url}\nsecond line")

    monkeypatch.setattr(requests.Session, "get", refuse)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


def check_tiny(data, name="fashion_mnist"):
    assert data.name == name
    assert data.image_shape == (28, 28, 1)
    assert sorted(data.y_train.tolist()) == [0, 1, 2, 3, 9]
    assert sorted(data.y_test.tolist()) == [4, 9]
    for images, labels, offset in (
        (data.x_train, data.y_train, 1),
        (data.x_test, data.y_test, 2),
    ):
        expected = np.broadcast_to((10 * labels + offset)[:, None, None, None], images.shape)
        np.testing.assert_array_equal(images, expected)


def test_a_prepared_data_set_in_data_dir_is_read(prepared):
    data = load("fashion_mnist", prepared)
    check_tiny(data)
    assert data.class_names[0] == "T-shirt/top"


def test_its_own_version_folder_is_a_data_dir_too(prepared, monkeypatch):
    check_tiny(load("fashion_mnist", prepared / "fashion_mnist" / "3.0.1"))
    monkeypatch.chdir(prepared / "fashion_mnist" / "3.0.1")
    check_tiny(load("fashion_mnist", "."))


def test_a_prepared_data_set_in_the_environment_goes_before_debians(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    check_tiny(load("fashion_mnist"))


def test_mnist_is_read_the_same_way(tmp_path):
    prepare(Tiny, tmp_path, "mnist")
    data = load("mnist", tmp_path)
    check_tiny(data, "mnist")
    assert data.class_names == tuple("0123456789")
    with pytest.raises(InputError, match=r"has neither"):
        load("fashion_mnist", tmp_path)


def test_cifar_is_read_the_same_way(tmp_path):
    prepare(Tiny, tmp_path, "cifar10")
    data = load("cifar10", tmp_path)
    check_tiny(data, "cifar10")
    assert (data.class_names[0], data.class_names[9]) == ("airplane", "truck")


def test_two_loads_give_one_order(prepared):
    first, second = load("fashion_mnist", prepared), load("fashion_mnist", prepared)
    np.testing.assert_array_equal(first.y_train, second.y_train)


def test_the_highest_finished_version_is_taken(prepared, tmp_path):
    root = tmp_path / "fashion_mnist"
    shutil.copytree(prepared / "fashion_mnist" / "3.0.1", root / "99.0.0.incompleteABC")
    (root / "98.0.0").mkdir()
    assert tfds_source.find_prepared("fashion_mnist", tmp_path) is None
    shutil.copytree(prepared / "fashion_mnist" / "3.0.1", root / "3.0.1")
    assert tfds_source.find_prepared("fashion_mnist", tmp_path) == root / "3.0.1"
    newer = prepare(Newer, tmp_path)
    assert tfds_source.find_prepared("fashion_mnist", tmp_path) == newer
    assert load("fashion_mnist", tmp_path).y_test.tolist() == [7]
    assert tfds_source.find_prepared("mnist", tmp_path) is None


@pytest.mark.parametrize(
    ("pattern", "content"),
    [
        ("*.tfrecord*", None),
        ("*.tfrecord*", b"damaged"),
        ("dataset_info.json", b"{"),
        ("features.json", None),
        ("features.json", b"{}"),
    ],
)
def test_a_damaged_data_set_is_named(prepared, tmp_path, pattern, content):
    folder = tmp_path / "fashion_mnist" / "3.0.1"
    shutil.copytree(prepared / "fashion_mnist" / "3.0.1", folder)
    damaged = list(folder.glob(pattern))
    assert damaged
    for path in damaged:
        path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=f"^fashion_mnist: .*{folder}") as caught:
        load("fashion_mnist", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_split_is_refused(tmp_path):
    prepare(TrainOnly, tmp_path)
    with pytest.raises(InputError, match=r"splits train and test .*test"):
        load("fashion_mnist", tmp_path)


@pytest.mark.parametrize(
    ("name", "host"),
    [("fashion_mnist", "fashion-mnist.s3-website"), ("mnist", "storage.googleapis.com")],
)
def test_a_host_out_of_reach_is_told_in_one_line(monkeypatch, tmp_path, name, host):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(loading, "DEBIAN_FASHION_MNIST", tmp_path / "absent")
    with pytest.raises(InputError) as caught:
        load(name)
    message = str(caught.value)
    assert "\n" not in message
    assert "give --data_dir with the four IDX files" in message
    assert ("Debian's dataset-fashion-mnist" in message) is (name == "fashion_mnist")
    assert "no route to http" in message
    assert host in message
    assert "second line" not in message
    assert isinstance(caught.value.__cause__, requests.ConnectionError)


def test_without_a_network_tfds_still_prepares_what_needs_none(monkeypatch, tmp_path):
    tiny = named(Tiny, "mnist")
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir=None: tiny(data_dir=data_dir))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    check_tiny(load("mnist"), "mnist")
    monkeypatch.undo()
    check_tiny(load("mnist", tmp_path), "mnist")
