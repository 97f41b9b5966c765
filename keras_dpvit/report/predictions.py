"""Predictions of a run's model on held-out images."""

import dataclasses

import numpy as np

from keras_dpvit.datasets import ImageData
from keras_dpvit.report.run_files import Run, check_classes
from keras_dpvit.training.sources import check_images

_BATCH = 256


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out images and what the model and its members make of them.

    Attributes:
        name: of the data set.
        class_names: in the order of the classes.
        images: uint8 `(images, height, width, channels)`.
        truth: int64 `(images,)`.
        total: int, held-out images of the data set, of which these may be a part.
        probabilities: float `(images, classes)`, of the fused or single model.
        member_probabilities: float `(images, members, classes)`.
        weights: float `(images, members)`, of the fusion; ones for a single model.
    """

    name: str
    class_names: tuple[str, ...]
    images: np.ndarray
    truth: np.ndarray
    total: int
    probabilities: np.ndarray
    member_probabilities: np.ndarray
    weights: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The class of the highest probability, int `(images,)`."""
        return np.asarray(self.probabilities.argmax(axis=1))


def predict(run: Run, data: ImageData, max_images: int | None = None) -> HeldOut:
    """Runs the model on the held-out part of a data set.

    Args:
        run: with its model.
        data: of the run's classes, its images of the model's shape.
        max_images: int or None, the most that are taken, spread evenly over the held-out part.

    Raises:
        InputError: if classes or shapes are not the run's.
    """
    check_images(data.x_test, tuple(run.model.input_shape[1:]))
    check_classes(run, data.class_names)
    rows = spread(np.arange(len(data.x_test)), max_images or len(data.x_test))
    images = data.x_test[rows]
    outputs = run.model.predict(images, batch_size=_BATCH, verbose=0)
    if isinstance(outputs, dict):
        probabilities, weights = outputs["probabilities"], outputs["weights"]
        each = outputs["member_probabilities"]
    else:
        probabilities = _softmax(outputs)
        weights, each = np.ones((len(rows), 1)), probabilities[:, None]
    return HeldOut(
        name=data.name,
        class_names=data.class_names,
        images=images,
        truth=data.y_test[rows],
        total=len(data.x_test),
        probabilities=probabilities,
        member_probabilities=each,
        weights=weights,
    )


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the rows at even distances, the first among them."""
    if len(rows) <= count:
        return rows
    return rows[np.arange(count) * len(rows) // count]


def choose_samples(held_out: HeldOut, count: int) -> np.ndarray:
    """Numbers of images to show: half of them mistakes, or fewer if the model made fewer.

    Mistakes come first; each half is spread evenly over the images, so that the choice depends on
    right and wrong alone.
    """
    right = held_out.predicted == held_out.truth
    wrong_rows, right_rows = np.flatnonzero(~right), np.flatnonzero(right)
    num_wrong = min(len(wrong_rows), max(count - len(right_rows), (count + 1) // 2))
    return np.concatenate(
        [spread(wrong_rows, num_wrong), spread(right_rows, count - num_wrong)]
    ).astype(int)


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits.astype("float64") - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
