"""SecretFlow SPU: protocols, secret shares, links, and one party's slice of a computation."""

import dataclasses
import os
import re
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_dpvit._types import Array
from keras_dpvit.errors import InputError

# Fixed-point numbers in a ring of 64 bits. With 20 bits behind the point a product of two numbers
# up to 2**11 still fits before it is cut, and GELU and softmax err by about 2e-5.
FRACTION_BITS = 20

# A peer that says nothing for as long is gone.
LINK_PATIENCE_SECONDS = 120.0


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A secret-sharing protocol of SPU.

    Attributes:
        name: str, as flags have it.
        num_parties: int.
        protects: str, one sentence: from whom inputs are hidden, as long as parties follow the
            protocol (semi-honest).
    """

    name: str
    num_parties: int
    protects: str


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "aby3",
            3,
            "No single party learns anything about images, weights or answers; two that pool their "
            "shares learn all.",
        ),
        Protocol(
            "cheetah",
            2,
            "Neither party learns anything about images, weights or answers, by homomorphic "
            "encryption and oblivious transfer; both together learn all.",
        ),
        Protocol(
            "semi2k",
            2,
            "The second party learns nothing; the first deals the Beaver triples and can "
            "reconstruct images, weights and answers.",
        ),
    )
}


def libspu() -> Any:
    """SPU's native module.

    Raises:
        InputError: if the extra is not installed.
    """
    try:
        import spu.libspu
    except ImportError as error:
        raise InputError("MPC needs the package spu: pip install 'keras_dpvit[mpc]'.") from error
    return spu.libspu


def configuration(protocol: str, fraction_bits: int = FRACTION_BITS) -> Any:
    """SPU's runtime configuration of a protocol."""
    native = libspu()
    config = native.RuntimeConfig(
        protocol=getattr(native.ProtocolKind, protocol.upper()), field=native.FieldType.FM64
    )
    config.fxp_fraction_bits = fraction_bits
    # SPU's default for exp is (1 + x / 2**8)**(2**8), which errs by 4e-3 in a softmax.
    config.fxp_exp_mode = native.RuntimeConfig.ExpMode.EXP_PADE
    config.enable_pphlo_profile = True  # it logs the bytes of each run; see `LinkLog`
    return config


def make_shares(values: Sequence[Array], config: Any, num_parties: int) -> list[list[Any]]:
    """Splits arrays into shares, with randomness from the operating system.

    Guarantee: under ABY3 one party's share of an array, two of the three summands of each number,
    is uniform over the ring and independent of the array; under SEMI2K and CHEETAH its one summand
    is.

    Args:
        values: arrays.
        config: see `configuration`.
        num_parties: int.

    Returns:
        For each party its share of every array.
    """
    native = libspu()
    io = native.IoWrapper(num_parties, config)
    secret = native.Visibility.VIS_SECRET
    split = [io.MakeShares(np.ascontiguousarray(value), secret) for value in values]
    return [[shares[rank] for shares in split] for rank in range(num_parties)]


def reconstruct(shares: Sequence[Any], config: Any) -> Array:
    """The array of which these are all shares, in the order of the parties."""
    found: Array = libspu().IoWrapper(len(shares), config).Reconstruct(list(shares))
    return found


def pack(shares: Sequence[Any]) -> tuple[list[int], list[bytes]]:
    """Shares as bytes: how many parts each has, and the parts."""
    counts = [1 + len(share.share_chunks) for share in shares]
    return counts, [part for share in shares for part in (share.meta, *share.share_chunks)]


def unpack(counts: Sequence[int], parts: Sequence[bytes]) -> list[Any]:
    """The inverse of `pack`.

    Raises:
        ValueError: if the counts are not those of the parts.
    """
    if sum(counts) != len(parts) or min(counts, default=1) < 1:
        raise ValueError("the number of parts is another")
    shares, first = [], 0
    for count in counts:
        share = libspu().Share()
        share.meta = parts[first]
        share.share_chunks = list(parts[first + 1 : first + count])
        shares.append(share)
        first += count
    return shares


def ring_numbers(share: Any) -> Array:
    """One party's share of an array as numbers of the ring: uint64 `(numbers, summands held)`."""
    content = bytearray()
    for chunk in share.share_chunks:
        read = libspu().ValueChunk()
        read.ParseFromString(chunk)
        content += read.content
    meta = libspu().ValueMeta()
    meta.ParseFromString(share.meta)
    count = int(np.prod(meta.shape.dims, dtype=np.int64))
    return np.frombuffer(bytes(content), "<u8").reshape(count, -1)


class LinkLog:
    """Bytes that the parties of this process sent, from SPU's log, which is kept in memory."""

    _SENT = re.compile(rb"Link details: total send bytes (\d+)")

    def __init__(self) -> None:
        native = libspu()
        self._file = os.memfd_create("spu.log")
        self._read = 0
        options = native.logging.LogOptions()
        options.enable_console_logger = False
        options.system_log_path = f"/proc/self/fd/{self._file}"
        native.logging.setup_logging(options)

    def sent(self) -> list[int]:
        """Bytes of each party and run that ended since the last call."""
        text = os.pread(self._file, os.fstat(self._file).st_size, self._read)
        found = list(self._SENT.finditer(text))
        if found:
            self._read += found[-1].end()
        return [int(match[1]) for match in found]


class Slice:
    """One party's part of the computation: its shares of the weights, and the program.

    Args:
        link: see `loopback_link`.
        config: see `configuration`.
        executable: SPU's executable as bytes, inputs named `w0`, `w1`, ..., then `x0`, ....
        weights: this party's shares of the weights.
    """

    def __init__(self, link: Any, config: Any, executable: bytes, weights: Sequence[Any]) -> None:
        native = libspu()
        self._runtime = native.RuntimeWrapper(link, config)
        self._program = native.Executable()
        self._program.ParseFromString(executable)
        for index, share in enumerate(weights):
            self._runtime.SetVar(f"w{index}", share)

    def run(self, images: Sequence[Any]) -> Any:
        """This party's share of the answers.

        Args:
            images: this party's shares of the inputs `x0`, `x1`, ....
        """
        for index, share in enumerate(images):
            self._runtime.SetVar(f"x{index}", share)
        self._runtime.Run(self._program)
        return self._runtime.GetVar("y0")


def loopback_link(addresses: Sequence[str], rank: int) -> Any:
    """Connects this party with the others by brpc; all do so at the same time.

    Args:
        addresses: host:port of every party's link, in order.
        rank: int, which of them this party is.
    """
    description = _description(addresses)
    description.recv_timeout_ms = int(LINK_PATIENCE_SECONDS * 1000)
    description.connect_retry_interval_ms = 100
    description.connect_retry_times = 300
    return libspu().link.create_brpc(description, rank)


def _description(addresses: Sequence[str]) -> Any:
    description = libspu().link.Desc()
    for rank, address in enumerate(addresses):
        description.add_party(f"party{rank}", address)
    return description


class Simulation:
    """All parties as threads of this process: the same computation, without processes.

    Args:
        protocol: a name of `PROTOCOLS`.
        executable: see `Slice`.
        weights: arrays, the owner's inputs.
        fraction_bits: int, see `FRACTION_BITS`.

    Attributes:
        sent: for each party the bytes that it sent, sorted, over all runs.
    """

    def __init__(
        self,
        protocol: str,
        executable: bytes,
        weights: Sequence[Array],
        fraction_bits: int = FRACTION_BITS,
    ) -> None:
        self._parties = PROTOCOLS[protocol].num_parties
        self._config = configuration(protocol, fraction_bits)
        self._log = LinkLog()
        self.sent = [0] * self._parties
        shares = make_shares(weights, self._config, self._parties)
        description = _description([f"{uuid.uuid4().hex}-{r}" for r in range(self._parties)])
        description.id = uuid.uuid4().hex
        self._threads = ThreadPoolExecutor(self._parties)

        def start(rank: int) -> Slice:
            link = libspu().link.create_mem(description, rank)
            return Slice(link, self._config, executable, shares[rank])

        self._slices = list(self._threads.map(start, range(self._parties)))

    def run(self, images: Sequence[Array]) -> Array:
        """The answers to one batch.

        Args:
            images: arrays, the inputs `x0`, `x1`, ....
        """
        shares = make_shares(images, self._config, self._parties)
        answers = list(self._threads.map(lambda part, given: part.run(given), self._slices, shares))
        each = zip(self.sent, sorted(self._log.sent()), strict=True)
        self.sent = [before + now for before, now in each]
        return reconstruct(answers, self._config)
