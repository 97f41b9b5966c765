"""Training loss and accuracy released with noise, as a small part of each step."""

import dataclasses
import math
from typing import Any

import keras
import tensorflow as tf

from keras_dpvit import _validate
from keras_dpvit._types import Array
from keras_dpvit.errors import InputError
from keras_dpvit.layers.model_structure import outputs_of
from keras_dpvit.privacy.plan import PrivacyPlan

LOSS, ACCURACY = "private_loss", "private_accuracy"
NAMES = (LOSS, ACCURACY)

_LARGEST_LOSS = 4.0  # where the number of classes says nothing about it


@dataclasses.dataclass(frozen=True)
class PrivateMetrics:
    """Training loss and accuracy with noise, for `fit(private_metrics=...)`.

    Each step sums two numbers over its sampled records, beside their clipped gradients: the loss,
    clipped to [0, max_loss], and whether the answer is right, both mapped to [-1/2, 1/2]. The sums
    get separate noise. At the end of an epoch their totals over the public expected number of
    records are in the logs as "private_loss" and "private_accuracy" (the latter for class numbers,
    one-hot labels, or one output under a binary cross-entropy). Callbacks may act on them. Noise
    can carry them a little out of their range. An epoch that a checkpoint cut in two counts the
    steps since then.

    Guarantee: a step with these sums costs what it costs without them. A record moves the two sums
    by at most `sqrt(1/2)` in L2 norm, whatever its loss: one that is NaN or infinite adds
    nothing, copies made by an augmentation are averaged. With noise multiplier `z_m = noise_ratio
    * z` on them, the step is still one Gaussian of the plan's `z`: the gradient and the count get
    what is left, `1/z^2 - 1/z_m^2`. So the gradient pays, at the default half a percent more noise.
    What is computed from the noised sums alone is as private as they are. Under a plan
    that shares clipped units among records both sensitivities double, as the plan counts them.

    Args:
        max_loss: float above 0 or None. A public constant, not to be chosen by looking at the
            records. None takes `2 log(classes)`, or 4 where there are no classes.
        noise_ratio: float above 1, noise of the sums over the plan's noise multiplier. At 10 they
            get a hundredth of a step's budget.

    Raises:
        InputError: if an argument is out of range.

    Example:
        >>> metrics = kd.PrivateMetrics()  # for fit(..., private_metrics=metrics)
    """

    max_loss: float | None = None
    noise_ratio: float = 10.0

    def __post_init__(self) -> None:
        if self.max_loss is not None:
            _validate.positive(max_loss=self.max_loss)
        if _validate.positive(noise_ratio=self.noise_ratio) <= 1:
            raise InputError(
                f"noise_ratio must be above 1, got {self.noise_ratio:g}: at 1 nothing of the "
                "plan's budget is left for the gradient."
            )

    def get_config(self) -> dict[str, Any]:
        """JSON-able arguments."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class MetricSums:
    """`PrivateMetrics` worked out for one model: the two sums, and what is shown of them.

    Attributes:
        max_loss: float.
        noise_ratio: float.
        answers: str, the kind of answer scored: "classes", "one_hot", "binary", or "" for none.
        threshold: float, of one output's two classes.
    """

    max_loss: float
    noise_ratio: float
    answers: str = ""
    threshold: float = 0.0

    def sums(self, losses: Any, outputs: Any, labels: Any, present: Any, copies: int) -> Any:
        """The two sums over the rows of a batch.

        Guarantee: a record moves them by at most 1/2 each, whatever its row holds, and no row
        moves what another adds.

        Args:
            losses: float tensor `(rows,)`.
            outputs: float tensor `(rows, ...)`.
            labels: tensor `(rows, ...)`.
            present: bool `(rows,)`, which rows are records.
            copies: int, rows in a row that are copies of one record.

        Returns:
            float32 `(2,)`.
        """
        usable = present & tf.math.is_finite(losses)
        scaled = tf.clip_by_value(losses / self.max_loss, 0.0, 1.0) - 0.5
        values = tf.stack([scaled, self._right(outputs, labels)], axis=1)
        values = tf.where(usable[:, None], values, 0.0)  # not a product: NaN times 0 is NaN
        means = tf.reduce_mean(tf.reshape(values, (-1, copies, 2)), axis=1)
        return tf.reduce_sum(tf.clip_by_value(means, -0.5, 0.5), axis=0)

    def _right(self, outputs: Any, labels: Any) -> Any:
        """1/2 for each row whose answer is right, else -1/2; 0 where answers are not scored."""
        rows = tf.shape(outputs)[0]
        if self.answers == "classes":
            right = tf.argmax(outputs, axis=-1) == tf.cast(tf.reshape(labels, (rows,)), tf.int64)
        elif self.answers == "one_hot":
            right = tf.argmax(outputs, axis=-1) == tf.argmax(labels, axis=-1)
        elif self.answers == "binary":
            said = tf.reshape(outputs, (rows,)) > self.threshold
            right = said == (tf.cast(tf.reshape(labels, (rows,)), tf.float32) > 0.5)
        else:
            return tf.zeros((rows,))
        return tf.cast(right, tf.float32) - 0.5

    def shown(self, noised: Any, records: float) -> dict[str, float]:
        """The means, from the noised sums of an epoch and the public expected number of records."""
        loss, right = (float(total) / records + 0.5 for total in noised)
        found = {LOSS: self.max_loss * loss}
        return {**found, ACCURACY: right} if self.answers else found


def metric_sums(
    private_metrics: Any, plan: PrivacyPlan, model: Any, labels: Any
) -> MetricSums | None:
    """The sums that a model's training releases.

    Args:
        private_metrics: `PrivateMetrics` or None.
        plan: the plan that pays.
        model: a compiled Keras model.
        labels: of one record, for their shape and kind; in the structure of the outputs.

    Raises:
        InputError: if they are something else, or the plan cannot pay for them.
    """
    if private_metrics is None:
        return None
    if not isinstance(private_metrics, PrivateMetrics):
        raise InputError(
            f"private_metrics must be a keras_dpvit.PrivateMetrics, got {private_metrics!r}."
        )
    if not plan.sensitivity.certified:
        raise InputError(
            "private_metrics need a certified plan: as published, noise hides nothing."
        )
    if plan.sampling == "external":
        raise InputError(
            "private_metrics need a plan that samples records itself ('poisson' or 'shuffled'): "
            "the public number of records in others' batches is not known."
        )
    for mechanism, _ in plan.noise_segments(private_metrics.noise_ratio):
        mechanism.split_noise()  # refuses what leaves the gradient nothing
    outputs = outputs_of(model)
    if keras.tree.is_nested(outputs):  # of several outputs the loss alone, weighted as compiled
        answers, threshold, classes = "", 0.0, 0
    else:
        answers, threshold = _answers(model.loss, tuple(outputs.shape), labels)
        classes = {"": 0, "binary": 2}.get(answers, int(outputs.shape[-1]))
    usual = 2 * math.log(classes) if classes > 1 else _LARGEST_LOSS
    chosen = private_metrics.max_loss
    return MetricSums(
        usual if chosen is None else float(chosen),
        float(private_metrics.noise_ratio),
        answers,
        threshold,
    )


def _answers(loss: Any, output_shape: tuple[Any, ...], labels: Array) -> tuple[str, float]:
    """The kind of answers a model gives, from shapes, types and the loss' name alone."""
    loss = keras.losses.get(loss)
    name = str(getattr(loss, "name", None) or getattr(loss, "__name__", "")).lower()
    entropy = "crossentropy" in name
    if len(output_shape) != 2 or not (entropy or labels.dtype.kind in "iub"):
        return "", 0.0
    classes, size = int(output_shape[-1]), math.prod(labels.shape[1:])
    if classes == 1 and size == 1 and "binary" in name and entropy:
        return "binary", 0.0 if getattr(loss, "from_logits", False) else 0.5
    if classes > 1 and size == 1:
        return "classes", 0.0
    if classes > 1 and labels.shape[1:] == (classes,):
        return "one_hot", 0.0
    return "", 0.0
