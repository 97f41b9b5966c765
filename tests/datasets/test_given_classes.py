"""Classes of an image folder that are given, so that their names are public."""

import numpy as np
import PIL.Image
import pytest

from keras_dpvit import datasets
from keras_dpvit.errors import InputError


@pytest.fixture
def folder(tmp_path):
    for name, number in (("cat", 6), ("dog", 6), ("secret", 6), ("empty", 0)):
        (tmp_path / name).mkdir()
        for i in range(number):
            pixels = np.full((4, 4), 10 * number + i, np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    return tmp_path


def load(folder, names):
    return datasets.load("image_folder", folder, test_fraction=0.5, class_names=names)


def test_given_names_are_the_classes_in_their_order(folder):
    data = load(folder, ["dog", "empty", "cat"])
    assert data.class_names == ("dog", "empty", "cat")
    assert set(np.concatenate([data.y_train, data.y_test])) == {0, 2}
    assert len(data.x_train) + len(data.x_test) == 12  # the folder that is not named is left out


def test_without_them_the_names_are_those_of_the_folders(folder):
    """What --classes keeps out of a model: the faulty twin of the test above."""
    (folder / "empty").rmdir()
    assert datasets.load("image_folder", folder).class_names == ("cat", "dog", "secret")


def test_parts_of_its_own_have_the_given_classes(folder):
    for part in ("train", "test"):
        (folder / part).mkdir()
    for name in ("cat", "dog"):
        (folder / "test" / name).mkdir()
        (folder / name).rename(folder / "train" / name)
    (folder / "train/cat/0.png").rename(folder / "test/cat/0.png")
    data = load(folder, ["dog", "cat"])
    assert data.class_names == ("dog", "cat")
    assert (len(data.x_train), list(data.y_test)) == (11, [1])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat", "bird"], "classes must name sub-folders"),
        (["cat"], "at least 2 different names"),
        (["cat", "cat"], "at least 2 different names"),
        (["cat", "../dog"], "at least 2 different names"),
        ([], "at least 2 different names"),
        ("cat", "at least 2 different names"),
    ],
)
def test_wrong_names_are_refused_in_one_line(names, message, folder):
    with pytest.raises(InputError, match=message) as caught:
        load(folder, names)
    assert "\n" not in str(caught.value)


def test_other_data_sets_have_classes_of_their_own():
    with pytest.raises(InputError, match="classes must be left out"):
        datasets.load("digits", class_names=["a", "b"])
