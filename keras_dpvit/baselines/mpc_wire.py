"""Messages between the owners of model and images and the computing parties, over a socket.

A message is a JSON header (its kind, what it says, sizes of its parts) and the parts as bytes.
Nothing in it is code: a share or a program is read by SPU.
"""

import dataclasses
import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

_LARGEST_HEADER = 1 << 24
_LARGEST_PARTS = 1 << 34
_LENGTH = struct.Struct("<I")


class WireError(RuntimeError):
    """The other side closed the connection, or sent something else than a message."""


@dataclasses.dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        kind: str.
        about: dict that JSON can hold.
        parts: list of bytes.
    """

    kind: str
    about: dict[str, Any]
    parts: list[bytes]


def send(
    connection: socket.socket,
    kind: str,
    about: dict[str, Any] | None = None,
    parts: Sequence[bytes] = (),
) -> None:
    """Sends one message."""
    sizes = [len(part) for part in parts]
    header = json.dumps({"kind": kind, "about": about or {}, "sizes": sizes}).encode()
    try:
        connection.sendall(_LENGTH.pack(len(header)) + header)
        for part in parts:
            connection.sendall(part)
    except OSError as error:
        raise WireError(f"the connection broke ({error.strerror or error})") from error


def receive(connection: socket.socket) -> Message:
    """Waits for one message.

    Raises:
        WireError: if the connection is closed, times out, or brings something else.
    """
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    if length > _LARGEST_HEADER:
        raise WireError("something else than a message came")
    try:
        header = json.loads(_exactly(connection, length))
        kind, about, sizes = header["kind"], header["about"], header["sizes"]
        sound = isinstance(kind, str) and isinstance(about, dict)
        sound = sound and all(type(size) is int and size >= 0 for size in sizes)
    except (ValueError, TypeError, LookupError):
        sound = False
    if not sound or sum(sizes) > _LARGEST_PARTS:
        raise WireError("something else than a message came")
    return Message(kind, about, [_exactly(connection, size) for size in sizes])


def _exactly(connection: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        try:
            part = connection.recv(min(count - len(received), 1 << 20))
        except OSError as error:
            raise WireError(f"the connection broke ({error.strerror or error})") from error
        if not part:
            raise WireError("the other side closed the connection")
        received += part
    return bytes(received)
