"""Which source `load` takes for a name, and which arguments it refuses."""

import numpy as np
import pytest

from keras_dpvit.datasets import DATASETS, load, loading, tfds_source
from keras_dpvit.errors import InputError


@pytest.mark.parametrize("name", ["cifar11", "", None, "Digits"])
def test_an_unknown_name_is_answered_with_the_known_ones(name):
    with pytest.raises(InputError) as caught:
        load(name)
    assert all(known in str(caught.value) for known in DATASETS)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["idx", "image_folder"])
def test_some_data_sets_need_a_folder(name):
    with pytest.raises(InputError, match=r"^data_dir must name the folder"):
        load(name)


def test_test_fraction_is_checked_for_every_data_set():
    with pytest.raises(InputError, match=r"^test_fraction must"):
        load("digits", test_fraction=1.0)


def test_digits_take_no_folder(tmp_path):
    with pytest.raises(InputError, match=r"^data_dir must be left out"):
        load("digits", tmp_path)


def test_an_image_shape_which_the_images_do_not_have_is_refused():
    with pytest.raises(InputError, match=r"^image_shape must be \(8, 8, 1\) or left out"):
        load("digits", image_shape=(16, 16, 1))
    assert load("digits", image_shape=(8, 8, 1)).image_shape == (8, 8, 1)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_a_folder_with_neither_format_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=f"four IDX files .* or {name} as prepared.* has neither"):
        load(name, tmp_path)
    with pytest.raises(InputError, match=r"^data_dir must be a folder .*does not exist"):
        load(name, tmp_path / "absent")


def test_fashion_mnist_comes_from_debian_when_nothing_else_is_named(monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    data = load("fashion_mnist")
    assert (len(data.x_train), len(data.x_test)) == (60000, 10000)
    # The first image is an ankle boot; this is the middle of it.
    assert data.x_train[0, 14, 12:18, 0].tolist() == [237, 226, 217, 223, 222, 219]
    assert data.name == "fashion_mnist"
    assert np.bincount(data.y_test).tolist() == [1000] * 10


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_comes_from_tensorflow_datasets_alone(monkeypatch, tmp_path, name, classes):
    message = f"data_dir must hold {name} as prepared by tensorflow-datasets; .* has none"
    with pytest.raises(InputError, match=message):
        load(name, tmp_path)
    calls = []
    downloaded = load("digits")
    monkeypatch.setenv("TFDS_DATA_DIR", "")
    monkeypatch.setattr(
        tfds_source, "load_downloaded", lambda *given: calls.append(given) or downloaded
    )
    assert load(name) is downloaded
    ((_, _, class_names, advice),) = calls
    assert list(class_names) == sorted(set(class_names))
    assert len(class_names) == classes
    assert advice == "give --data_dir with what tensorflow-datasets prepared"


@pytest.mark.parametrize(
    ("name", "variable", "passed"),
    [
        ("fashion_mnist", "", None),
        ("fashion_mnist", "elsewhere", "elsewhere"),
        ("mnist", "elsewhere", "elsewhere"),
    ],
)
def test_a_download_is_the_last_resort(monkeypatch, tmp_path, name, variable, passed):
    calls = []
    downloaded = load("digits")

    def load_downloaded(*given):
        calls.append(given)
        return downloaded

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", variable)
    monkeypatch.setattr(loading, "DEBIAN_FASHION_MNIST", tmp_path / "absent")
    monkeypatch.setattr(tfds_source, "load_downloaded", load_downloaded)
    assert load(name) is downloaded
    ((got_name, got_dir, class_names, advice),) = calls
    assert (got_name, got_dir, len(class_names)) == (name, passed, 10)
    assert "--data_dir with the four IDX files" in advice
    assert ("dataset-fashion-mnist" in advice) is (name == "fashion_mnist")
