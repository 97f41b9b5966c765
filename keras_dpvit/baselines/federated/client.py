"""The client: a Flower ClientApp that trains on the records of its node.

The same app runs in the simulation and on SuperNodes.
"""

import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from keras_dpvit._types import Array
from keras_dpvit.baselines.federated import messages
from keras_dpvit.baselines.federated.job import Job, get_arrays, other_places
from keras_dpvit.baselines.federated.local_training import (
    PlainTraining,
    PrivateTraining,
    round_records,
)
from keras_dpvit.errors import InputError
from keras_dpvit.privacy.ledger import PrivacyLedger, ledger_from_dict

RecordsOf = Callable[[Context], tuple[Array, Array]]

_STATE = "keras_dpvit"  # the record in which a node remembers what it has spent
_LEDGER, _PRIVACY = "ledger", "privacy"


class Partitions:
    """The records of a node by its number, where all of them are in this process.

    Args:
        parts: inputs and labels of each client.
    """

    def __init__(self, parts: list[tuple[Array, Array]]) -> None:
        self._parts = parts

    def __call__(self, context: Context) -> tuple[Array, Array]:
        return self._parts[int(context.node_config["partition-id"])]


def make_client_app(records_of: RecordsOf) -> ClientApp:
    """A ClientApp for nodes that have their records from a function of Flower's context."""
    app = ClientApp()
    trainings = _Trainings()

    def train(message: Message, context: Context) -> Message:
        return _trained(message, context, records_of, trainings)

    app.train()(train)
    return app


def _trained(
    message: Message, context: Context, records_of: RecordsOf, trainings: "_Trainings"
) -> Message:
    config = message.content.config_records[messages.CONFIG]
    text, server_round = str(config[messages.JOB]), int(str(config[messages.ROUND]))
    job = Job.from_json(text)
    records = round_records(*records_of(context))
    content: dict[str, Any] = {}
    with trainings.lock:  # one copy of the model serves many nodes
        if job.record_privacy is None:
            training: Any = trainings.plain(text, job)
            count = len(records[0])
        else:
            training = trainings.private(context, text, job, len(records[0]))
            count = training.public_number
        frozen = message.content.array_records.get(messages.FROZEN)
        if frozen is not None:
            others = other_places(training.model, job.exchanged)
            training.place(others, messages.arrays_of(frozen))
        arrays = messages.arrays_of(message.content.array_records[messages.ARRAYS])
        training.round(arrays, records, _order(job, context, server_round))
        content[messages.ARRAYS] = messages.record_of(get_arrays(training.model, job.exchanged))
        if job.record_privacy is not None:
            ledger = json.dumps(training.ledger.to_dict())
            _state(context)[_LEDGER] = ledger
            content[messages.CONFIG] = ConfigRecord({messages.LEDGER: ledger})
    content[messages.METRICS] = MetricRecord({messages.COUNT: count})
    return Message(RecordDict(content), reply_to=message)


def _order(job: Job, context: Context, server_round: int) -> Any:
    """The generator by which a node shuffles its records in a round."""
    if job.seed is None:
        return np.random.default_rng()
    node = int(context.node_config.get("partition-id", context.node_id))
    return np.random.default_rng([abs(job.seed), node, server_round])


class _Trainings:
    """Copies of the model in this process, with what was traced for them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._plain: tuple[str, PlainTraining] | None = None
        self._private: dict[tuple[int, int], PrivateTraining] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Elsewhere they are made anew."""
        return (_Trainings, ())

    def plain(self, text: str, job: Job) -> PlainTraining:
        if self._plain is None or self._plain[0] != text:
            self._plain = text, PlainTraining(job)
        return self._plain[1]

    def private(self, context: Context, text: str, job: Job, num_records: int) -> PrivateTraining:
        """A node's training; it refuses another job than the first of the run.

        What the node has spent in the run is in its state, where it outlives this process.
        """
        state = _state(context)
        if state.setdefault(_PRIVACY, text) != text:
            raise InputError("the job must be the one that this run began with.")
        key = context.run_id, context.node_id
        if key not in self._private:
            self._private = {k: v for k, v in self._private.items() if k[0] == context.run_id}
            spent = ledger_from_dict(json.loads(str(state[_LEDGER])))
            assert isinstance(spent, PrivacyLedger)
            self._private[key] = PrivateTraining(job, num_records, spent)
        return self._private[key]


def _state(context: Context) -> Any:
    if _STATE not in context.state:
        context.state[_STATE] = ConfigRecord({_LEDGER: json.dumps(PrivacyLedger().to_dict())})
    return context.state[_STATE]
