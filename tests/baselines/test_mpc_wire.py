"""Messages between owners and parties, and addresses."""

import json
import socket
import struct

import pytest

from keras_dpvit.baselines import mpc_addresses, mpc_wire
from keras_dpvit.errors import InputError


@pytest.fixture
def ends():
    one, other = socket.socketpair()
    other.settimeout(10)
    with one, other:
        yield one, other


def test_a_message_arrives_as_it_was_sent(ends):
    parts = [b"", b"abc", bytes(100_000)]
    mpc_wire.send(ends[0], "run", {"counts": [2, 1]}, parts)
    message = mpc_wire.receive(ends[1])
    assert (message.kind, message.about, message.parts) == ("run", {"counts": [2, 1]}, parts)


def framed(header):
    text = json.dumps(header).encode()
    return struct.pack("<I", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("<I", 4) + b"{{{{",
        framed([]),
        framed({"kind": 1, "about": {}, "sizes": []}),
        framed({"kind": "run", "about": {}, "sizes": [-1]}),
        framed({"kind": "run", "about": {}, "sizes": [True]}),
        framed({"kind": "run", "about": {}, "sizes": [1 << 40]}),
        framed({"kind": "run", "about": {}, "sizes": None}),
        framed({"kind": "run"}),
        struct.pack("<I", 1 << 30),
    ],
)
def test_something_else_than_a_message_is_refused(ends, content):
    ends[0].sendall(content)
    with pytest.raises(mpc_wire.WireError, match="something else than a message"):
        mpc_wire.receive(ends[1])


def test_a_closed_connection_is_told(ends):
    ends[0].sendall(struct.pack("<I", 50) + b"half")
    ends[0].close()
    with pytest.raises(mpc_wire.WireError, match="closed the connection"):
        mpc_wire.receive(ends[1])


def test_addresses_of_this_machine_are_taken():
    parties = ["127.0.0.1:9401", "localhost:9403", "[::1]:9405"]
    assert mpc_addresses.parsed(parties, 3) == [
        ("127.0.0.1", 9401),
        ("127.0.0.1", 9403),
        ("::1", 9405),
    ]
    assert mpc_addresses.link_address(("127.0.0.1", 9401)) == "127.0.0.1:9402"
    assert len(set(mpc_addresses.free(3))) == 3


@pytest.mark.parametrize(
    ("parties", "count", "message"),
    [
        (["127.0.0.1:9401"], None, "parties must be two or three addresses"),
        (["127.0.0.1:9401", "127.0.0.1:9402"], None, "parties must be two or three addresses"),
        (["127.0.0.1:9401", "127.0.0.1:9403"], 3, "parties must be 3 addresses for this protocol"),
        (["10.0.0.1:9401", "127.0.0.1:9403"], None, "parties must have loopback addresses"),
        (["127.0.0.1:80", "127.0.0.1:9403"], None, "parties must have ports in 1024..65534"),
        (["127.0.0.1", "127.0.0.1:9403"], None, "parties must be host:port,..., got '127.0.0.1'."),
        (["party.example:9401", "127.0.0.1:9403"], None, "parties must be host:port"),
    ],
)
def test_other_addresses_are_refused(parties, count, message):
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        mpc_addresses.parsed(parties, count)
