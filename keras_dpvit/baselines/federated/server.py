"""The server: a Flower ServerApp that runs a strategy and keeps what each round gave."""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, cast

from flwr.app import ConfigRecord, Context, Message, MetricRecord
from flwr.server import Grid
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import Strategy

from keras_dpvit._types import Array
from keras_dpvit.baselines.federated import messages
from keras_dpvit.baselines.federated.job import Job

_POLL = 0.05  # seconds; Flower's own grid for a network looks every 3


class Stopped(Exception):  # noqa: N818
    """The training was told to stop."""


class MeteredGrid:
    """A Flower grid that counts bytes and failures, and can be stopped while it waits.

    Args:
        grid: a Flower grid.
        stop: set to end the wait for replies.

    Attributes:
        bytes_to_clients, bytes_from_clients: int, records of all messages.
        failures: for each round, the reasons of clients that gave no usable reply.
    """

    def __init__(self, grid: Grid, stop: threading.Event) -> None:
        self._grid, self._stop = grid, stop
        self.bytes_to_clients = self.bytes_from_clients = 0
        self.failures: list[list[str]] = []

    def wait_for_nodes(self, count: int, timeout: float) -> None:
        """Waits until `count` nodes are connected: a runtime may start the server before them."""
        end = time.monotonic() + timeout
        while len(self.get_node_ids()) < count and time.monotonic() < end:
            self._stop.wait(_POLL)

    def get_node_ids(self) -> list[int]:
        """The connected nodes."""
        self._check()
        return list(self._grid.get_node_ids())

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Replies to messages, as many as come in time."""
        sent = list(messages)
        if not sent:
            return []
        self.bytes_to_clients += sum(map(_bytes, sent))
        waiting, end = set(self._grid.push_messages(sent)), time.monotonic() + (timeout or 0.0)
        replies: list[Message] = []
        while waiting and (timeout is None or time.monotonic() < end):
            found = list(self._grid.pull_messages(waiting))
            replies += found
            waiting -= {reply.metadata.reply_to_message_id for reply in found}
            if waiting and not found:
                self._stop.wait(_POLL)
            self._check()
        self.bytes_from_clients += sum(map(_bytes, replies))
        reasons = [reply.error.reason for reply in replies if reply.has_error()]
        self.failures.append([*map(str, reasons), *["no reply in time"] * len(waiting)])
        return replies

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped


def _bytes(message: Message) -> int:
    return messages.bytes_of(message)


class Server:
    """The ServerApp of one training, and what came of it.

    Args:
        strategy: a Flower strategy.
        job: what clients are told.
        arrays: the first values of what is exchanged.
        evaluate: a function of the values that gives the accuracy after a round, or None.
        num_rounds: int.
        num_clients: int, that the first round waits for, as long as for replies.
        timeout: float, seconds for the replies of a round.
        progress: a function of a round's number and accuracy, called after it.

    Attributes:
        app: the `ServerApp`.
        accuracies: after each round, the first before any.
        arrays: the last values.
        rounds: int, done so far.
        error: what ended the training early, or None.
    """

    def __init__(
        self,
        strategy: Strategy,
        job: Job,
        arrays: list[Array],
        evaluate: Callable[[list[Array]], float] | None,
        num_rounds: int,
        num_clients: int,
        timeout: float,
        progress: Callable[[int, float | None], None],
    ) -> None:
        self.app = ServerApp()
        self.accuracies: list[float] = []
        self.arrays = arrays
        self.rounds = 0
        self.error: BaseException | None = None
        self.grid: MeteredGrid | None = None
        self._stop = threading.Event()
        self._strategy, self._job, self._evaluate = strategy, job, evaluate
        self._num_clients = num_clients
        self._rounds, self._timeout, self._progress = num_rounds, timeout, progress
        self.app.main()(self._main)

    def stop(self) -> None:
        """Ends the training where it waits next."""
        self._stop.set()

    def _main(self, grid: Grid, context: Context) -> None:
        self.grid = MeteredGrid(grid, self._stop)
        try:
            self.grid.wait_for_nodes(self._num_clients, self._timeout)
            self._strategy.start(
                grid=cast(Any, self.grid),  # of a grid, strategies use no more than it has
                initial_arrays=messages.record_of(self.arrays),
                num_rounds=self._rounds,
                timeout=self._timeout,
                train_config=ConfigRecord({messages.JOB: self._job.to_json()}),
                evaluate_fn=self._after_round,
            )
        except BaseException as error:  # raised again in the thread that waits
            self.error = error

    def _after_round(self, server_round: int, record: Any) -> MetricRecord | None:
        self.arrays, self.rounds = messages.arrays_of(record), server_round
        accuracy = None if self._evaluate is None else self._evaluate(self.arrays)
        if accuracy is not None:
            self.accuracies.append(accuracy)
        self._progress(server_round, accuracy)
        return None
