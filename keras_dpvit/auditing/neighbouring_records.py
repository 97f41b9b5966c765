"""One record more or less, everything else equal: does it move a step by more than declared?"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_dpvit import _reasons
from keras_dpvit.errors import InputError
from keras_dpvit.gradients.layer_calls import traced_calls
from keras_dpvit.gradients.spectral import spectra_left
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.privacy.sensitivity import FixedSensitivity

# Rounding of float32 sums moves the ratio in the last digits; this is far above it.
TOLERANCE = 1.001
_PASSES = 1000  # more than anybody tries on one compiled model


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The change of one step's sum by each added record.

    Attributes:
        ratios: for each record's name, the L2 norm of the change over the declared sensitivity;
            above 1 the epsilon of the plan is false for this model, loss and data.
        learned: bool, True if the step moved the weights at all.
        sensitivity: float, the declared one.
    """

    ratios: dict[str, float]
    learned: bool
    sensitivity: float

    @property
    def worst(self) -> tuple[str, float]:
        """Name and ratio of the record that moved the sum most."""
        sizes = {name: math.inf if math.isnan(r) else r for name, r in self.ratios.items()}
        return max(sizes.items(), key=lambda item: item[1])

    @property
    def holds(self) -> bool:
        """True if no record moved the sum by more than the sensitivity."""
        return self.worst[1] <= TOLERANCE


def neighbours(
    model: Any,
    loss: Any,
    x: Any,
    y: Any,
    plan: PrivacyPlan,
    records: dict[str, tuple[Any, Any]] | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> Neighbours:
    """Adds one record after another to a data set and compares one step of `fit` with and without.

    A step is recorded on copies of the model by the public `fit` under a plan like the given one,
    but with every record in the step, no noise and plain SGD, so that the change of the weights is
    the clipped sum; then replayed with one record more and the same randomness.

    Guarantee: a ratio above 1 disproves the plan's epsilon for this model, loss and data. Ratios
    below prove nothing about records that were not tried.

    Args:
        model: a `DPViTClassifier` or `make_private` model; it is not changed.
        loss: as given to `compile`.
        x: array `(n, ...)`, or several in a dict or tuple as `fit` takes them: the records that
            are there in both data sets; a few dozen do.
        y: their labels, likewise.
        plan: the `PrivacyPlan` whose clipping and sensitivity are tried.
        records: names and pairs `(image, label)`; None takes `adversarial_records(x, y)`.
        progress: called with the name of each record before it is tried.

    Returns:
        a `Neighbours`.

    Raises:
        InputError: if `fit` refuses the model, the loss or the data, or the plan is one as
            published, which declares no sensitivity, or takes microbatches.

    Example:
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> plan = kd.PrivacyPlan(12, 12, 1, 1e-3, noise_multiplier=1.0)
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> x = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
        >>> y = np.arange(12) % 3
        >>> kd.auditing.neighbours(kd.make_private(network), loss, x, y, plan).holds
        True
    """
    if not plan.sensitivity.certified or plan.microbatch_size > 1:
        raise InputError("plan must be a certified one without microbatches to be tried.")
    if records is None:
        records = adversarial_records(x, y)
    replay = _Replay(model, loss, plan, len(keras.tree.flatten(x)[0]))
    less = replay.sum(x, y)
    ratios = {}
    for name, (image, label) in records.items():
        progress(name)
        more = replay.sum(*keras.tree.map_structure(_appended, (x, y), (image, label)))
        ratios[name] = float(np.linalg.norm(more - less) / replay.sensitivity)
    return Neighbours(ratios, bool(np.abs(less).max() > 0), replay.sensitivity)


def _appended(rows: np.ndarray, row: np.ndarray) -> np.ndarray:
    # Last, so that every other record keeps its place, and with it the layers' random numbers.
    return np.concatenate([rows, np.asarray(row)[None].astype(rows.dtype)])


class _Replay:
    """One step of `fit` from the same weights, for any data set."""

    def __init__(self, model: Any, loss: Any, plan: PrivacyPlan, num_records: int) -> None:
        self.sensitivity = float(plan.sensitivity.cap(plan.sensitivity.initial_state()))
        self._loss = loss
        # So large that the weights' own rounding does not show beside their change.
        self._rate = 100.0 / self.sensitivity
        self._divisor = num_records
        self._plan = PrivacyPlan(
            num_examples=num_records,
            batch_size=num_records,
            epochs=_PASSES,
            delta=plan.delta,
            noise_multiplier=0.0,
            clipping=plan.clipping,
            sensitivity=FixedSensitivity(self.sensitivity),
            seed=0,
        )
        self._source = model
        self._model = _copy(model)
        self._start = self._model.get_weights()
        # A recurrent layer has a generator for dropout, but asks it for nothing without dropout.
        with spectra_left(self._model):
            self._draws = bool(traced_calls(self._model).asked)
        self._compiled = False

    def sum(self, x: Any, y: Any) -> np.ndarray:
        """The clipped sum of a data set, all variables in one float64 vector."""
        from keras_dpvit.training.optimizers import DPKerasSGDOptimizer

        if self._draws:
            # Layers draw other numbers in every step, and steps on record enter their key: only
            # the first step of a fresh copy is the same again.
            self._model, self._compiled = _copy(self._source), False
        self._model.set_weights(self._start)
        if not self._compiled:
            self._model.compile(DPKerasSGDOptimizer(self._plan, self._rate), self._loss)
            self._compiled = True
        before = self._flat()
        self._model.fit(x, y, epochs=1, verbose=0)
        return (before - self._flat()) * (self._divisor / self._rate)

    def _flat(self) -> np.ndarray:
        values = [np.asarray(v, "float64").ravel() for v in self._model.trainable_variables]
        return np.concatenate(values)


def _copy(model: Any) -> Any:
    """A model of the same configuration and weights."""
    try:
        config = keras.saving.serialize_keras_object(model)
        for name in ("compile_config", "build_config"):
            config.pop(name, None)
        copy = keras.saving.deserialize_keras_object(config)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise InputError(
            "model must be one that Keras can copy from its configuration: "
            f"{_reasons.reason(error)}."
        ) from error
    copy.set_weights(model.get_weights())
    return copy


def adversarial_records(x: Any, y: Any) -> dict[str, tuple[Any, Any]]:
    """Records that mechanisms stumble over, shaped like those of a data set.

    Args:
        x: array `(n, ...)`, at least one record; or several in any structure.
        y: array `(n, ...)`, likewise.

    Returns:
        names and pairs `(image, label)`: blank, constant, huge, tiny, alternating and whole-number
        images, images with NaN or infinity, and labels out of range, infinite or NaN. Of records
        of several parts, one part after the other, the rest as in the first record.
    """
    if not keras.tree.is_nested(x) and not keras.tree.is_nested(y):
        return _records_of_one(np.asarray(x), np.asarray(y))
    images, labels = keras.tree.flatten(x), keras.tree.flatten(y)
    first = [part[0] for part in (*images, *labels)]
    found = {}
    for index in range(len(first)):
        # The part beside a label or an image that is nobody's concern here.
        is_image = index < len(images)
        part = np.asarray((*images, *labels)[index])
        own = _records_of_one(part, labels[0]) if is_image else _records_of_one(images[0], part)
        for name, (image, label) in own.items():
            if name.startswith("image" if is_image else "label"):
                parts = [*first[:index], image if is_image else label, *first[index + 1 :]]
                packed = keras.tree.pack_sequence_as((x, y), parts)
                found[f"{name}, part {index + 1}"] = packed
    return found


def _records_of_one(x: np.ndarray, y: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    image, label = np.asarray(x[0]), np.asarray(y[0])
    places = np.indices(image.shape).sum(axis=0) if image.ndim else np.zeros(())
    rng = np.random.default_rng(0)
    images: dict[str, np.ndarray] = {
        "ordinary": image,
        "blank": np.zeros(image.shape),
        "constant": np.full(image.shape, 128.0),
        "random": rng.uniform(0, 255, image.shape),
    }
    if np.issubdtype(x.dtype, np.floating):
        images |= {
            "alternating": np.where(places % 2, 1e6, -1e6),
            "alternating at 1e8, noisy": np.where(places % 2, 1e8, -1e8)
            + rng.standard_normal(image.shape),
            "whole numbers": rng.integers(0, 10_000, image.shape),
            "large": rng.standard_normal(image.shape) * 1e18,
            "largest": np.full(image.shape, 3e38),
            "tiny": rng.standard_normal(image.shape) * 1e-23,
            "NaN": np.full(image.shape, np.nan),
            "infinite": np.full(image.shape, np.inf),
            "one NaN": np.where(np.arange(image.size).reshape(image.shape) == 0, np.nan, image),
        }
    found = {f"image: {name}": (value, label) for name, value in images.items()}
    for name, value in _labels(y, label).items():
        found[f"label: {name}"] = (image, value)
    return found


def _labels(y: np.ndarray, label: np.ndarray) -> dict[str, np.ndarray]:
    if np.issubdtype(y.dtype, np.floating):
        values = {"NaN": np.nan, "infinite": np.inf, "largest": 3e38, "large": 1e18, "below": -1e6}
        return {name: np.full(label.shape, value) for name, value in values.items()}
    if not np.issubdtype(y.dtype, np.integer):
        return {}
    limits = np.iinfo(y.dtype)
    values = {"out of range": int(y.max()) + 1_000, "largest": limits.max, "lowest": limits.min}
    if limits.min < 0:
        values["minus one"] = -1
    return {
        name: np.full(label.shape, value, y.dtype)
        for name, value in values.items()
        if limits.min <= value <= limits.max
    }
