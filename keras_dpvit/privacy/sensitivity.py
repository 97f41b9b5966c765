"""The bound on what one record adds to the sum, and how it follows the gradients."""

import abc
import dataclasses
import math
from typing import Any

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import tf_privacy

# The cap is met with this much to spare, so that rounding cannot pass it. A norm is at most 2e-6 of
# itself below that of what is summed (`gradients.rules.GradientRule.measured`); a weight in float32
# and its product with a gradient are wrong by 1.2e-7. What cancels is bounded with the norm.
ROUNDING_MARGIN = 1e-5
# The least normal float32: below it a weight is rounded to few digits.
_LEAST_WEIGHT = 1.2e-38

_LARGEST_NORM = 1e6


def release_weights(layer_norms: Any, factors: Any, cap: Any) -> tuple[Any, Any]:
    """Weights under which one record moves the sum by at most `cap` (docs/privacy.md, item 4).

    Guarantee: with `g^l` the record's layer gradients, the L2 norm of the concatenation of
    `weight^l * g^l` is at most `cap`, whatever the gradient. A record any of whose norms is NaN
    or infinite gets weight 0.

    Args:
        layer_norms: float tensor `(records, layers)`, none below the true one.
        factors: float tensor `(records, layers)` from a `Clipping`.
        cap: scalar float tensor above 0, known before the records are looked at.

    Returns:
        The weights, float32 `(records, layers)`, and the norms, float32 `(records,)`, of the
        layer-clipped gradients before the cap, 0 for a record that was dropped.
    """
    import tensorflow as tf

    # In float64, where squares of float32 numbers neither underflow nor overflow.
    layer_norms, factors, cap = (tf.cast(t, tf.float64) for t in (layer_norms, factors, cap))
    norms = tf.norm(factors * layer_norms, axis=-1)
    usable = tf.math.is_finite(norms)  # infinite times a factor of 0 is not
    norms = tf.where(usable, norms, 0.0)
    scale = tf.minimum(tf.math.divide_no_nan(cap * (1.0 - ROUNDING_MARGIN), norms), 1.0)
    scale = tf.where(norms > 0.0, scale, 1.0)
    weights = tf.where(usable[:, None], factors * scale[:, None], 0.0)
    weights = tf.where(weights < _LEAST_WEIGHT, tf.zeros([], weights.dtype), weights)
    return tf.cast(weights, tf.float32), tf.cast(tf.minimum(norms, tf.float32.max), tf.float32)


class Sensitivity(abc.ABC):
    """A source of the release cap. Its state is one scalar, public after every step.

    Attributes:
        certified: whether the cap bounds what one record adds, so that epsilon may be claimed.
    """

    name: str
    certified: bool = True

    @abc.abstractmethod
    def initial_state(self) -> float:
        """The state before the first step; a public constant."""

    @abc.abstractmethod
    def cap(self, state: Any) -> Any:
        """The release cap: the L2 sensitivity of the step's sum."""

    @abc.abstractmethod
    def split_noise(self, noise_multiplier: float, batch_size: int) -> tuple[float, float]:
        """Divides one noise multiplier between the gradient and the tracked count.

        Args:
            noise_multiplier: what a step's releases must amount to as one Gaussian.
            batch_size: the expected number of records in a step.

        Returns:
            The gradient's noise multiplier and the standard deviation of the noise on the
            count, 0 if no count is released.
        """

    @abc.abstractmethod
    def next_state(self, state: Any, below_count: Any, noise: Any, expected_records: float) -> Any:
        """The state for the next step.

        Args:
            state: scalar.
            below_count: scalar, from `below_count` summed over the step's records.
            noise: scalar, already of the standard deviation that `split` gave.
            expected_records: the public expected number of records.
        """

    def below_count(self, state: Any, norms: Any, thresholds: Any, taking_part: Any) -> Any:
        """The sum, beside the gradients, of +1/2 (norm at most `state`) or -1/2 for each record.

        Args:
            state: scalar.
            norms: float tensor `(records,)`, after layer clipping and before the cap; 0 for a
                record that was dropped.
            thresholds: float tensor `(records,)`, the records' own thresholds; only an
                uncertified rule may look at them.
            taking_part: bool tensor `(records,)`, False for padding.
        """
        import tensorflow as tf

        del thresholds
        recentred = tf.cast(norms <= state, tf.float32) - 0.5
        return tf.reduce_sum(tf.where(taking_part, recentred, 0.0))

    def noise_scale(self, state: Any, below_count: Any) -> Any:
        """The factor on the noise multiplier: the cap, whatever the records."""
        del below_count
        return self.cap(state)


@dataclasses.dataclass(frozen=True)
class FixedSensitivity(Sensitivity):
    """A constant cap: classic DP-SGD (Abadi et al. 2016).

    Args:
        l2_norm_clip: float from 1e-9 to 1e9.

    Example:
        >>> plan = kd.PrivacyPlan(1000, 100, 1, 1e-4, 1.0, sensitivity=kd.FixedSensitivity(0.5))
        >>> float(plan.mechanism().sensitivity(0.5))
        0.5
    """

    l2_norm_clip: float = 1.0
    name = "fixed"

    def __post_init__(self) -> None:
        _validate.keep(self, l2_norm_clip=_validate.clipping_norm)

    def initial_state(self) -> float:
        return self.l2_norm_clip

    def cap(self, state: Any) -> Any:
        return state

    def split_noise(self, noise_multiplier: float, batch_size: int) -> tuple[float, float]:
        del batch_size
        return noise_multiplier, 0.0

    def next_state(self, state: Any, below_count: Any, noise: Any, expected_records: float) -> Any:
        del below_count, noise, expected_records
        return state


@dataclasses.dataclass(frozen=True)
class DynamicSensitivity(Sensitivity):
    """A cap that follows the gradients' norms through a noised count (eq 12-13, certified).

    The cap is the tracked norm combined with a floor (eq 12). The tracked norm moves
    geometrically towards a quantile of the layer-clipped norms, from the number of records at or
    below it, recentred to +-1/2 and noised (TF Privacy's quantile estimator, Andrew et al. 2021).

    Guarantee: the cap of a step is a function of public constants and of earlier noisy counts
    only. A record moves the count by 1/2, so a step that releases the sum with multiplier `z_g`
    and the count with standard deviation `s` is one Gaussian event of multiplier `z`,
    `1/z^2 = 1/z_g^2 + 1/(2 s)^2`.

    Args:
        floor: float from 1e-9 to 1e9, eq 12's minimal boundary.
        initial: float from 1e-9 to 1e9, the tracked norm before the first step; must not be
            chosen by looking at the private data.
        target_quantile: float in (0, 1).
        learning_rate: float above 0, at most 50; a step moves the norm by at most a factor `exp`
            of it, but for the count's noise.
        combine: "sum" (tracked + floor, eq 12) or "max".
        count_noise_stddev: float above 0; None takes a twentieth of the batch, or the noise
            multiplier where that is larger (the gradient then pays 15 % more noise).

    Example:
        >>> sensitivity = kd.DynamicSensitivity(initial=0.5)
        >>> plan = kd.PrivacyPlan(1000, 100, 1, 1e-4, 1.0, sensitivity=sensitivity)
    """

    floor: float = 1e-3
    initial: float = 1.0
    target_quantile: float = 0.5
    learning_rate: float = 0.2
    combine: str = "sum"
    count_noise_stddev: float | None = None
    name = "dynamic"

    def __post_init__(self) -> None:
        _validate.keep(
            self,
            floor=_validate.clipping_norm,
            initial=_validate.clipping_norm,
            target_quantile=_validate.open_unit_interval,
            learning_rate=_validate.positive,
            count_noise_stddev=_validate.optional(_validate.noise),
        )
        _validate.one_of(("sum", "max"), combine=self.combine)
        if self.learning_rate > 50:
            raise InputError(f"learning_rate must be at most 50, got {self.learning_rate:g}.")
        if self.count_noise_stddev is not None:
            _validate.positive(count_noise_stddev=self.count_noise_stddev)

    def initial_state(self) -> float:
        return self.initial

    def cap(self, state: Any) -> Any:
        import tensorflow as tf

        return tf.maximum(state, self.floor) if self.combine == "max" else state + self.floor

    def split_noise(self, noise_multiplier: float, batch_size: int) -> tuple[float, float]:
        if noise_multiplier == 0:
            return 0.0, 0.0
        stddev = self.count_noise_stddev
        if stddev is None:
            stddev = max(batch_size / 20, noise_multiplier)
        if 2 * stddev <= noise_multiplier:
            raise InputError(
                f"count_noise_stddev={stddev:g} is too small for noise multiplier "
                f"{noise_multiplier:g}: it must exceed half of it; take a larger batch, a larger "
                "count_noise_stddev, or FixedSensitivity."
            )
        return (noise_multiplier**-2 - (2 * stddev) ** -2) ** -0.5, stddev

    def next_state(self, state: Any, below_count: Any, noise: Any, expected_records: float) -> Any:
        import tensorflow as tf

        query = tf_privacy.geometric_quantile_estimator(
            self.initial, self.target_quantile, self.learning_rate, expected_records
        )
        global_state = query.initial_global_state()._replace(current_estimate=state)
        estimate, _, _ = query.get_noised_result(below_count + noise, global_state)
        # Post-processing: a geometric walk that reached 0 or infinity would never come back.
        return tf.clip_by_value(estimate, self.floor, max(_LARGEST_NORM, self.initial))


@dataclasses.dataclass(frozen=True)
class PublishedSensitivity(Sensitivity):
    """Equations 11 to 13 as printed: noise for each record, scaled by its own threshold.

    The sum gets `sum_u N(0, (z (Z_u + alpha))^2)` with `Z_u` the record's own median norm. Drawn
    here as one Gaussian of the same distribution, with variance `z^2 sum_u (Z_u + alpha)^2`.

    Guarantee: none. Nothing caps what a record adds, and the scale of the noise reveals the
    thresholds, which are computed from the records: epsilon is infinite. For reproduction of the
    paper only.

    Args:
        floor: float from 1e-9 to 1e9, `alpha` of eq 12.
    """

    floor: float = 1e-3
    name = "as_published"
    certified = False

    def __post_init__(self) -> None:
        _validate.keep(self, floor=_validate.clipping_norm)

    def initial_state(self) -> float:
        return 0.0

    def cap(self, state: Any) -> Any:
        return state + math.inf

    def split_noise(self, noise_multiplier: float, batch_size: int) -> tuple[float, float]:
        del batch_size
        return noise_multiplier, 0.0

    def below_count(self, state: Any, norms: Any, thresholds: Any, taking_part: Any) -> Any:
        import tensorflow as tf

        del state, norms
        usable = taking_part & tf.math.is_finite(thresholds)
        return tf.reduce_sum(tf.where(usable, (thresholds + self.floor) ** 2, 0.0))

    def noise_scale(self, state: Any, below_count: Any) -> Any:
        import tensorflow as tf

        del state
        return tf.sqrt(below_count)

    def next_state(self, state: Any, below_count: Any, noise: Any, expected_records: float) -> Any:
        del below_count, noise, expected_records
        return state


_BY_NAME: dict[str, type[Any]] = {
    cls.name: cls for cls in (FixedSensitivity, DynamicSensitivity, PublishedSensitivity)
}


def sensitivity_to_dict(sensitivity: Any) -> dict[str, Any]:
    """JSON-able form."""
    return {"name": sensitivity.name, **dataclasses.asdict(sensitivity)}


def sensitivity_from_dict(data: dict[str, Any]) -> Sensitivity:
    """The inverse of `sensitivity_to_dict`.

    Raises:
        InputError: on an unknown name.
    """
    arguments = dict(data)
    name = arguments.pop("name", None)
    if name not in _BY_NAME:
        raise InputError(f"sensitivity must be one of {', '.join(_BY_NAME)}, got {name!r}.")
    sensitivity: Sensitivity = _BY_NAME[name](**arguments)
    return sensitivity
