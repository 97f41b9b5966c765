"""The record which every loader of images returns."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_dpvit.errors import InputError


def existing_folder(data_dir: str | os.PathLike[str], contents: str) -> Path:
    """Checks that `data_dir` is a folder.

    Args:
        data_dir: the folder; a leading `~` stands for the home folder.
        contents: what the folder is to hold, for the message.

    Returns:
        The folder's path.

    Raises:
        InputError: if it is not a folder.
    """
    # os.path, unlike pathlib, takes a name which the system refuses for one that is not there.
    text = os.path.expanduser(data_dir)
    if not os.path.isdir(text):
        state = "is not a folder" if os.path.exists(text) else "does not exist"
        raise InputError(f"data_dir must be a folder with {contents}; {text!r} {state}.")
    return Path(text)


# Arrays have no single truth value, so a generated equality could only raise.
@dataclasses.dataclass(frozen=True, eq=False)
class ImageData:
    """Labelled images in a train and a test part.

    Attributes:
        name: what the data set is called in messages and reports.
        x_train: uint8 images of shape (train rows, height, width, channels).
        y_train: int64 class numbers of shape (train rows,), from 0 up to the number of classes.
        x_test: uint8 images of shape (test rows, height, width, channels).
        y_test: int64 class numbers of shape (test rows,).
        class_names: one name for each class, in the order of the class numbers.

    Raises:
        InputError: if a shape or dtype is another one, a part has no rows, images and labels
            differ in number, the parts differ in image shape, a label names no class, or there
            are fewer than two different classes.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Checks that the fields agree with each other."""
        names = self.class_names
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{self.name}: class_names must be a tuple of strings, got {names!r}.")
        if len(names) < 2 or len(set(names)) != len(names):
            raise InputError(
                f"{self.name}: class_names must hold at least 2 different names, got {names!r}."
            )
        self._check_part("train", self.x_train, self.y_train)
        self._check_part("test", self.x_test, self.y_test)
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise InputError(
                f"{self.name}: the images of x_train and x_test must have one shape, got "
                f"{self.x_train.shape[1:]} and {self.x_test.shape[1:]}."
            )

    def summary(self) -> dict[str, Any]:
        """Name and sizes, JSON-able, for the privacy card."""
        return {
            "name": self.name,
            "num_training_examples": len(self.x_train),
            "num_test_examples": len(self.x_test),
            "image_shape": list(self.image_shape),
            "class_names": list(self.class_names),
        }

    def _check_part(self, part: str, images: np.ndarray, labels: np.ndarray) -> None:
        """Raises InputError unless the images and labels of one part fit together."""
        where = f"{self.name}: x_{part}"
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
            raise InputError(
                f"{where} must be a uint8 array of shape (rows, height, width, channels), "
                f"got {_kind(images)}."
            )
        if 0 in images.shape:
            raise InputError(
                f"{where} must hold at least one image of at least one pixel, "
                f"got shape {images.shape}."
            )
        where = f"{self.name}: y_{part}"
        if not isinstance(labels, np.ndarray) or labels.dtype != np.int64 or labels.ndim != 1:
            raise InputError(f"{where} must be a 1-D int64 array, got {_kind(labels)}.")
        if len(labels) != len(images):
            raise InputError(
                f"{where} must hold one label for each image, "
                f"got {len(labels)} labels for {len(images)} images."
            )
        outside = (labels < 0) | (labels >= len(self.class_names))
        if outside.any():
            row = int(outside.argmax())
            raise InputError(
                f"{where} must hold class numbers from 0 to {len(self.class_names) - 1}, "
                f"got {int(labels[row])} in row {row}."
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The (height, width, channels) of every image."""
        height, width, channels = self.x_train.shape[1:]
        return height, width, channels

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return type(value).__name__
