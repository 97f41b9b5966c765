"""`train`: a Keras model trained over clients, with what it took and what it cost."""

import dataclasses
import secrets
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_dpvit import _validate
from keras_dpvit._types import Array
from keras_dpvit.baselines.federated import flower
from keras_dpvit.baselines.federated.job import (
    Job,
    get_arrays,
    job_of,
    other_places,
    set_arrays,
    values,
)
from keras_dpvit.baselines.federated.local_training import round_records
from keras_dpvit.baselines.federated.plans import RecordPrivacy, check_client_plan, client_entries
from keras_dpvit.errors import InputError
from keras_dpvit.models import provenance
from keras_dpvit.models.private_model import PrivatelyTrainable
from keras_dpvit.privacy.ledger import Ledger, ParallelLedger, PrivacyLedger, compose
from keras_dpvit.privacy.ledger_entries import LedgerEntry
from keras_dpvit.privacy.plan import PrivacyPlan

RUNTIMES = ("simulation", "network")
_BATCH = 512  # images scored at a time

Records = tuple[Array, Array]


@dataclasses.dataclass(frozen=True)
class FederatedResult:
    """The outcome of a federated training.

    Attributes:
        model: the model that was given, trained; its `privacy_ledger` has what this cost.
        accuracies: on the test records before the first round and after each, empty without any.
        bytes_to_clients, bytes_from_clients: int, arrays and settings in all messages.
        seconds: float, of the whole training, processes and tracing included.
        failures: for each round in which messages were sent, the reasons of clients that gave no
            usable reply.
    """

    model: Any
    accuracies: list[float]
    bytes_to_clients: int
    bytes_from_clients: int
    seconds: float
    failures: list[list[str]]


def train(
    model: Any,
    clients: Any,
    *,
    rounds: int | None = None,
    test_data: Any = None,
    optimizer: Any = None,
    loss: Any = None,
    batch_size: int = 32,
    local_epochs: float = 1.0,
    local_steps: int | None = None,
    clients_per_round: int | None = None,
    client_plan: PrivacyPlan | None = None,
    record_privacy: RecordPrivacy | None = None,
    server_learning_rate: float = 1.0,
    runtime: str = "simulation",
    timeout: float = 600.0,
    secure_aggregation: bool = False,
    seed: int | None = None,
    progress: Callable[[int, float | None], None] | None = None,
) -> FederatedResult:
    """Trains a model by federated averaging (McMahan et al. 2017, arXiv:1602.05629) on Flower.

    In each round clients train the model on their own records and send it back. Without privacy the
    next model is their mean by numbers of records, and a private model's ledger says that its
    epsilon is infinite. With `client_plan` the server runs DP-FedAvg, and the model's ledger has
    the plan's cost for one client with all its records. With `record_privacy` each client trains
    by `PrivateStep`, and the model's ledger holds those that came with the clients' weights.

    Guarantee: `ClientAggregator`'s with `client_plan`, for who sees the models but not for the
    server, which sees each update; `RecordPrivacy`'s with `record_privacy`. What rounds before an
    error or Ctrl-C have released is in the ledger too.

    Args:
        model: a built Keras model, trained in place. With either kind of privacy a private one:
            from `make_private`, or a `DPViTClassifier`.
        clients: for each client `(inputs, labels)`, arrays `(records, ...)`.
        rounds: int; left out with `client_plan`, whose steps they are.
        test_data: `(inputs, labels)` to score each round's model on, class numbers as labels.
        optimizer: a Keras optimizer for the clients, unused in each round; `SGD(0.1)` by default.
        loss: a `keras.losses.Loss` of one record; by default sparse cross-entropy of logits.
        batch_size: int, records in a client's step (expected ones with `record_privacy`).
        local_epochs: float, passes over a client's records in a round.
        local_steps: int, steps in a round instead.
        clients_per_round: int, drawn for each round; all by default, the plan's with `client_plan`.
        client_plan: from `client_plan`.
        record_privacy: a `RecordPrivacy`.
        server_learning_rate: float, with `client_plan` a factor on the mean update.
        runtime: "simulation", Flower's on this process, or "network", a SuperLink with a SuperNode
            and a process for each client on this machine's loopback.
        timeout: float, seconds after which clients that did not reply have failed for the round.
        secure_aggregation: bool; True is refused, see `flower.refuse_secure_aggregation`.
        seed: int or None; clients shuffle by it. Which of them are drawn is not repeatable. It is
            no seed of noise, which is the plan's.
        progress: a function of a round's number and accuracy, called after it.

    Returns:
        a `FederatedResult`.

    Raises:
        InputError: if an argument is wrong, Flower is not installed, or a part of the network ends.

    Example:
        >>> x, y = np.random.rand(60, 4).astype("float32"), np.arange(60) % 3
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> parts = [(x[i::3], y[i::3]) for i in range(3)]
        >>> result = kd.baselines.federated.train(model, parts, rounds=2, test_data=(x, y))
        >>> len(result.accuracies)
        3
    """
    began = time.monotonic()
    if secure_aggregation:
        flower.refuse_secure_aggregation()
    flower.require()
    _validate.one_of(RUNTIMES, runtime=runtime)
    _validate.positive(timeout=timeout)
    _validate.positive(server_learning_rate=server_learning_rate)
    parts = [_pair(part, "clients") for part in clients]
    if not parts:
        raise InputError("clients must hold at least one.")
    rounds, drawn = _rounds(rounds, clients_per_round, client_plan, record_privacy, len(parts))
    private = client_plan is not None or record_privacy is not None
    if private and not isinstance(model, PrivatelyTrainable):
        raise InputError(
            f"model must be private, got a {type(model).__name__}: wrap it with "
            "keras_dpvit.make_private(model), so that its ledger counts the rounds."
        )
    if isinstance(getattr(model, "privacy_ledger", None), ParallelLedger):
        raise InputError(
            "model must not come from a training over disjoint parts: it has no single sequence of "
            "releases, to which this one's would be added."
        )
    job = job_of(
        model,
        keras.optimizers.SGD(0.1) if optimizer is None else optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True) if loss is None else loss,
        moving_statistics=not private,
        rounds=rounds,
        batch_size=batch_size,
        local_epochs=local_epochs,
        local_steps=local_steps,
        seed=seed,
        record_privacy=record_privacy,
    )
    with flower.quiet():
        run = _Run(model, job, parts, client_plan, drawn, server_learning_rate)
        try:
            server = run.start(test_data, timeout, runtime, progress or (lambda *_: None))
        finally:
            run.keep()
    grid = server.grid
    return FederatedResult(
        model=model,
        accuracies=server.accuracies,
        bytes_to_clients=grid.bytes_to_clients,
        bytes_from_clients=grid.bytes_from_clients,
        seconds=time.monotonic() - began,
        failures=grid.failures,
    )


class _Run:
    """One training: a strategy on a runtime, and what is kept of it however it ends."""

    def __init__(
        self,
        model: Any,
        job: Job,
        clients: list[Records],
        plan: PrivacyPlan | None,
        clients_per_round: int,
        learning_rate: float,
    ) -> None:
        from keras_dpvit.baselines.federated import strategies
        from keras_dpvit.baselines.federated.aggregation import ClientAggregator

        self._model, self._job, self._clients, self._plan = model, job, clients, plan
        self._arrays = get_arrays(model, job.exchanged)
        frozen = get_arrays(model, other_places(model, job.exchanged))
        self._frozen = frozen
        self._server: Any = None
        self._id = secrets.token_hex(16)
        self.strategy: Any
        if plan is None:
            self.strategy = strategies.WeightedFedAvg(len(clients), clients_per_round, frozen)
        else:
            aggregator = ClientAggregator(plan, [array.shape for array in self._arrays])
            self.strategy = strategies.DPFedAvg(aggregator, frozen, learning_rate)

    def start(self, test_data: Any, timeout: float, runtime: str, progress: Any) -> Any:
        """Runs all rounds; the server has what came of them."""
        from keras_dpvit.baselines.federated.client import Partitions, make_client_app
        from keras_dpvit.baselines.federated.server import Server

        score = None if test_data is None else self._score(_pair(test_data, "test_data"))
        self._server = Server(
            self.strategy,
            self._job,
            self._arrays,
            score,
            num_rounds=self._job.rounds,
            num_clients=len(self._clients),
            timeout=timeout,
            progress=progress,
        )
        if runtime == "network":
            from keras_dpvit.baselines.federated.network import run_network

            run_network(self._server, self._clients)
        else:
            from keras_dpvit.baselines.federated.simulation import simulate

            client_app = make_client_app(Partitions(self._clients))
            simulate(self._server, client_app, len(self._clients))
        return self._server

    def _score(self, records: Records) -> Callable[[list[Array]], float]:
        """The accuracy of values on records, computed with a copy of the model."""
        copy, (inputs, labels) = self._job.build_model(), records
        set_arrays(copy, other_places(copy, self._job.exchanged), self._frozen)

        def accuracy(arrays: list[Array]) -> float:
            set_arrays(copy, self._job.exchanged, arrays)
            outputs = copy.predict(inputs, batch_size=_BATCH, verbose=0)
            return float(np.mean(np.argmax(outputs, axis=-1) == labels))

        return accuracy

    def keep(self) -> None:
        """Puts the last values into the model, and what they cost into its ledger."""
        if self._server is None:
            return
        if not isinstance(self._model, PrivatelyTrainable):
            set_arrays(self._model, self._job.exchanged, self._server.arrays)
            return
        self._model.enter_own_training()
        past = self._model.privacy_ledger
        provenance.begin_training(self._model, values(self._model), self._model)
        try:
            set_arrays(self._model, self._job.exchanged, self._server.arrays)
            self._model.past_ledger = self._ledger(past)
        finally:
            provenance.settle(self._model, self._model)

    def _ledger(self, past: Ledger) -> Ledger:
        """The cost of the model's weights, with the rounds so far."""
        if self._job.record_privacy is not None:
            every = [own for _, own in sorted(self.strategy.ledgers.items())]
            parts = tuple(compose([past, own], "shared") for own in every)
            return ParallelLedger(parts) if len(parts) > 1 else (*parts, past)[0]
        if self._plan is None:
            rounds = self._server.rounds
            entries = _without_privacy(rounds, self._id) if rounds else ()
        else:
            entries = client_entries(self._plan, self.strategy.aggregator.rounds, self._id)
        return compose([past, PrivacyLedger(entries)], "shared")


def _without_privacy(rounds: int, release_id: str) -> tuple[LedgerEntry, ...]:
    entry = LedgerEntry(
        steps=rounds,
        noise_multiplier=0.0,
        sampling_probability=1.0,
        not_covered=("Training by federated averaging without noise.",),
        release_id=release_id,
    )
    return (entry,)


def _pair(part: Any, name: str) -> Records:
    try:
        inputs, labels = part
    except (TypeError, ValueError):
        raise InputError(f"{name} must be given as (inputs, labels).") from None
    inputs, labels = np.asarray(inputs), np.asarray(labels)
    if inputs.ndim and labels.ndim and not len(inputs) and not len(labels):
        return inputs, labels  # a client without records fails in each round, and no more
    return round_records(inputs, labels)


def _rounds(
    rounds: int | None,
    clients_per_round: int | None,
    plan: PrivacyPlan | None,
    privacy: RecordPrivacy | None,
    num_clients: int,
) -> tuple[int, int]:
    """The numbers of rounds and of clients drawn for each, by the plan where there is one."""
    if plan is not None:
        check_client_plan(plan)
        if privacy is not None:
            raise InputError("client_plan and record_privacy exclude each other: give one of them.")
        if rounds is not None or clients_per_round is not None:
            raise InputError(
                "rounds and clients_per_round must be left out with client_plan: they are the "
                "plan's."
            )
        return plan.steps, plan.batch_size
    if rounds is None:
        raise InputError("rounds must be given.")
    drawn = num_clients if clients_per_round is None else clients_per_round
    if _validate.positive_int(clients_per_round=drawn) > num_clients:
        raise InputError(
            f"clients_per_round must not exceed the number of clients ({num_clients}), got {drawn}."
        )
    return _validate.positive_int(rounds=rounds), drawn
