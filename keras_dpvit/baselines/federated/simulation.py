"""All clients in this process, by Flower's simulation engine."""

import threading
from collections.abc import Callable
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.server.superlink.fleet.vce import backend as backends
from flwr.server.superlink.fleet.vce.backend import Backend, BackendConfig
from flwr.simulation import run_simulation

from keras_dpvit.baselines.federated.server import Server

_NAME = "keras_dpvit_in_process"


class InProcessBackend(Backend):
    """A backend of Flower's simulation that runs one client at a time, in this process.

    Flower's other backend starts Ray, whose workers would each load TensorFlow and trace the model
    anew; on a few cores TensorFlow uses all of them for one client.
    """

    def __init__(self, backend_config: BackendConfig) -> None:
        super().__init__(backend_config)
        self._app: ClientApp | None = None

    def build(self, app_fn: Callable[[], ClientApp]) -> None:
        """Loads the app."""
        self._app = app_fn()

    @property
    def num_workers(self) -> int:
        """Clients at a time."""
        return 1

    def is_worker_idle(self) -> bool:
        """True: Flower's engine keeps the queue."""
        return True

    def terminate(self) -> None:
        """Nothing was started."""

    def process_message(self, message: Message, context: Context) -> tuple[Message, Context]:
        """The app's reply."""
        assert self._app is not None
        return self._app(message, context), context


def simulate(server: Server, client_app: ClientApp, num_clients: int) -> None:
    """Runs a training by `flwr.simulation.run_simulation` until it ends.

    Args:
        server: the server.
        client_app: of every client.
        num_clients: int.

    Raises:
        BaseException: what ended the server's training.
    """
    backends.supported_backends.setdefault(_NAME, InProcessBackend)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            run_simulation(server.app, client_app, num_clients, backend_name=_NAME)
        except BaseException as error:
            failed.append(error)

    run_to_end(threading.Thread(target=run, name="federated simulation"), server)
    if failed:
        raise failed[0]


def run_to_end(thread: Any, server: Server) -> None:
    """Waits for a thread; Ctrl-C stops the server, which ends the thread.

    Raises:
        BaseException: what ended the server's training.
    """
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)
    except BaseException:
        server.stop()
        thread.join()
        raise
    if server.error is not None:
        raise server.error
