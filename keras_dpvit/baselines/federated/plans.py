"""Plans of federated trainings: over clients, or over the records inside each client."""

import dataclasses
import functools
import math
from typing import Any

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import batch_sizes
from keras_dpvit.privacy.clipping import FlatClipping
from keras_dpvit.privacy.ledger_entries import LedgerEntry
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.privacy.sensitivity import DynamicSensitivity, FixedSensitivity, Sensitivity

SERVER_SEES = (
    "The server, which sees the update of each client that takes part before it is clipped and "
    "noised."
)
ROUNDED = "The number of records of each client, rounded to two digits, is taken as public."


def client_plan(
    *,
    num_clients: int,
    clients_per_round: int,
    rounds: int,
    delta: float,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
    l2_norm_clip: float | None = None,
    sensitivity: Sensitivity | None = None,
    **arguments: Any,
) -> PrivacyPlan:
    """A `PrivacyPlan` in which a client with all its records is what a record is elsewhere.

    Its `num_examples` are clients, its steps rounds, its gradients the clients' updates. Under it
    `train` runs DP-FedAvg (McMahan et al. 2018, arXiv:1710.06963); without `l2_norm_clip` the bound
    follows a quantile of the updates' norms through a noised count (Andrew et al. 2021,
    arXiv:1905.03871), whose cost is part of the plan's.

    Args:
        num_clients: int, the public number of clients.
        clients_per_round: int, of them expected in a round; each enters by a draw of its own.
        rounds: int above 0.
        delta: float in (0, 1), should be well below `1/num_clients`.
        epsilon: float, the target; or
        noise_multiplier: float, see `PrivacyPlan`.
        l2_norm_clip: float, a fixed bound on an update's norm.
        sensitivity: a `Sensitivity` instead; `DynamicSensitivity(initial=0.1)` by default.
        **arguments: `seed` and `accountant` of `PrivacyPlan`.

    Raises:
        InputError: if an argument is out of range, or not one of `epsilon` and `noise_multiplier`
            is given.

    Example:
        >>> plan = kd.baselines.federated.client_plan(
        ...     num_clients=1000, clients_per_round=50, rounds=100, delta=1e-4, epsilon=8
        ... )
        >>> plan.steps, plan.sampling_probability, round(plan.epsilon(), 1)
        (100, 0.05, 8.0)
    """
    if (epsilon is None) == (noise_multiplier is None):
        raise InputError("either epsilon or noise_multiplier must be given, and not both.")
    num_clients = _validate.positive_int(num_clients=num_clients)
    clients_per_round = _validate.positive_int(clients_per_round=clients_per_round)
    rounds = _validate.positive_int(rounds=rounds)
    if clients_per_round > num_clients:
        raise InputError(
            f"clients_per_round must not exceed num_clients={num_clients}, got {clients_per_round}."
        )
    if l2_norm_clip is not None:
        sensitivity = FixedSensitivity(l2_norm_clip)
    shared: dict[str, Any] = {
        "num_examples": num_clients,
        "batch_size": clients_per_round,
        # Half a round less: the plan rounds steps up, and must not round one up too many.
        "epochs": (rounds - 0.5) * clients_per_round / num_clients,
        "delta": delta,
        "clipping": FlatClipping(),
        "sensitivity": DynamicSensitivity(initial=0.1) if sensitivity is None else sensitivity,
        **arguments,
    }
    if epsilon is None:
        return PrivacyPlan(noise_multiplier=noise_multiplier or 0.0, **shared)
    return PrivacyPlan.for_target(epsilon=epsilon, **shared)


def check_client_plan(plan: Any) -> PrivacyPlan:
    """Returns a plan that clients can be sampled, clipped and noised by.

    Raises:
        InputError: if it is another kind of plan.
    """
    if not isinstance(plan, PrivacyPlan):
        raise InputError(f"client_plan must be a PrivacyPlan, got {_validate.shown(plan)}.")
    if plan.sampling != "poisson" or plan.microbatch_size > 1 or not plan.sensitivity.certified:
        raise InputError(
            "client_plan must sample clients one by one and bound each: see federated.client_plan."
        )
    return plan


def client_entries(plan: PrivacyPlan, rounds: int, release_id: str) -> tuple[LedgerEntry, ...]:
    """The ledger's entries for rounds of DP-FedAvg under a plan over clients."""
    return tuple(
        dataclasses.replace(
            entry,
            unit="client",
            release_id=f"{release_id}-{index}",
            not_covered=(*entry.not_covered, SERVER_SEES),
        )
        for index, entry in enumerate(plan.entries(rounds))
    )


@dataclasses.dataclass(frozen=True)
class RecordPrivacy:
    """Settings under which each client trains privately on its own records.

    Guarantee: what leaves a client in all rounds of a training costs at most `epsilon` at `delta`
    for each of its records: one client's steps are those of one `PrivacyPlan`, by `PrivateStep`.
    Neither the server nor other clients need be trusted with a record; that a client runs this
    code is assumed. Records are on one client each, so the largest cost of a client is that of all.

    Args:
        epsilon: float above 0, for each client's records.
        delta: float in (0, 1).
        l2_norm_clip: float from 1e-9 to 1e9, bound on a record's gradient.

    Raises:
        InputError: if an argument is out of range.

    Example:
        >>> privacy = kd.baselines.federated.RecordPrivacy(epsilon=8, delta=1e-4)
        >>> plan = privacy.plan(num_records=153, batch_size=50, steps=20)
        >>> plan.num_examples, plan.steps, plan.epsilon() <= 8
        (150, 20, True)
    """

    epsilon: float
    delta: float
    l2_norm_clip: float = 1.0

    def __post_init__(self) -> None:
        _validate.keep(
            self,
            epsilon=_validate.positive,
            delta=_validate.open_unit_interval,
            l2_norm_clip=_validate.clipping_norm,
        )

    def plan(self, num_records: int, batch_size: int, steps: int) -> PrivacyPlan:
        """The plan of one client.

        Args:
            num_records: int, of the client; rounded down to two digits, and then public.
            batch_size: int, records expected in a step; at most all of them.
            steps: int, in all rounds together.
        """
        public = batch_sizes.rounded_down(num_records)
        return _record_plan(self, public, min(batch_size, public), steps)


@functools.lru_cache(maxsize=256)  # clients of one size have one plan
def _record_plan(
    privacy: RecordPrivacy, num_records: int, batch_size: int, steps: int
) -> PrivacyPlan:
    return PrivacyPlan.for_target(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        num_examples=num_records,
        batch_size=batch_size,
        epochs=(steps - 0.5) * batch_size / num_records,
        clipping=FlatClipping(),
        sensitivity=FixedSensitivity(privacy.l2_norm_clip),
    )


def steps_of_round(num_records: int, batch_size: int, local_epochs: float) -> int:
    """Steps that passes over a client's records take, at least one."""
    return max(1, math.ceil(local_epochs * num_records / batch_size))
