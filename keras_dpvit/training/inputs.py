"""Checks of what `fit` is given before anything is trained on it."""

import warnings
from typing import Any

import numpy as np

from keras_dpvit.errors import InputError
from keras_dpvit.privacy.plan import PrivacyPlan


def check_arrays(model: Any, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels as arrays that fit the model and each other.

    Args:
        model: a built Keras model with one input and one output.
        x: array `(records, *model.input_shape[1:])`.
        y: array `(records, ...)`.

    Raises:
        InputError: on anything but arrays, shapes that do not fit, pixels that are not finite,
            or labels outside the model's classes.
    """
    if not hasattr(x, "shape") or not hasattr(y, "shape"):
        raise InputError(
            f"fit needs arrays x and y, got {type(x).__name__} and {type(y).__name__}: the plan "
            "samples records itself and must be able to index them."
        )
    x, y = np.asarray(x), np.asarray(y)
    check_images(x, tuple(model.input_shape[1:]))
    if len(x) != len(y):
        raise InputError(f"labels must be as many as images ({len(x)}), got {len(y)}.")
    if np.issubdtype(y.dtype, np.integer) and y.squeeze().ndim == 1:
        check_labels(y, int(model.output_shape[-1]))
    return x, y


def check_images(images: np.ndarray, image_shape: tuple[Any, ...]) -> None:
    """Raises `InputError` unless images are `(n, *image_shape)` and finite."""
    expected = "x".join(str(side) for side in image_shape)
    if images.shape[1:] != tuple(image_shape):
        found = "x".join(str(side) for side in images.shape[1:])
        raise InputError(f"images must be {expected} (the model's input), got {found}.")
    if np.issubdtype(images.dtype, np.floating) and not np.isfinite(images).all():
        bad = np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(axis=1))
        raise InputError(
            f"images must have finite pixels; {len(bad)} have NaN or infinite ones, the first is "
            f"number {bad[0]}."
        )


def check_labels(labels: np.ndarray, num_classes: int) -> None:
    """Raises `InputError` unless integer labels lie in `range(num_classes)`."""
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        odd = labels.min() if labels.min() < 0 else labels.max()
        raise InputError(f"labels must lie in 0..{num_classes - 1}, got {odd}.")


def check_size(plan: PrivacyPlan, num_records: int) -> None:
    """Checks the number of records against the plan's.

    Poisson samples cost the same for any number, so that a warning does; in a shuffle the number
    decides how many steps a pass has, and it is public there.

    Raises:
        InputError: under a shuffled plan for another number of records.
    """
    if plan.sampling == "shuffled" and num_records != plan.num_examples:
        raise InputError(
            f"num_examples must be the number of records ({num_records}) where they are shuffled, "
            f"got {plan.num_examples}: a pass would have other steps than the plan counts."
        )
    if abs(num_records - plan.num_examples) > 0.1 * plan.num_examples:
        warnings.warn(
            f"The plan is made for {plan.num_examples} records and got {num_records}. Its epsilon "
            "holds, for its constants are public; batches will not have the size expected.",
            stacklevel=3,
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


def external_batches(model: Any, x: Any, y: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    """Batches made elsewhere, each row marked as a record, and images and labels of a few.

    Args:
        model: a built Keras model with one input and one output.
        x: `tf.data.Dataset` of batches (images, labels), with an end.
        y: None.

    Raises:
        InputError: on anything else.
    """
    import tensorflow as tf

    if not isinstance(x, tf.data.Dataset) or y is not None:
        raise InputError(
            "a plan with sampling='external' needs a tf.data.Dataset of (images, labels) batches "
            f"as x and no y, got {type(x).__name__}; arrays are better given to a plan that "
            "samples them itself."
        )
    if not isinstance(x.element_spec, tuple) or len(x.element_spec) != 2:
        raise InputError("x must give batches of (images, labels), without sample weights.")
    if int(x.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise InputError("x must have an end: what a pass costs is counted by passes.")
    first = next(iter(x.take(1)), None)
    if first is None:
        raise InputError("x must hold at least one batch, got none.")
    images, labels = first
    check_images(images.numpy(), tuple(model.input_shape[1:]))
    marked = x.map(lambda a, b: (a, b, tf.ones(tf.shape(b)[:1], tf.bool)))
    return marked.prefetch(2), images.numpy()[:8], labels.numpy()[:8]
