"""The release of one step, with its sensitivity, noise and event; no other module knows them."""

import dataclasses
import math
from typing import Any

from keras_dpvit.privacy import accounting
from keras_dpvit.privacy.sensitivity import Sensitivity

# The length of a record's two metrics, each in [-1/2, 1/2].
METRICS_STEP = math.sqrt(0.5)


@dataclasses.dataclass(frozen=True)
class StepMechanism:
    """A noised sum of clipped gradients and, if the rule tracks norms, a noised count.

    Guarantee: one step costs `event()`, for any gradients, if the state of `rule` is a function of
    earlier releases only. Both releases together are one Gaussian: with gradient noise `z_g`
    over the clipping norm and deviation `s` of the count's noise, `1/z^2 = 1/z_g^2 + 1/(2 s)^2`.
    Noised sums of two numbers in [-1/2, 1/2] for each record (see `PrivateMetrics`), if
    `metrics_noise_ratio` is set, add `1/z_m^2` to that, with `z_m` their noise over `sqrt(1/2)`.
    Where records share a clipped unit (microbatches), one record changes a unit from one value
    of norm `C` to any other, so both sensitivities double and the event has `z / 2`.

    Attributes:
        noise_multiplier: float, `z`.
        rule: a `Sensitivity`, which says the clipping norm `C` of a state.
        num_units: int, the expected number of clipped units in the sum.
        records_share_units: bool, whether a unit is a microbatch of several records.
        sampling_probability: float, Poisson's; 1 for no amplification.
        metrics_noise_ratio: float above 1 or None for no metrics, `z_m / z`.
    """

    noise_multiplier: float
    rule: Sensitivity
    num_units: int
    records_share_units: bool = False
    sampling_probability: float = 1.0
    metrics_noise_ratio: float | None = None

    @property
    def units_moved(self) -> int:
        """The number of clipping norms by which one record can move the sum."""
        return 2 if self.records_share_units else 1

    @property
    def event_noise_multiplier(self) -> float:
        """Noise over sensitivity of all that the step releases, as one Gaussian."""
        return self.noise_multiplier / self.units_moved

    def sensitivity(self, state: Any) -> Any:
        """L2 sensitivity of the sum, for a state of the rule; infinite without a certificate."""
        return self.units_moved * self.rule.cap(state)

    def split_noise(self) -> tuple[float, float]:
        """The gradient's noise multiplier and the deviation of the noise on the count."""
        rest = self.noise_multiplier  # of gradient and count together
        if self.metrics_noise_ratio is not None:
            rest /= math.sqrt(1.0 - self.metrics_noise_ratio**-2)
        return self.rule.split_noise(rest, self.num_units)

    @property
    def metrics_noise_multiplier(self) -> float:
        """Noise on the metrics' sums over what one record, alone in its unit, moves them by."""
        return self.noise_multiplier * (self.metrics_noise_ratio or 0.0)

    @property
    def metrics_sensitivity(self) -> float:
        """L2 sensitivity of the metrics' sums."""
        return self.units_moved * METRICS_STEP

    @property
    def metrics_noise_stddev(self) -> float:
        """Standard deviation of the noise on each of the metrics' sums."""
        return self.metrics_noise_multiplier * METRICS_STEP

    def noise_stddev(self, state: Any, below_count: Any = None) -> Any:
        """Standard deviation of the noise on each element of the sum."""
        return self.split_noise()[0] * self.rule.noise_scale(state, below_count)

    def event(self) -> Any:
        """The dp_accounting event of one step."""
        noise_multiplier = self.event_noise_multiplier if self.rule.certified else 0.0
        return accounting.subsampled_gaussian_event(noise_multiplier, self.sampling_probability, 1)
