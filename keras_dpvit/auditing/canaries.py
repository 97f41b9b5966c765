"""Canaries: records made to be noticed, each put into the training data by a separate coin."""

import dataclasses

import numpy as np

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import randomness

KINDS = ("mislabelled", "noise")


@dataclasses.dataclass(frozen=True)
class Canaries:
    """Records that are in the training data or not, and the coins that decided.

    Attributes:
        x: uint8 array `(canaries, height, width, channels)`.
        y: int64 array `(canaries,)`.
        included: bool array `(canaries,)`; the audit's secret until the guesses are made.
    """

    x: np.ndarray
    y: np.ndarray
    included: np.ndarray

    def __len__(self) -> int:
        return len(self.x)


def make_canaries(
    kind: str, x: np.ndarray, y: np.ndarray, num_classes: int, seed: int | None = None
) -> Canaries:
    """One canary for each given record, and its coin.

    Args:
        kind: "mislabelled": the image as it is, under a wrong label drawn among the others.
            "noise": an image of independent random pixels, 0 or 255, under a random label;
            no two have much in common, and no other record helps to learn them.
        x: uint8 array `(canaries, height, width, channels)` of records set aside for this.
        y: int64 array `(canaries,)`, their labels.
        num_classes: int, at least 2.
        seed: None for the operating system's entropy; an int makes the canaries and coins
            repeatable, for tests.

    Raises:
        InputError: if `kind` is unknown or there is no record or one class only.
    """
    _validate.one_of(KINDS, kind=kind)
    if len(x) == 0 or len(x) != len(y):
        raise InputError(
            f"canaries need at least one record with its label, got {len(x)} images and "
            f"{len(y)} labels."
        )
    if num_classes < 2:
        raise InputError(f"num_classes must be at least 2, got {num_classes}.")
    generator = _generator(seed, "canaries")
    if kind == "mislabelled":
        images = x.copy()
        labels = (y + generator.integers(1, num_classes, len(y))) % num_classes
    else:
        images = (255 * generator.integers(0, 2, x.shape)).astype(np.uint8)
        labels = generator.integers(num_classes, size=len(x))
    return Canaries(images, labels.astype(np.int64), flip_coins(len(x), seed))


def flip_coins(number: int, seed: int | None = None) -> np.ndarray:
    """Independent fair coins, a bool `(number,)`; without a seed from the system's entropy."""
    _validate.positive_int(number=number)
    return _generator(seed, "canary coins").integers(0, 2, number).astype(bool)


def plant(x: np.ndarray, y: np.ndarray, canaries: Canaries) -> tuple[np.ndarray, np.ndarray]:
    """The training data: all given records and the canaries whose coin says so.

    A canary that is left out leaves no blank behind: audited is the guarantee for a record added
    or removed.

    Args:
        x: uint8 array `(records, height, width, channels)`.
        y: int64 array `(records,)`.
        canaries: the `Canaries`.
    """
    chosen = canaries.included
    return np.concatenate([x, canaries.x[chosen]]), np.concatenate([y, canaries.y[chosen]])


def public_num_examples(num_records: int, num_canaries: int) -> int:
    """The number of records that a plan is made for: the coins' expectation, never their outcome.

    Sampling probability, divisor and steps come from it, and so depend on no coin. Under Poisson
    sampling a plan's epsilon holds for any number of records actually passed in.
    """
    return num_records + num_canaries // 2


def _generator(seed: int | None, purpose: str) -> np.random.Generator:
    key = randomness.new_key(seed, purpose)
    return np.random.Generator(np.random.Philox(randomness.step_key(key, 0)))
