"""Addresses of computing parties, each with a port for its clients and the next for its peers."""

import ipaddress
import socket
from collections.abc import Sequence

from keras_dpvit.errors import InputError

Address = tuple[str, int]


def parsed(parties: Sequence[str], num_parties: int | None = None) -> list[Address]:
    """Addresses of all parties, in order.

    The links are not encrypted, so every address must be of this machine: other machines are
    reached through tunnels that end here (SSH, stunnel), and whoever listens in on all links of an
    unprotected network has all shares.

    Args:
        parties: texts host:port.
        num_parties: how many the protocol has; None takes any number.

    Raises:
        InputError: if one is no such text, is of another machine, or they overlap or are too many.
    """
    addresses = [_parsed(text) for text in parties]
    if num_parties is not None and len(addresses) != num_parties:
        raise InputError(
            f"parties must be {num_parties} addresses for this protocol, got {len(addresses)}."
        )
    taken = [(host, port + more) for host, port in addresses for more in (0, 1)]
    if len(addresses) < 2 or len(set(taken)) < len(taken):
        raise InputError(
            "parties must be two or three addresses, each with a port and the next one to itself, "
            f"got {','.join(parties)!r}."
        )
    return addresses


def _parsed(text: str) -> Address:
    host, _, port = text.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.strip("[]")
    try:
        is_local = ipaddress.ip_address(host).is_loopback
        number = int(port)
    except ValueError:
        raise InputError(f"parties must be host:port,..., got {text!r}.") from None
    if not is_local:
        raise InputError(
            f"parties must have loopback addresses, got {text!r}: the links are not encrypted, so "
            "reach other machines through tunnels that end on this one."
        )
    if not 1024 <= number < 65535:
        raise InputError(f"parties must have ports in 1024..65534, got {text!r}.")
    return host, number


def shown(address: Address) -> str:
    """The address as host:port."""
    return f"{address[0]}:{address[1]}"


def link_address(address: Address) -> str:
    """The address at which a party's peers reach it, as SPU wants it."""
    return f"{address[0]}:{address[1] + 1}"


def free(count: int) -> list[Address]:
    """Addresses on this machine of which nobody uses either port just now."""
    found: list[Address] = []
    while len(found) < count:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
        if all(abs(port - other) > 1 for _, other in found):
            found.append(("127.0.0.1", port))
    return found
