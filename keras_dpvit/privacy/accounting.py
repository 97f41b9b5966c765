"""Epsilon from events, and noise from epsilon, by Google's dp_accounting.

dp_accounting is the accountant of TensorFlow Privacy. Two of its accountants are used side by side:
RDP (the one TF Privacy reports) and PLD (tighter, and pessimistic by construction).
"""

import functools
import importlib.metadata
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_dpvit import _validate
from keras_dpvit._types import Array
from keras_dpvit.errors import InputError

ACCOUNTANTS = ("rdp", "pld")
ADJACENCY = "ADD_OR_REMOVE_ONE"
BLANK_ADJACENCY = "REPLACE_SPECIAL"


_PLD_INTERVAL = 1e-4  # dp_accounting's own, between two privacy losses
_MOST_ABOUT = 50_000.0


def accountant_version() -> str:
    """The name and version of the accounting library, for statements and cards."""
    return f"dp_accounting {importlib.metadata.version('dp-accounting')}"


def auto_delta(num_examples: int) -> float:
    """The largest power of ten that is at most a tenth of 1 over the number of records."""
    return float(10.0 ** math.floor(-math.log10(10 * num_examples)))


def make_accountant(accountant: str, about: float = 0.0) -> Any:
    """A fresh dp_accounting accountant for add-or-remove-one adjacency.

    Args:
        accountant: "rdp" or "pld".
        about: float, the size of the epsilon that is expected. Above 100, PLD rounds losses to
            wider steps, always upwards: its time grows with their number.
    """
    import dp_accounting

    _validate.one_of(ACCOUNTANTS, accountant=accountant)
    relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    if accountant == "rdp":
        return dp_accounting.rdp.RdpAccountant(neighboring_relation=relation)
    interval = _PLD_INTERVAL * max(1.0, min(about, _MOST_ABOUT) / 100)
    return dp_accounting.pld.PLDAccountant(
        neighboring_relation=relation, value_discretization_interval=interval
    )


def _sensible(result: Any, most: float) -> float:
    """The result of an accountant as a float, if it is one that can be true."""
    number = float(result)
    # A delta is summed up of floats, and may end a rounding above 1.
    if not 0 <= number <= most * (1 + 1e-9):
        raise InputError(
            f"The ledger cannot be counted: the accountant found {number}, which no cost can be."
        )
    return min(number, most)


def epsilon_of_event(event: Any, delta: float, accountant: str = "rdp") -> float:
    """Epsilon of a dp_accounting event at `delta`.

    Args:
        event: a `dp_accounting.DpEvent`.
        delta: float in (0, 1).
        accountant: "rdp" or "pld".

    Returns:
        Epsilon, `inf` where the event gives no guarantee.
    """
    delta = _validate.open_unit_interval(delta=delta)
    by_rdp = epsilon_of_rdp(rdp_of_event(event), delta)
    if accountant == "rdp":
        return by_rdp
    counted = make_accountant(accountant, by_rdp).compose(event)
    return _sensible(counted.get_epsilon(delta), math.inf)


def delta_of_event(event: Any, epsilon: float, accountant: str = "rdp") -> float:
    """Delta of a dp_accounting event at `epsilon`, 1 where the event gives no guarantee.

    Args:
        event: a `dp_accounting.DpEvent`.
        epsilon: float, not negative.
        accountant: "rdp" or "pld".
    """
    epsilon = _validate.non_negative(epsilon=epsilon)
    return _sensible(make_accountant(accountant).compose(event).get_delta(epsilon), 1.0)


def rdp_of_event(event: Any) -> Array:
    """Renyi divergence bounds of an event, one for each of dp_accounting's default orders."""
    # Rounded, a divergence near 0 may end below it.
    return np.asarray(np.maximum(make_accountant("rdp").compose(event).rdp, 0.0))


@functools.lru_cache(maxsize=1024)
def rdp_of_step(noise_multiplier: float, sampling_probability: float) -> Array:
    """The same for one Gaussian release over a Poisson sample; steps multiply it."""
    rdp = rdp_of_event(subsampled_gaussian_event(noise_multiplier, sampling_probability, 1))
    rdp.flags.writeable = False  # it is shared
    return rdp


def epsilon_of_rdp(rdp: Array, delta: float) -> float:
    """Epsilon at `delta` of bounds as from `rdp_of_event`, or of their sum over several events."""
    import dp_accounting
    from dp_accounting.rdp.rdp_privacy_accountant import DEFAULT_RDP_ORDERS

    delta = _validate.open_unit_interval(delta=delta)
    if np.isnan(rdp).any():  # compute_epsilon would look past it, and may find 0
        _sensible(math.nan, math.inf)
    orders = np.array(DEFAULT_RDP_ORDERS)
    return _sensible(dp_accounting.rdp.compute_epsilon(orders, rdp, delta)[0], math.inf)


def repeat_and_select_event(event: Any, mean: float, shape: float) -> Any:
    """The event of releasing the best of a random number of runs.

    Args:
        event: the event of one run.
        mean: float, at least 1, the mean number of runs.
        shape: float, see `TrialCount`.
    """
    from dp_accounting import dp_event

    return dp_event.RepeatAndSelectDpEvent(event, mean, shape)


def subsampled_gaussian_event(
    noise_multiplier: float, sampling_probability: float, steps: int
) -> Any:
    """The event of `steps` Gaussian releases, each over a Poisson sample.

    A noise multiplier of 0 is a non-private event; 0 steps cost nothing.
    """
    import dp_accounting

    if steps == 0:
        return dp_accounting.NoOpDpEvent()
    if noise_multiplier == 0:
        return dp_accounting.NonPrivateDpEvent()
    release = dp_accounting.GaussianDpEvent(noise_multiplier)
    if sampling_probability < 1:
        release = dp_accounting.PoissonSampledDpEvent(sampling_probability, release)
    return dp_accounting.SelfComposedDpEvent(release, steps)


def calibrate_noise_multiplier(
    epsilon: float, delta: float, event: Callable[[float], Any], accountant: str = "rdp"
) -> float:
    """The smallest noise multiplier whose event costs at most `epsilon`.

    Args:
        epsilon: float above 0.
        delta: float in (0, 1).
        event: from a noise multiplier to the dp_accounting event of the whole run.
        accountant: "rdp" or "pld", the one whose epsilon must not exceed the target.

    Returns:
        The noise multiplier, within 1e-4 of the smallest, never below it.

    Raises:
        InputError: if an argument is out of range.
    """
    import dp_accounting
    from dp_accounting.mechanism_calibration import NoBracketIntervalFoundError

    epsilon = _validate.positive(epsilon=epsilon)
    delta = _validate.open_unit_interval(delta=delta)
    bracket = dp_accounting.LowerEndpointAndGuess(0.05, 1.0)
    if accountant == "pld":
        # PLD never asks for more noise than RDP, and is slow where there is little.
        most = calibrate_noise_multiplier(epsilon, delta, event, "rdp")
        bracket = dp_accounting.ExplicitBracketInterval(0.5 * most, 1.01 * most)
    try:
        noise_multiplier = dp_accounting.calibrate_dp_mechanism(
            lambda: make_accountant(accountant, epsilon), event, epsilon, delta, bracket, tol=1e-4
        )
    except (ValueError, OverflowError, NoBracketIntervalFoundError) as error:
        raise InputError(
            f"epsilon={epsilon:g} at delta={delta:g} is out of the reach of calibration for this "
            "many steps: no noise multiplier above 0.05 was found for it."
        ) from error
    # The search ends on the private side; a target never overshot is worth one more look.
    while not epsilon_of_event(event(noise_multiplier), delta, accountant) <= epsilon:
        noise_multiplier = math.nextafter(noise_multiplier * (1 + 1e-6), math.inf)
    return float(noise_multiplier)
