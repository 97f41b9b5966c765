"""The plan of a linear head that is solved for, without epochs."""

import dataclasses
import math
from typing import Any

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import accounting
from keras_dpvit.privacy.ledger import PrivacyLedger
from keras_dpvit.privacy.ledger_entries import LedgerEntry, head_entry


@dataclasses.dataclass(frozen=True)
class _Solver:
    """Constants of a solver, found on validation images of Fashion-MNIST.

    Attributes:
        steps: noisy sums of residuals.
        covariance_share: of 1/noise_multiplier^2, what the covariance matrix has.
        l2_norm_clip: of a record's residual times its row.
        ridge_factor: of the largest eigenvalue that noise alone gives the covariance matrix.
    """

    steps: int
    covariance_share: float
    l2_norm_clip: float
    ridge_factor: float


_SOLVERS = {
    # The residuals of the first step are shorter than 1: nothing is clipped.
    "least_squares": _Solver(1, 0.8, 1.0, 0.3),
    "feature_covariance": _Solver(20, 0.2, 0.5, 0.6),
}
SOLVERS = tuple(_SOLVERS)


@dataclasses.dataclass(frozen=True)
class HeadPlan:
    """The settings of a linear head solved from noisy sums over all records; all are public.

    Rows of features have a length of at most 1. Released are, once, the matrix `G` of their
    products, and `steps` times the sum of every row times its residual under the head so far; each
    sum moves the head by `num_classes (shrunk(G) + ridge)^-1 sum`. From zero weights the residual
    is the label less `1 / num_classes`, and the step is Newton's of softmax cross-entropy: the
    least-squares fit to the labels, times the number of classes, so that its outputs are logits.

    * "least_squares": that one step, one release in all (the private least squares of Mehta et al.
      2023, arXiv:2211.13403).
    * "feature_covariance": further steps on the residuals of the softmax, with the same matrix in
      the Hessian's place (their DP-FC). More accurate, and its probabilities are better.

    Guarantee: a record moves `G` by at most 1 and each sum by at most `l2_norm_clip` in L2 norm,
    whatever it holds (see `solve_head`). The matrix gets noise of `covariance_noise_multiplier`, a
    sum that of `residual_noise_multiplier` times the clip. Each later sum depends on earlier
    releases alone, so all compose, adaptively, as Gaussian releases over all records: to one of
    `1/noise_multiplier^2 = 1/covariance_noise_multiplier^2 + steps/residual_noise_multiplier^2`,
    which costs `epsilon()` at `delta` for one record added or removed. All bounds are attained.

    Args:
        num_examples: int, the public number of records, for the statement.
        delta: float in (0, 1).
        noise_multiplier: float, of all that is released, taken as one Gaussian; 0 adds no noise and
            gives an infinite epsilon.
        solver: "feature_covariance" or "least_squares".
        steps: int or None for the solver's own; "least_squares" has one.
        covariance_share: float in (0, 1) or None for the solver's own, the part of
            `1/noise_multiplier^2` that the covariance matrix has.
        target_epsilon: float or None, what `for_target` was asked for.
        compositions: int, heads on the same records that the target covers together.
        seed: None for the operating system's entropy; an int, for tests, makes the noise
            repeatable, and privacy then rests on its secrecy.
        accountant: "pld" or "rdp", whose epsilon is kept within the target.

    Raises:
        InputError: if an argument is out of range.

    Example:
        >>> plan = kd.HeadPlan.for_target(epsilon=3, delta=1e-5, num_examples=60_000)
        >>> plan.steps, round(plan.noise_multiplier, 2), round(plan.epsilon(), 2)
        (20, 1.39, 3.0)
    """

    num_examples: int
    delta: float
    noise_multiplier: float
    solver: str = "feature_covariance"
    steps: int | None = None
    covariance_share: float | None = None
    target_epsilon: float | None = None
    compositions: int = 1
    seed: int | None = None
    accountant: str = "pld"

    def __post_init__(self) -> None:
        _validate.one_of(SOLVERS, solver=self.solver)
        _validate.one_of(accounting.ACCOUNTANTS, accountant=self.accountant)
        for name in ("steps", "covariance_share"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(_SOLVERS[self.solver], name))
        _validate.keep(
            self,
            num_examples=_validate.positive_int,
            delta=_validate.open_unit_interval,
            noise_multiplier=_validate.noise,
            steps=_validate.positive_int,
            covariance_share=_validate.open_unit_interval,
            target_epsilon=_validate.optional(_validate.positive),
            compositions=_validate.positive_int,
            seed=_validate.optional(_validate.whole),
        )
        if self.solver == "least_squares" and self.steps != 1:
            raise InputError(f"steps must be 1 for solver='least_squares', got {self.steps}.")

    @classmethod
    def for_target(
        cls,
        *,
        epsilon: float,
        delta: float,
        num_examples: int,
        prior: PrivacyLedger | None = None,
        compositions: int = 1,
        accountant: str = "pld",
        **arguments: Any,
    ) -> "HeadPlan":
        """The plan with the least noise whose cost does not exceed a target.

        Args:
            epsilon: float above 0.
            delta: float in (0, 1).
            num_examples: int, as in the class.
            prior: a `PrivacyLedger` of what each head's features cost before (the means of
                `center_features`, say), which the target covers too.
            compositions: int, heads that will be solved like this on the same records, all of them
                together within the target.
            accountant: as in the class.
            **arguments: `solver`, `steps`, `covariance_share`, `seed` of the class.

        Raises:
            InputError: if an argument is out of range.
        """
        compositions = _validate.positive_int(compositions=compositions)
        template = cls(
            num_examples,
            delta,
            0.0,
            target_epsilon=epsilon,
            compositions=compositions,
            accountant=accountant,
            **arguments,
        )
        before = () if prior is None else prior.entries

        def event(noise_multiplier: float) -> Any:
            entry = dataclasses.replace(template, noise_multiplier=noise_multiplier).entry()
            return PrivacyLedger((*before, entry) * compositions).event()

        noise = accounting.calibrate_noise_multiplier(epsilon, delta, event, accountant)
        return dataclasses.replace(template, noise_multiplier=noise)

    @property
    def num_steps(self) -> int:
        """`steps`, never None."""
        return int(self.steps or 0)

    @property
    def covariance_noise_multiplier(self) -> float:
        """Noise on the covariance matrix over its sensitivity."""
        return self.noise_multiplier / math.sqrt(self._share)

    @property
    def residual_noise_multiplier(self) -> float:
        """Noise on each sum of residuals over its sensitivity."""
        return self.noise_multiplier * math.sqrt(self.num_steps / (1 - self._share))

    @property
    def _share(self) -> float:
        return float(self.covariance_share or 0)

    def l2_norm_clip(self, num_classes: int) -> float:
        """The length to which a record's row times its residual is clipped.

        At most `sqrt(1 - 1/num_classes)`, the residual's own length at the first step.
        """
        return min(_SOLVERS[self.solver].l2_norm_clip, math.sqrt(1 - 1 / num_classes))

    def ridge(self, width: int) -> float:
        """The number added to every eigenvalue, from public facts alone.

        Noise of deviation `z` on a symmetric matrix of this width has eigenvalues up to
        `z sqrt(2 width)`: directions in which the features vary less than that cannot be told from
        noise, and a fixed part of it keeps the head from following them.
        """
        edge = self.covariance_noise_multiplier * math.sqrt(2 * width)
        return _SOLVERS[self.solver].ridge_factor * edge

    def entry(self) -> LedgerEntry:
        """The ledger's entry for one head solved under the plan."""
        return head_entry(
            self.noise_multiplier,
            {
                "solver": self.solver,
                "residual_sums": self.num_steps,
                "covariance_noise_multiplier": self.covariance_noise_multiplier,
                "residual_noise_multiplier": self.residual_noise_multiplier,
                "num_examples": self.num_examples,
                "delta": self.delta,
                "seed_fixed": self.seed is not None,
            },
        )

    def epsilon(self, accountant: str | None = None) -> float:
        """Epsilon at the plan's delta, by its own accountant if none is named."""
        ledger = PrivacyLedger((self.entry(),))
        return ledger.epsilon(self.delta, accountant or self.accountant)
