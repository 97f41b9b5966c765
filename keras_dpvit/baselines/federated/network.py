"""A SuperLink, SuperNodes and clients as processes that talk over this machine's loopback."""

import contextlib
import hashlib
import io
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from flwr.common.grpc import create_channel
from flwr.common.serde import context_from_proto, fab_to_proto
from flwr.common.typing import Fab
from flwr.proto.appio_pb2 import PullAppInputsRequest, RequestTokenRequest
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.control_pb2_grpc import ControlStub
from flwr.proto.serverappio_pb2_grpc import ServerAppIoStub
from flwr.server.grid import GrpcGrid
from flwr.supercore.heartbeat import HeartbeatSender, make_app_heartbeat_fn_grpc

import keras_dpvit
from keras_dpvit._types import Array
from keras_dpvit.baselines.federated import process
from keras_dpvit.baselines.federated.server import Server
from keras_dpvit.baselines.federated.simulation import run_to_end
from keras_dpvit.errors import InputError

_HOST = "127.0.0.1"
_PATIENCE = 120.0  # seconds until all parts must be there
_POLL = 0.1
_APP = """[project]
name = "federated"
version = "1"
description = "Federated averaging of a Keras model"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "keras_dpvit"

[tool.flwr.app.components]
serverapp = "keras_dpvit.baselines.federated.server:Server"
clientapp = "keras_dpvit.baselines.federated.client:make_client_app"
"""


def run_network(server: Server, clients: list[tuple[Array, Array]]) -> None:
    """Runs a training over a SuperLink, with a SuperNode and a process for each client.

    The server's app runs in this process, as it does in the simulation. All others end with it,
    whatever ends it.

    Args:
        server: the server.
        clients: inputs and labels of each, handed over through pipes and in no file.

    Raises:
        InputError: if a part ends early or is not ready in time.
        BaseException: what ended the server's training.
    """
    failed: list[BaseException] = []
    with _Parts() as parts:
        addresses = parts.start(clients)

        def run() -> None:
            try:
                with _running(addresses, len(clients), parts) as (grid, context):
                    server.app(grid, context)
            except BaseException as error:
                failed.append(error)

        run_to_end(threading.Thread(target=run, name="federated server"), server)
    if failed:
        raise failed[0]


class _Parts:
    """The processes, and a directory for their logs that goes when they have ended."""

    def __init__(self) -> None:
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._place = tempfile.TemporaryDirectory(prefix="federated-")
        self._folder = pathlib.Path(self._place.name)

    def __enter__(self) -> "_Parts":
        return self

    def __exit__(self, *raised: object) -> None:
        try:
            for _, running in self._processes:
                with contextlib.suppress(OSError):
                    assert running.stdin is not None
                    running.stdin.close()  # which is what it waits for
            for _, running in self._processes:
                try:
                    running.wait(10)
                except subprocess.TimeoutExpired:
                    running.kill()
                    running.wait()
        finally:
            self._place.cleanup()

    def start(self, clients: list[tuple[Array, Array]]) -> list[str]:
        """Starts everything; the SuperLink's addresses for apps, for nodes and for control."""
        ports = _free_ports(3 + len(clients))
        addresses = [f"{_HOST}:{port}" for port in ports]
        app, fleet, control, *own = addresses
        options = ["--insecure", "--isolation=process"]
        folder = self._folder / "superlink"
        flags = [f"--serverappio-api-address={app}", f"--fleet-api-address={fleet}"]
        flags += [f"--control-api-address={control}", f"--storage-dir={folder}"]
        self._start("SuperLink", ["superlink", *options, *flags])
        for index, (address, records) in enumerate(zip(own, clients, strict=True)):
            numbers = f"partition-id={index} num-partitions={len(clients)}"
            flags = [f"--superlink={fleet}", f"--clientappio-api-address={address}"]
            flags += [f"--node-config={numbers}"]
            self._start(f"SuperNode {index}", ["supernode", *options, *flags])
            self._start(f"client {index}", ["client", address], _packed(records))
        return [app, fleet, control]

    def check(self) -> None:
        """Raises `InputError` if a part has ended."""
        for name, running in self._processes:
            if running.poll() is not None:
                raise InputError(
                    f"{name} ended with status {running.returncode}: {self._last_line(name)}"
                )

    def _start(self, name: str, arguments: list[str], records: bytes = b"") -> None:
        environment = {
            **os.environ,
            "FLWR_HOME": str(self._folder / "home"),
            "FLWR_TELEMETRY_ENABLED": os.environ.get("FLWR_TELEMETRY_ENABLED", "0"),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "PYTHONPATH": os.pathsep.join(_where_we_are()),
        }
        with open(self._log(name), "wb") as log:
            running = subprocess.Popen(
                [sys.executable, "-m", process.__name__, *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
        self._processes.append((name, running))
        assert running.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `check` says why it ended
            running.stdin.write(len(records).to_bytes(process.HEADER, "big") + records)
            running.stdin.flush()

    def _log(self, name: str) -> pathlib.Path:
        return self._folder / f"{name}.log"

    def _last_line(self, name: str) -> str:
        lines = self._log(name).read_text("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else "it said nothing."


@contextlib.contextmanager
def _running(addresses: list[str], num_clients: int, parts: _Parts) -> Iterator[tuple[Any, Any]]:
    """A run on the SuperLink, as its ServerApp sees it: a grid with all nodes, and a context."""
    app, _, control = addresses
    _wait_for_port(control, parts)
    with create_channel(control, insecure=True) as channel:
        fab = fab_to_proto(_bundle())
        run_id = ControlStub(channel).StartRun(StartRunRequest(fab=fab)).run_id
    with create_channel(app, insecure=True) as channel:
        stub = ServerAppIoStub(channel)
        token = stub.RequestToken(RequestTokenRequest(run_id=run_id)).token
        context = context_from_proto(stub.PullAppInputs(PullAppInputsRequest(token=token)).context)
        heartbeat = HeartbeatSender(make_app_heartbeat_fn_grpc(stub, token))
        heartbeat.start()
        grid = GrpcGrid(app)
        try:
            grid.set_run(run_id)
            end = time.monotonic() + _PATIENCE
            while len(list(grid.get_node_ids())) < num_clients:
                _wait(end, parts, "SuperNodes did not connect")
            yield grid, context
        finally:
            heartbeat.stop()
            grid.close()


def _wait_for_port(address: str, parts: _Parts) -> None:
    host, port = address.split(":")
    end = time.monotonic() + _PATIENCE
    while True:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
            return
        _wait(end, parts, "the SuperLink did not open its port")


def _wait(end: float, parts: _Parts, what: str) -> None:
    parts.check()
    if time.monotonic() > end:
        raise InputError(f"{what} within {_PATIENCE:g} seconds.")
    time.sleep(_POLL)


def _bundle() -> Fab:
    """The app as Flower packs it: a name, and where its objects are. The code is installed."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("pyproject.toml", _APP)
    whole = content.getvalue()
    return Fab(hashlib.sha256(whole).hexdigest(), whole, {})


def _packed(records: tuple[Array, Array]) -> bytes:
    content = io.BytesIO()
    np.savez(content, x=records[0], y=records[1])
    return content.getvalue()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((_HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def _where_we_are() -> list[str]:
    """The folder that this package was imported from, before whatever is on the path."""
    own = str(pathlib.Path(keras_dpvit.__file__).parents[1])
    return [own, *filter(None, [os.environ.get("PYTHONPATH")])]
