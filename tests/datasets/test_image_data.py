"""The record of images, its checks, and what importing the package costs."""

import subprocess
import sys

import numpy as np
import pytest

from keras_dpvit.datasets import ImageData
from keras_dpvit.errors import InputError


def fields(**changes):
    """Fields of a valid record of 3 + 2 images in two classes, with some changed."""
    valid = {
        "name": "tiny",
        "x_train": np.zeros((3, 4, 5, 1), np.uint8),
        "y_train": np.array([0, 1, 0]),
        "x_test": np.zeros((2, 4, 5, 1), np.uint8),
        "y_test": np.array([1, 0]),
        "class_names": ("a", "b"),
    }
    return valid | changes


def test_valid_record_tells_its_shape_and_classes():
    data = ImageData(**fields())
    assert data.image_shape == (4, 5, 1)
    assert data.num_classes == 2


def test_records_are_compared_and_hashed_as_objects():
    data, other = ImageData(**fields()), ImageData(**fields())
    assert data == data
    assert data != other
    assert len({data, other}) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((3, 4, 5, 1), np.float32)}, "x_train must be a uint8 array"),
        ({"x_train": np.zeros((3, 4, 5), np.uint8)}, r"x_train .* got uint8 of shape \(3, 4, 5\)"),
        ({"x_test": [[1]]}, "x_test .* got list"),
        ({"x_test": np.zeros((2, 4, 6, 1), np.uint8)}, r"\(4, 5, 1\) and \(4, 6, 1\)"),
        ({"x_train": np.zeros((0, 4, 5, 1), np.uint8)}, "x_train must hold at least one image"),
        ({"x_test": np.zeros((2, 0, 5, 1), np.uint8)}, "x_test .* at least one pixel"),
        ({"y_train": np.array([0, 1, 0], np.int32)}, "y_train must be a 1-D int64 array"),
        ({"y_test": np.array([[1, 0]])}, "y_test must be a 1-D int64 array"),
        ({"y_train": np.array([0, 1])}, "y_train .* got 2 labels for 3 images"),
        ({"y_train": np.array([0, 2, 0])}, "y_train .* from 0 to 1, got 2 in row 1"),
        ({"y_test": np.array([0, -1])}, "y_test .* from 0 to 1, got -1 in row 1"),
        ({"class_names": ["a", "b"]}, "class_names must be a tuple of strings"),
        ({"class_names": (0, 1)}, "class_names must be a tuple of strings"),
        ({"class_names": ("a", "a")}, "class_names must hold at least 2 different names"),
        ({"class_names": ("a",)}, "class_names must hold at least 2 different names"),
    ],
)
def test_fields_which_do_not_fit_are_refused_in_one_line(changes, message):
    with pytest.raises(InputError, match=f"^tiny: .*{message}") as caught:
        ImageData(**fields(**changes))
    assert "\n" not in str(caught.value)


def test_importing_the_package_loads_no_heavy_library():
    code = (
        "import sys, keras_dpvit.datasets\n"
        "heavy = 'tensorflow keras tensorflow_datasets sklearn PIL tqdm'.split()\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stdout.strip() == "[]"
