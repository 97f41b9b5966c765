"""The sides that are measured, and the processes in which they train."""

import dataclasses
import json
import os
import pathlib
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import vit
from keras_dpvit.errors import InputError

ROOT = pathlib.Path(__file__).parents[1]
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"

# The longest that one turn may take before the worker counts as hung.
PATIENCE_SECONDS = 1200


@dataclasses.dataclass(frozen=True)
class Side:
    """One thing to time.

    Attributes:
        name: unique, in lower case.
        group: by which --only selects several.
        module: the worker program.
        settings: what the worker is told, JSON-able.
        peer: bool, it runs in the peers' environment.
        pace: float, timed steps of a turn over --steps; at least one is taken.
        first_steps: int, steps before the first turn, the very first of them timed apart.
        warm_up: int, untimed steps at the start of each turn.
        environment: variables set for the worker.
    """

    name: str
    group: str
    module: str
    settings: Mapping[str, Any]
    peer: bool = False
    pace: float = 1.0
    first_steps: int = 5
    warm_up: int = 2
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def steps(self, steps: int) -> int:
        """Timed steps in a turn, for a value of --steps."""
        return max(1, round(self.pace * steps))


def keras_side(
    network: str,
    private: bool,
    jit_compile: bool,
    batch_size: int,
    records: int = vit.RECORDS,
    pace: float = 1.0,
) -> Side:
    """A side in this package's Keras; its name says network, "dp" or "plain", and XLA."""
    name = f"{network}_{'dp' if private else 'plain'}{'_xla' if jit_compile else ''}"
    settings = {
        "network": network,
        "private": private,
        "jit_compile": jit_compile,
        "batch_size": batch_size,
        "records": records,
    }
    quiet = {"KERAS_BACKEND": "tensorflow"}
    return Side(
        name,
        network,
        "benchmarks.side_keras",
        settings,
        pace=pace,
        # XLA compiles for each size of a Poisson sample that it has not met yet, and TensorFlow's
        # kernels prepare themselves for it.
        first_steps=round(150 * pace) if private else 5,
        environment=quiet,
    )


def _tf_privacy_side(private: bool) -> Side:
    # A private step takes many seconds: there is no warming up for it, and few are enough.
    return Side(
        f"tf_privacy_{'dp' if private else 'plain'}",
        "tf_privacy",
        "benchmarks.side_tf_privacy",
        {"private": private, "batch_size": vit.BATCH_SIZE},
        peer=True,
        pace=0.1 if private else 1.0,
        first_steps=2 if private else 5,
        warm_up=0 if private else 2,
        environment={"TF_USE_LEGACY_KERAS": "1"},
    )


def _opacus_side(name: str, clipping: str | None) -> Side:
    settings = {"private": clipping is not None, "clipping": clipping, "batch_size": vit.BATCH_SIZE}
    return Side(name, "opacus", "benchmarks.side_opacus", settings, peer=True)


_MODES = [(private, xla) for xla in (False, True) for private in (False, True)]
SIDES = (
    *(keras_side("vit", private, xla, vit.BATCH_SIZE) for private, xla in _MODES),
    *(keras_side("small", private, xla, 256, pace=4.0) for private, xla in _MODES),
    _tf_privacy_side(private=False),
    _tf_privacy_side(private=True),
    _opacus_side("torch_plain", None),
    _opacus_side("opacus_flat", "flat"),
    _opacus_side("opacus_per_layer", "per_layer"),
)


class WorkerError(RuntimeError):
    """A worker ended or hung; the message holds the last of what it wrote to stderr."""


class Worker:
    """The process that trains one side; made idle, it trains while a `run` is under way only.

    Args:
        side: what to train.

    Raises:
        WorkerError: if it does not get as far as a built model; from any method.
    """

    def __init__(self, side: Side) -> None:
        self.side = side
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
        environment.pop("TF_USE_LEGACY_KERAS", None)
        self._process = subprocess.Popen(
            [
                str(PEERS_PYTHON) if side.peer else sys.executable,
                "-m",
                side.module,
                json.dumps(side.settings),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=ROOT,
            env={**environment, **side.environment},
        )
        try:
            self.facts = self._read()
        except BaseException:
            self.close()
            raise

    def run(self, steps: int, warm_up: int = 0) -> dict[str, Any]:
        """Takes steps; seconds of `warm_up` and of `seconds`, `records` in each of the latter."""
        return self._ask({"command": "run", "steps": steps, "warm_up": warm_up})

    def memory(self) -> dict[str, Any]:
        """`built_kib` and `peak_kib`, resident memory so far."""
        return self._ask({"command": "memory"})

    def close(self) -> None:
        """Ends the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None and not stream.closed:
                stream.close()

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # reading says why
        return self._read()

    def _read(self) -> dict[str, Any]:
        stdout = self._process.stdout
        assert stdout is not None
        if not select.select([stdout], [], [], PATIENCE_SECONDS)[0]:
            raise WorkerError(f"{self.side.name} gave no answer in {PATIENCE_SECONDS} s.")
        line = stdout.readline()
        if not line:
            self._errors.seek(0)
            tail = self._errors.read().strip().splitlines()[-12:]
            raise WorkerError("\n".join([f"{self.side.name} ended early:", *tail]))
        answer: dict[str, Any] = json.loads(line)
        return answer


def chosen_sides(names: Sequence[str] | None, sides: Sequence[Side] = SIDES) -> list[Side]:
    """The sides that --only names, all for None.

    Raises:
        InputError: on a name that is neither a side's nor a group's.
    """
    if names is None:
        return list(sides)
    groups = list(dict.fromkeys(side.group for side in sides))
    known = [*groups, *(side.name for side in sides)]
    for name in names or [""]:
        if name not in known:
            raise InputError(f"only must name some of {', '.join(known)}, got {name!r}.")
    return [side for side in sides if side.name in names or side.group in names]


def without_absent(sides: Sequence[Side]) -> tuple[list[Side], list[str]]:
    """The sides whose environment is there, and the names of the others, told on stderr.

    Raises:
        InputError: if nothing is left.
    """
    absent = [side.name for side in sides if side.peer and not PEERS_PYTHON.exists()]
    if len(absent) == len(sides):
        raise InputError(".venv-peers is absent and holds all that --only names: run `make peers`.")
    if absent:
        tell(f".venv-peers is absent (make peers): leaving out {', '.join(absent)}.")
    return [side for side in sides if side.name not in absent], absent


def tell(text: str) -> None:
    """Prints a line about the progress, apart from the results."""
    print(text, file=sys.stderr, flush=True)
