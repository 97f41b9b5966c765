"""All parties as processes of this machine, which end with the process that started them."""

import contextlib
import json
import selectors
import subprocess
import tempfile
import time
from collections.abc import Sequence

from keras_dpvit._reasons import reason
from keras_dpvit.baselines import child_processes, mpc_addresses
from keras_dpvit.baselines.mpc_addresses import Address
from keras_dpvit.baselines.mpc_runtime import PROTOCOLS
from keras_dpvit.errors import InputError

_START_SECONDS = 120.0


class LocalParties:
    """Starts one process for each party, and ends them; a context manager.

    Args:
        protocol: a name of `PROTOCOLS`.
        addresses: one for each party; None finds free ones.

    Attributes:
        addresses: those at which the parties listen.

    Raises:
        InputError: if a party does not come up, because its port is taken, say.
    """

    def __init__(self, protocol: str, addresses: Sequence[Address] | None = None) -> None:
        count = PROTOCOLS[protocol].num_parties
        self.addresses = list(addresses or mpc_addresses.free(count))
        self._errors = [
            tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
            for _ in self.addresses
        ]
        self._processes: list[subprocess.Popen[bytes]] = []
        settings = {"protocol": protocol, "addresses": self.addresses}
        try:
            for rank, errors in enumerate(self._errors):
                self._processes.append(
                    child_processes.start(
                        "keras_dpvit.baselines.mpc_party",
                        json.dumps({**settings, "rank": rank}),
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=errors,
                    )
                )
            self._wait_until_listening()
        except BaseException:
            self.close()
            raise

    def _wait_until_listening(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        with selectors.DefaultSelector() as selector:
            for process in self._processes:
                assert process.stdout is not None
                selector.register(process.stdout, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise InputError(f"parties did not come up in {_START_SECONDS:.0f} seconds.")
                for key, _ in ready:
                    if key.fileobj.readline() != b"listening\n":  # type: ignore[union-attr]
                        self._raise_for_the_ended()
                    selector.unregister(key.fileobj)

    def _raise_for_the_ended(self) -> None:
        for rank, process in enumerate(self._processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
                raise InputError(f"party {rank} at {self._place(rank)} ended: {self._said(rank)}.")
        raise InputError("a party ended its output.")

    def _place(self, rank: int) -> str:
        return mpc_addresses.shown(self.addresses[rank])

    def _said(self, rank: int) -> str:
        self._errors[rank].seek(0)
        lines = self._errors[rank].read().strip().splitlines() or ["it said nothing"]
        return reason(lines[-1])

    def wait(self, seconds: float | None = None) -> None:
        """Waits for as long as all parties run.

        Args:
            seconds: float, at the longest; None has no end.

        Raises:
            InputError: as soon as one has ended.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while end is None or time.monotonic() < end:
            for rank, process in enumerate(self._processes):
                if process.poll() is not None:
                    said = self._said(rank)
                    raise InputError(f"party {rank} at {self._place(rank)} ended: {said}.")
            time.sleep(0.2)

    def close(self) -> None:
        """Ends all parties."""
        for process in self._processes:
            child_processes.end(process)
            if process.stdout is not None:
                process.stdout.close()
        for errors in self._errors:
            errors.close()

    def __enter__(self) -> "LocalParties":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
