"""Checks of what `fit` is given before anything is trained on it."""

from typing import Any

import numpy as np

from keras_dpvit.errors import InputError
from keras_dpvit.privacy.plan import PrivacyPlan

_FEW = 0.05  # of the labels may lie outside of the classes


def check_arrays(model: Any, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels as arrays that fit the model and each other.

    Args:
        model: a built Keras model with one input and one output.
        x: array `(records, *model.input_shape[1:])`.
        y: array `(records, ...)`.

    Raises:
        InputError: on anything but arrays, shapes or types that do not fit, or more than a few
            labels outside the model's classes. What single records hold ends nothing, for an end
            would tell of them: they count as zero.
    """
    if not hasattr(x, "shape") or not hasattr(y, "shape"):
        raise InputError(
            f"fit needs arrays x and y, got {type(x).__name__} and {type(y).__name__}: the plan "
            "samples records itself and must be able to index them."
        )
    x, y = np.asarray(x), np.asarray(y)
    check_images(x, tuple(model.input_shape[1:]))
    if len(x) != len(y):
        raise InputError("labels must be as many as images, got another number.")
    classes = num_classes_of(model, y)
    if classes is not None:
        check_labels(y, classes, _FEW)
    return x, y


def num_classes_of(model: Any, labels: Any) -> int | None:
    """The number of classes that labels number, one each record; None where they are no numbers.

    Whole numbers beside several outputs number classes, and so does whatever a sparse loss is
    given; targets of a single output do not.

    Args:
        model: a compiled Keras model with one input and one output.
        labels: anything with `shape` and `dtype`, the records along the first axis.
    """
    kind = np.dtype(getattr(labels.dtype, "as_numpy_dtype", labels.dtype))
    classes = int(model.output_shape[-1])
    if classes == 1 or any(side != 1 for side in labels.shape[1:]):
        return None
    loss = getattr(model, "loss", None)
    name = str(getattr(loss, "name", None) or getattr(loss, "__name__", None) or loss)
    return classes if np.issubdtype(kind, np.integer) or "sparse" in name else None


def check_images(images: np.ndarray, image_shape: tuple[Any, ...]) -> None:
    """Raises `InputError` unless images are `(n, *image_shape)` and numbers."""
    expected = "x".join(str(side) for side in image_shape)
    if images.shape[1:] != tuple(image_shape):
        found = "x".join(str(side) for side in images.shape[1:])
        raise InputError(f"images must be {expected} (the model's input), got {found}.")
    if images.dtype.kind in "OSUcMm":
        raise InputError(f"images must be of real numbers, got {images.dtype}.")


def outside(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Which records have a label that is none of the classes, bool `(records,)`."""
    bad = ~((labels >= 0) & (labels < num_classes))  # a NaN is not in range, either
    return np.asarray(bad.any(axis=tuple(range(1, labels.ndim))))


def check_labels(labels: np.ndarray, num_classes: int, share: float) -> None:
    """Refuses labels of another kind, and says nothing of those of a few records.

    Args:
        labels: int array, the records along the first axis.
        num_classes: int.
        share: float, of the records; more than it, and more than five, may not lie outside.

    Raises:
        InputError: if they do. It names neither a record nor a label nor a count.
    """
    bad = np.count_nonzero(outside(labels, num_classes))
    if bad > 5 and bad > share * len(labels):
        raise InputError(
            f"labels must lie in 0..{num_classes - 1}: more than {100 * share:g} % of the labels "
            f"lie outside 0..{num_classes - 1}."
        )


def check_size(plan: PrivacyPlan, num_records: int) -> None:
    """Checks the number of records against the plan's.

    Poisson samples cost the same for any number, which is private there: nothing is said of it.
    In a shuffle the number decides how many steps a pass has, and it is public.

    Raises:
        InputError: under a shuffled plan for another number of records.
    """
    if plan.sampling == "shuffled" and num_records != plan.num_examples:
        raise InputError(
            f"num_examples must be the number of records ({num_records}) where they are shuffled, "
            f"got {plan.num_examples}: a pass would have other steps than the plan counts."
        )


def check_fit_arguments(plan: PrivacyPlan, arguments: dict[str, Any]) -> None:
    """Raises `InputError` on arguments of `fit` that the plan decides or that it cannot honour."""
    batch_size = arguments.pop("batch_size", None)
    if batch_size not in (None, plan.batch_size):
        raise InputError(
            f"batch_size is the plan's ({plan.batch_size}), got {batch_size}: leave it out, or set "
            "physical_batch_size to save memory."
        )
    refused = {
        "sample_weight": "weigh records in the loss before it reaches fit",
        "class_weight": "weigh classes in the loss",
        "validation_split": "pass validation_data",
        "steps_per_epoch": "the plan's sampling decides it",
    }
    for name, advice in refused.items():
        value = arguments.pop(name, None)
        if value is not None and not (name == "validation_split" and value == 0.0):
            raise InputError(f"{name} cannot be used in private training: {advice}.")
    arguments.pop("shuffle", None)
