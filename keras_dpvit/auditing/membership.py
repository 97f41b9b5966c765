"""Membership inference: scores that say of a record whether a model was trained on it.

All attacks are black box: they see the confidence that models give to a record's true class.
Reference models are trained as the target was, each on records of its own draw.
"""

import math

import numpy as np

from keras_dpvit import _validate
from keras_dpvit._types import Array
from keras_dpvit.errors import InputError

ATTACKS = ("lira_online", "lira_offline", "rmia", "loss_threshold")

# With fewer reference models the Gaussians of all records share their variance.
_OWN_VARIANCE_FROM = 64
_LEAST_EACH_WAY = 2  # models with a record, and without it: a variance needs two
_LEAST_STDDEV = 1e-6  # in logits: trainings without randomness would divide by zero
_LEAST_CONFIDENCE = 2.0**-53  # as near to 0 as a float64 comes to 1


def true_class_confidences(logits: Array, labels: Array) -> Array:
    """The softmax confidence that a model gives to each record's true class, in float64.

    Args:
        logits: float array `(records, classes)`; logarithms of probabilities will do.
        labels: class numbers `(records,)`.

    Returns:
        float64 `(records,)`, from 0 to 1.

    Raises:
        InputError: on other shapes, fewer than two classes, labels out of range, probabilities in
            place of logits, or values that are not finite.
    """
    logits, labels = np.asarray(logits, "float64"), np.asarray(labels)
    if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1]:
        raise InputError(
            f"logits must have shape (records, classes) and one label for each record, got "
            f"{logits.shape} and {labels.shape}."
        )
    if not np.isfinite(logits).all():
        raise InputError("logits must be finite: the training has diverged, lower learning_rate.")
    if logits.size and logits.min() >= 0 and np.allclose(logits.sum(axis=1), 1.0, atol=1e-3):
        raise InputError("logits must not be probabilities: give their logarithms.")
    if labels.dtype.kind not in "iu" or not np.isin(labels, np.arange(logits.shape[1])).all():
        raise InputError(f"labels must be class numbers in 0..{logits.shape[1] - 1}.")
    shifted = logits - logits.max(axis=1, keepdims=True)
    own = np.take_along_axis(shifted, labels[:, None].astype(int), axis=1)[:, 0]
    return np.asarray(np.exp(own - np.log(np.exp(shifted).sum(axis=1))))


def lira(
    target: Array,
    references: Array,
    included: Array,
    online: bool = True,
    fix_variance: bool | None = None,
) -> Array:
    """Likelihood ratio attack (LiRA) by Gaussians of logit-scaled confidences `log(p / (1 - p))`.

    Source: Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022,
    algorithm 1. Online, the score is the log-likelihood ratio of the target's confidence under the
    Gaussian of the reference models that saw the record and that of those that did not. Offline it
    is the distance above the mean of those that did not, in standard deviations: the quantile of
    that is the paper's score and orders records alike.

    Args:
        target: float array `(records,)`, the target model's confidence in the true class.
        references: float array `(models, records)`, those of the reference models.
        included: bool array `(models, records)`, True where the model was trained on the record.
        online: bool, False uses no model that saw the record.
        fix_variance: bool, True shares one variance among all records; None does so with fewer
            than 64 reference models.

    Returns:
        float64 `(records,)`; higher means "was trained on".

    Raises:
        InputError: on other shapes or confidences outside 0..1, or if a record is in, or out of,
            fewer than two reference models.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> included = rng.permuted(np.tile([[True], [False]], (4, 50)), axis=0)
        >>> references = np.where(included, 0.9, 0.6) + 0.1 * rng.random((8, 50))
        >>> target = np.append(np.full(25, 0.95), np.full(25, 0.65))
        >>> scores = kd.auditing.lira(target, references, included)
        >>> bool(scores[:25].min() > scores[25:].max())
        True
    """
    target, references, included = _checked(target, references, included)
    fixed = len(references) < _OWN_VARIANCE_FROM if fix_variance is None else fix_variance
    said, observed = _logit_scaled(references), _logit_scaled(target)
    mean, stddev = _gaussians(said, ~included, "out of", fixed)
    distance = (observed - mean) / stddev
    if not online:
        return np.asarray(distance)
    mean_in, stddev_in = _gaussians(said, included, "in", fixed)
    distance_in = (observed - mean_in) / stddev_in
    return np.asarray(0.5 * (distance**2 - distance_in**2) + np.log(stddev / stddev_in))


def rmia(
    target: Array,
    references: Array,
    included: Array,
    target_population: Array,
    reference_population: Array,
    gamma: float = 1.0,
    offline_a: float = 0.3,
) -> Array:
    """Robust membership inference attack (RMIA), offline: no model that saw the record is used.

    Source: Zarifzadeh, Liu and Shokri, "Low-Cost High-Power Membership Inference Attacks", ICML
    2024. The score is the share of population records z for which `(p(x|target) / p(x)) /
    (p(z|target) / p(z)) >= gamma`. The mean confidence over models with and without a record is
    taken from those without it, `p = ((1 + a) p_out + 1 - a) / 2`. Scores are multiples of one over
    the number of population records, so that few of these make many scores equal.

    Args:
        target: float array `(records,)`, the target model's confidence in the true class.
        references: float array `(models, records)`, those of the reference models.
        included: bool array `(models, records)`, True where the model was trained on the record.
        target_population: float array `(population,)`, the target's confidences in records that
            neither it nor a reference model was trained on.
        reference_population: float array `(models, population)`, those of the reference models.
        gamma: float above 0, the ratio at which a population record counts as beaten. Where models
            are sure of most records they did not see, no record reaches a ratio well above 1.
        offline_a: float from 0 to 1; at 1 models are taken to say the same of records they saw.

    Returns:
        float64 `(records,)` from 0 to 1; higher means "was trained on".

    Raises:
        InputError: on other shapes or values out of range, or if a record is out of fewer than
            two reference models.

    Example:
        >>> included = np.array([[True, False], [False, True], [False, False], [False, False]])
        >>> references = np.where(included, 0.9, 0.3)
        >>> population = np.full(5, 0.3), np.full((4, 5), 0.3)
        >>> kd.auditing.rmia(np.array([0.9, 0.2]), references, included, *population)
        array([1., 0.])
    """
    target, references, included = _checked(target, references, included)
    nobody = np.zeros(np.shape(reference_population), bool)
    of_population = _checked(target_population, reference_population, nobody, "_population")
    if not of_population[0].size or len(of_population[1]) != len(references):
        raise InputError(
            f"reference_population must have a row for each of the {len(references)} reference "
            f"models and at least one record, got shape {of_population[1].shape}."
        )
    gamma = _validate.positive(gamma=gamma)
    offline_a = _validate.non_negative(offline_a=offline_a)
    if offline_a > 1:
        raise InputError(f"offline_a must lie in 0..1, got {offline_a:g}.")
    ratios = _log_ratios(target, references, included, offline_a)
    beaten = np.sort(_log_ratios(*of_population, offline_a))
    # A hair below, so that a ratio of exactly gamma is not lost to the logarithm's rounding.
    least = ratios - math.log(gamma) + 1e-12
    return np.searchsorted(beaten, least, side="right") / len(beaten)


def loss_threshold(target: Array) -> Array:
    """The attack without reference models: a record with a small loss was trained on.

    Source: Yeom et al., "Privacy Risk in Machine Learning", CSF 2018. It is the threshold attack
    of TensorFlow Privacy's suite, which version 0.9.0 of that package does not ship.

    Args:
        target: float array `(records,)`, the target model's confidence in the true class.

    Returns:
        float64 `(records,)`, the logarithm of the confidence, which is minus the cross-entropy.

    Raises:
        InputError: on another shape or confidences outside 0..1.

    Example:
        >>> np.round(kd.auditing.loss_threshold(np.array([0.5, 1.0])), 3)
        array([-0.693,  0.   ])
    """
    return _log(_confidences("target", target, 1))


def membership_scores(
    target: Array,
    references: Array,
    included: Array,
    population: tuple[Array, Array] | None = None,
) -> dict[str, Array]:
    """The scores of all attacks, `lira` online and offline, `rmia` and `loss_threshold`.

    Args:
        target: float array `(records,)`, the target model's confidence in the true class.
        references: float array `(models, records)`, those of the reference models.
        included: bool array `(models, records)`, True where the model was trained on the record.
        population: the target's and the references' confidences `(population,)` and `(models,
            population)` in records that no model was trained on; None leaves RMIA out.

    Returns:
        for each of `ATTACKS` float64 `(records,)`; higher means "was trained on".

    Raises:
        InputError: as the attacks do.

    Example:
        >>> included = np.array([[True, False], [False, True]] * 2)
        >>> references = np.where(included, 0.9, 0.3)
        >>> scores = kd.auditing.membership_scores(np.array([0.9, 0.3]), references, included)
        >>> all(of_records[0] > of_records[1] for of_records in scores.values())
        True
    """
    scores = {
        "lira_online": lira(target, references, included),
        "lira_offline": lira(target, references, included, online=False),
    }
    if population is not None:
        scores["rmia"] = rmia(target, references, included, *population)
    return {**scores, "loss_threshold": loss_threshold(target)}


def _gaussians(said: Array, chosen: Array, side: str, fixed: bool) -> tuple[Array, Array]:
    """Mean and standard deviation of what the chosen models say of each record."""
    count = chosen.sum(axis=0)
    _check_counts(count, len(chosen), side)
    mean = np.where(chosen, said, 0.0).sum(axis=0) / count
    squares = np.where(chosen, (said - mean) ** 2, 0.0).sum(axis=0)
    if fixed:
        variance = np.full(len(count), squares.sum() / (count - 1).sum())
    else:
        variance = squares / (count - 1)
    return mean, np.maximum(np.sqrt(variance), _LEAST_STDDEV)


def _log_ratios(target: Array, references: Array, included: Array, offline_a: float) -> Array:
    """`log(p(x|target) / p(x))` of each record, p(x) from the models without it."""
    count = (~included).sum(axis=0)
    _check_counts(count, len(included), "out of")
    out = np.where(included, 0.0, references).sum(axis=0) / count
    return _log(target) - _log(0.5 * ((1.0 + offline_a) * out + 1.0 - offline_a))


def _check_counts(count: Array, models: int, side: str) -> None:
    if count.size and count.min() < _LEAST_EACH_WAY:
        record = int(count.argmin())
        raise InputError(
            f"included must have each record {side} at least {_LEAST_EACH_WAY} reference models, "
            f"record {record} is {side} {count[record]} of {models}."
        )


def _checked(
    target: Array, references: Array, included: Array, name: str = ""
) -> tuple[Array, Array, Array]:
    """The arrays, if they fit each other."""
    target_name = f"target{name}"
    references_name = f"reference{name}" if name else "references"
    target = _confidences(target_name, target, 1)
    references = _confidences(references_name, references, 2)
    included = np.asarray(included)
    if references.shape[1:] != target.shape:
        raise InputError(
            f"{references_name} must have shape (models, {len(target)}), as many records as "
            f"{target_name}, got {references.shape}."
        )
    if included.shape != references.shape or included.dtype != bool:
        raise InputError(
            f"included must be a bool array of shape {references.shape}, got {included.dtype} "
            f"{included.shape}."
        )
    return target, references, included


def _confidences(name: str, values: Array, dimensions: int) -> Array:
    values = np.asarray(values, "float64")
    if values.ndim != dimensions:
        axes = "(records,)" if dimensions == 1 else "(models, records)"
        raise InputError(f"{name} must have shape {axes}, got {values.shape}.")
    if not ((values >= 0) & (values <= 1)).all():  # not so of a NaN either
        raise InputError(f"{name} must be confidences from 0 to 1.")
    return values


def _logit_scaled(confidences: Array) -> Array:
    inside = np.clip(confidences, _LEAST_CONFIDENCE, 1.0 - _LEAST_CONFIDENCE)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def _log(confidences: Array) -> Array:
    return np.asarray(np.log(np.maximum(confidences, _LEAST_CONFIDENCE)))
