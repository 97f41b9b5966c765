"""The owners' side: a model is dealt to the parties, images are, and answers are put together."""

import dataclasses
import socket
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from keras_dpvit._types import Array
from keras_dpvit.baselines import mpc_addresses, mpc_runtime, mpc_wire
from keras_dpvit.baselines.mpc_addresses import Address
from keras_dpvit.baselines.mpc_images import ModelFacts, image_function
from keras_dpvit.baselines.mpc_wire import Message, WireError
from keras_dpvit.errors import InputError

# Compiled code and a turn behind other clients take their time, a batch under CHEETAH most.
_PATIENCE_SECONDS = 3600.0
_CONNECT_SECONDS = 10.0


class Parties:
    """Connections to all parties, which serve one client at a time.

    They are taken in the order of the parties, each after the one before has greeted: two clients
    never wait for each other.

    Args:
        addresses: of the parties, in order.

    Attributes:
        protocol: a name of `mpc_runtime.PROTOCOLS`.
        sent: for each party the bytes that it sent to the others in all runs.

    Raises:
        InputError: if one cannot be reached, is another one than its place says, or fails; from
            any method.
    """

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = list(addresses)
        self._connections: list[socket.socket] = []
        self._threads = ThreadPoolExecutor(len(addresses))
        self.sent = [0] * len(addresses)
        try:
            greetings = [self._connect(rank) for rank in range(len(addresses))]
        except BaseException:
            self.close()
            raise
        self.protocol = str(greetings[0]["protocol"])
        self._config = mpc_runtime.configuration(self.protocol)

    def _connect(self, rank: int) -> dict[str, Any]:
        address = mpc_addresses.shown(self._addresses[rank])
        try:
            connection = socket.create_connection(self._addresses[rank], _CONNECT_SECONDS)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"party {rank} at {address} cannot be reached: {reason}.") from error
        self._connections.append(connection)
        connection.settimeout(_PATIENCE_SECONDS)
        try:
            about = mpc_wire.receive(connection).about
        except WireError as error:
            raise InputError(f"party {rank} at {address} does not answer: {error}.") from error
        expected = (rank, len(self._addresses))
        if (about.get("rank"), about.get("parties")) != expected:
            raise InputError(
                f"parties must be all of one protocol in their order: {address} is party "
                f"{about.get('rank')} of {about.get('parties')}."
            )
        return about

    def load(self, program: Any) -> None:
        """Deals a model to the parties, once in their life.

        Args:
            program: `mpc_program.PrivateProgram`.
        """
        about = dataclasses.asdict(program.about)
        each = mpc_runtime.make_shares(program.weights, self._config, len(self._addresses))
        messages = []
        for shares in each:
            counts, parts = mpc_runtime.pack(shares)
            given = {"counts": counts, "program": about}
            messages.append(
                Message("load", given, [program.executable, program.image_part, *parts])
            )
        self._ask(messages)

    def describe(self) -> Message:
        """The model's public part: "program", and the image's part as its one part of bytes."""
        return self._ask([Message("describe", {}, [])] * len(self._addresses))[0]

    def open(self) -> None:
        """Has the parties connect with each other; before the first `run`."""
        self._ask([Message("open", {}, [])] * len(self._addresses))

    def run(self, images: Sequence[Array]) -> Array:
        """The answers to one batch.

        Args:
            images: arrays, what the image's part made of the batch.
        """
        messages = []
        for shares in mpc_runtime.make_shares(images, self._config, len(self._addresses)):
            counts, parts = mpc_runtime.pack(shares)
            messages.append(Message("run", {"counts": counts}, parts))
        answers = self._ask(messages)
        for rank, answer in enumerate(answers):
            self.sent[rank] += int(answer.about["sent"])
        shares = [mpc_runtime.unpack(a.about["counts"], a.parts)[0] for a in answers]
        return mpc_runtime.reconstruct(shares, self._config)

    def _ask(self, messages: Sequence[Message]) -> list[Message]:
        """Each party's reply to its message; the first that fails ends the wait for the others."""
        jobs = [
            self._threads.submit(self._ask_one, rank, message)
            for rank, message in enumerate(messages)
        ]
        done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
        failed = [error for job in done if (error := job.exception()) is not None]
        if failed:
            self.close()
            raise failed[0]
        return [job.result() for job in jobs]

    def _ask_one(self, rank: int, message: Message) -> Message:
        connection = self._connections[rank]
        place = f"party {rank} at {mpc_addresses.shown(self._addresses[rank])}"
        try:
            mpc_wire.send(connection, message.kind, message.about, message.parts)
            reply = mpc_wire.receive(connection)
        except WireError as error:
            raise InputError(f"{place} ended or failed: {error}.") from error
        if reply.kind == "error":
            raise InputError(f"{place} refuses: {reply.about.get('reason')}.")
        return reply

    def close(self) -> None:
        """Leaves the parties to the next client."""
        for connection in self._connections:
            try:
                mpc_wire.send(connection, "end")
                connection.shutdown(socket.SHUT_RDWR)
            except (WireError, OSError):
                pass
            connection.close()
        self._threads.shutdown(wait=False)

    def __enter__(self) -> "Parties":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class PrivateModel:
    """A model that parties hold, for whoever has images.

    Args:
        parties: `Parties` that have loaded it.

    Attributes:
        about: `ModelFacts`.
        seconds: float, of all images so far, sharing and putting together included.
    """

    def __init__(self, parties: Parties) -> None:
        message = parties.describe()
        self.about = ModelFacts.from_dict(message.about)
        self.seconds = 0.0
        self._parties: Any = parties
        self._image_part = image_function(message.parts[0])
        parties.open()

    @property
    def sent(self) -> list[int]:
        """For each party the bytes that it has sent to the others."""
        return list(self._parties.sent)

    def predict(self, images: Array) -> Array:
        """Logits or probabilities `(n, classes)` of images `(n, height, width, channels)`.

        Raises:
            InputError: if the images are of another shape, or a pixel is not finite.
        """
        images = checked_images(images, self.about.image_shape)
        begin = time.perf_counter()
        found = [
            self._parties.run(self._image_part(batch))
            for batch in batches(images, self.about.batch_size)
        ]
        self.seconds += time.perf_counter() - begin
        outputs: Array = np.concatenate(found)[: len(images)]
        return outputs


class SimulatedModel(PrivateModel):
    """As `PrivateModel`, all parties threads of this process: for tests and trials.

    Args:
        program: `mpc_program.PrivateProgram`.
        protocol: a name of `mpc_runtime.PROTOCOLS`.
    """

    def __init__(self, program: Any, protocol: str) -> None:
        self.about = program.about
        self.seconds = 0.0
        self._parties = mpc_runtime.Simulation(protocol, program.executable, program.weights)
        self._image_part = image_function(program.image_part)


def checked_images(images: Array, image_shape: tuple[int, int, int]) -> Array:
    """The images as float32.

    Raises:
        InputError: if they are none, of another shape, or a pixel is not finite.
    """
    images = np.asarray(images, "float32")
    if images.ndim != 4 or images.shape[1:] != tuple(image_shape) or not len(images):
        expected = ("n", *image_shape)
        raise InputError(
            f"images must be {expected} (the model's input), n at least 1, got {images.shape}."
        )
    if not np.isfinite(images).all():
        raise InputError("images must have finite pixels.")
    return images


def batches(images: Array, batch_size: int) -> list[Array]:
    """The images in batches of one size, the last filled up with black ones."""
    missing = -len(images) % batch_size
    filled = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
    return np.split(filled, len(filled) // batch_size)
