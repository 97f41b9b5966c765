"""Flower strategies: its own FedAvg with ledgers collected, and DP-FedAvg."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.server import Grid
from flwr.serverapp.strategy import FedAvg, Strategy

from keras_dpvit._types import Array
from keras_dpvit.baselines.federated import messages
from keras_dpvit.baselines.federated.aggregation import ClientAggregator
from keras_dpvit.errors import InputError
from keras_dpvit.privacy.ledger import Ledger, ledger_from_dict


class WeightedFedAvg(FedAvg):
    """Flower's FedAvg: the mean of the clients' weights by their numbers of records.

    Where clients train privately on records, those numbers are public ones, and each sends the
    ledger of what left it.

    Args:
        num_clients: int, that must be connected.
        clients_per_round: int, drawn anew for each round.
        frozen: arrays of the model that stay as they are, or none.

    Attributes:
        ledgers: by node, the ledger of all that left it.
    """

    def __init__(self, num_clients: int, clients_per_round: int, frozen: list[Array]) -> None:
        super().__init__(
            fraction_train=clients_per_round / num_clients,
            fraction_evaluate=0.0,
            min_train_nodes=clients_per_round,
            min_available_nodes=num_clients,
        )
        self.ledgers: dict[int, Ledger] = {}
        self._frozen = frozen

    def _construct_messages(
        self, record: RecordDict, node_ids: list[int], message_type: str
    ) -> Iterable[Message]:
        if self._frozen:
            record[messages.FROZEN] = messages.record_of(self._frozen)
        made: Iterable[Message] = super()._construct_messages(record, node_ids, message_type)
        return made

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Averages what came; a ledger that cannot be read makes its reply a failure."""
        kept = []
        for reply in replies:
            if not reply.has_error() and self._take_ledger(reply):
                kept.append(reply)
        mean: tuple[ArrayRecord | None, MetricRecord | None]
        mean = super().aggregate_train(server_round, kept)
        return mean

    def _take_ledger(self, reply: Message) -> bool:
        """Keeps the ledger of a reply, if it has one; False if it is damaged."""
        config = reply.content.config_records.get(messages.CONFIG)
        if config is None:
            return True
        try:
            ledger = ledger_from_dict(json.loads(str(config[messages.LEDGER])))
        except (InputError, KeyError, ValueError):
            return False
        self.ledgers[reply.metadata.src_node_id] = ledger
        return True


class DPFedAvg(Strategy):
    """DP-FedAvg: Poisson samples of clients, clipped and unweighted sums, one draw of noise.

    Guarantee: `ClientAggregator`'s. A node is a client; of each that was sampled one reply at most
    counts, one that is late, failed or of another shape counts as zero, and nothing is read of a
    reply but its arrays. No round is dropped: one without clients releases noise.

    Args:
        aggregator: the mechanism.
        frozen: arrays of the model that stay as they are, or none.
        learning_rate: float, the server's, factor on the mean update.

    Attributes:
        arrays: the values after the last round, None before the first.
    """

    def __init__(
        self, aggregator: ClientAggregator, frozen: list[Array], learning_rate: float = 1.0
    ) -> None:
        self.aggregator = aggregator
        self.arrays: list[Array] | None = None
        self._frozen = frozen
        self._learning_rate = learning_rate
        self._sent: list[Array] = []
        self._sampled: set[int] = set()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Messages for the clients that enter the round."""
        self._sent = messages.arrays_of(arrays)
        nodes = self.aggregator.sample(sorted(grid.get_node_ids()))
        self._sampled = set(nodes)
        config[messages.ROUND] = server_round
        content = RecordDict({messages.ARRAYS: arrays, messages.CONFIG: config})
        if self._frozen:
            content[messages.FROZEN] = messages.record_of(self._frozen)
        return [
            Message(content=content, message_type=MessageType.TRAIN, dst_node_id=node)
            for node in nodes
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, None]:
        """The weights after the round, whoever replied."""
        updates: dict[int, list[Array] | None] = {}
        for reply in replies:
            node = reply.metadata.src_node_id
            if node in self._sampled and node not in updates:
                updates[node] = self._update(reply)
        mean = self.aggregator.release(list(updates.values()))
        self.arrays = [
            (old + self._learning_rate * step).astype(old.dtype)
            for old, step in zip(self._sent, mean, strict=True)
        ]
        return messages.record_of(self.arrays), None

    def _update(self, reply: Message) -> list[Array] | None:
        """The change that a reply makes; None if it cannot be read."""
        if reply.has_error():
            return None
        try:
            new = messages.arrays_of(reply.content.array_records[messages.ARRAYS])
        except Exception:  # whatever a client sends: it alone counts as zero
            return None
        if [(a.shape, a.dtype) for a in new] != [(a.shape, a.dtype) for a in self._sent]:
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            return [
                a.astype(np.float64) - b.astype(np.float64)
                for a, b in zip(new, self._sent, strict=True)
            ]

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """None: what clients measure on their records is not paid for."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> None:
        """None, as there is nothing to aggregate."""

    def summary(self) -> Any:
        """Nothing: results are returned."""
