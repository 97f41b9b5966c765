"""One computing party: a process that sees shares, and never an image, a weight or an answer.

It serves one connection at a time. The model's owner loads its shares once; whoever connects later
has images classified. Parties follow the protocol and are otherwise curious: see docs/mpc.md.
"""

import contextlib
import json
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

from keras_dpvit._reasons import reason
from keras_dpvit.baselines import child_processes, mpc_runtime, mpc_wire
from keras_dpvit.baselines.mpc_addresses import Address, link_address
from keras_dpvit.baselines.mpc_wire import Message, WireError

# A client that says nothing for as long makes room for the next.
_PATIENCE_SECONDS = 120.0


class Party:
    """A party's server.

    Args:
        protocol: a name of `mpc_runtime.PROTOCOLS`.
        addresses: of all parties, in order; see `mpc_addresses`.
        rank: int, which of them this one is.
    """

    def __init__(self, protocol: str, addresses: Sequence[Address], rank: int) -> None:
        self._protocol, self._addresses, self._rank = protocol, list(addresses), rank
        self._log = mpc_runtime.LinkLog()
        self._model: Message | None = None
        self._shares: list[Any] = []

    def serve(self, listening: Callable[[], None]) -> None:
        """Serves connections, one at a time, until the process ends.

        Args:
            listening: called once connections are taken.

        Raises:
            OSError: if the address is taken.
        """
        with socket.create_server(self._addresses[self._rank], backlog=64) as server:
            listening()
            while True:
                connection, _ = server.accept()
                with connection, contextlib.suppress(WireError):
                    connection.settimeout(_PATIENCE_SECONDS)
                    self._converse(connection)

    def _converse(self, connection: socket.socket) -> None:
        about = {"rank": self._rank, "protocol": self._protocol}
        mpc_wire.send(connection, "ready", {**about, "parties": len(self._addresses)})
        with contextlib.ExitStack() as stack:
            session = _Session(self, stack)
            while True:
                message = mpc_wire.receive(connection)
                if message.kind == "end":
                    return
                try:
                    reply = session.reply(message)
                except Exception as error:  # of SPU, about what the other side sent
                    mpc_wire.send(connection, "error", {"reason": reason(error)})
                    return
                mpc_wire.send(connection, *reply)

    def load(self, message: Message) -> None:
        """Takes the model's program and this party's shares of its weights, once."""
        if self._model is not None:
            raise ValueError("a model is loaded already")
        self._shares = mpc_runtime.unpack(message.about["counts"], message.parts[2:])
        self._model = message

    @property
    def model(self) -> Message:
        """The message that loaded the model."""
        if self._model is None:
            raise ValueError("no model is loaded yet")
        return self._model

    def slice(self, stack: contextlib.ExitStack) -> mpc_runtime.Slice:
        """Connects with the other parties, for as long as the stack is open."""
        config = mpc_runtime.configuration(self._protocol)
        links = [link_address(address) for address in self._addresses]
        link = mpc_runtime.loopback_link(links, self._rank)
        stack.callback(_stop, link)
        return mpc_runtime.Slice(link, config, self.model.parts[0], self._shares)

    def sent(self) -> int:
        """Bytes that this party sent to the others since the last call."""
        return sum(self._log.sent())


class _Session:
    """One connection: its messages are answered one after the other."""

    def __init__(self, party: Party, stack: contextlib.ExitStack) -> None:
        self._party, self._stack = party, stack
        self._slice: mpc_runtime.Slice | None = None

    def reply(self, message: Message) -> tuple[str, dict[str, Any], list[bytes]]:
        if message.kind == "load":
            self._party.load(message)
            return "loaded", {}, []
        if message.kind == "describe":
            model = self._party.model
            return "program", model.about["program"], [model.parts[1]]
        if message.kind == "open":
            self._slice = self._party.slice(self._stack)
            return "open", {}, []
        if message.kind != "run" or self._slice is None:
            raise ValueError("the message is none that can be answered now")
        images = mpc_runtime.unpack(message.about["counts"], message.parts)
        counts, parts = mpc_runtime.pack([self._slice.run(images)])
        return "answer", {"counts": counts, "sent": self._party.sent()}, parts


def _stop(link: Any) -> None:
    with contextlib.suppress(RuntimeError):  # a peer may be gone
        link.stop_link()


def main() -> None:
    """Serves as `mpc_local.LocalParties` says, which starts it."""
    child_processes.end_with_parent(int(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    addresses = [tuple(address) for address in settings["addresses"]]
    party = Party(settings["protocol"], addresses, settings["rank"])
    party.serve(lambda: print("listening", flush=True))


if __name__ == "__main__":
    main()
