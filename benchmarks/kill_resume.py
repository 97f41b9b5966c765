r"""Kills trainings with SIGKILL at random moments and compares what they end as after resuming.

A seeded run that nobody disturbs is the reference. Each other run starts in a directory of its own,
is killed at a moment drawn from the operating system's entropy, and goes on in a new process until
it is done; one is killed several times in a row. All must end with the reference's weights,
optimizer, ledger and epsilon, bit for bit, and no step's noise may fall on two different sums. A
few runs without a seed must count what they lost, and use no step's number again.

Moments are drawn in turn from three kinds: any time in the life of the process, start-up and exit
included; a step, and a part of its time; a checkpoint, and a part of the time it takes to write.

Exit status 1 if a run fails, 0 if all hold.

Examples:
  python -m benchmarks.kill_resume
  python -m benchmarks.kill_resume --kills=3
  python -m benchmarks.kill_resume --json --output=kill_resume.json
"""

import collections
import dataclasses
import itertools
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from absl import flags

from benchmarks.reports import checked_output
from keras_dpvit import _validate
from trainers import _cli

FLAGS = flags.FlagValues()
flags.DEFINE_integer("kills", 20, "Runs that are killed once each.", flag_values=FLAGS)
flags.DEFINE_bool("json", False, "Prints one JSON object and no table.", flag_values=FLAGS)
flags.DEFINE_string(
    "output", None, "File for the JSON object, besides what is printed.", flag_values=FLAGS
)

ROOT = pathlib.Path(__file__).parents[1]
KINDS = ("life", "step", "checkpoint")
SEED = 11
KILLS_IN_A_ROW, UNSEEDED_RUNS = 5, 3
_ANCHORS = {"life": "", "step": "step", "checkpoint": "save"}
_DURING = {"": "start-up", "start": "start-up", "fit": "start-up", "save": "checkpoint"}
_draw = random.SystemRandom()

# Step number to the digests of the noised gradients that were seen under it.
Seen = dict[int, set[str]]


@dataclasses.dataclass(frozen=True)
class Moment:
    """When to kill.

    Attributes:
        kind: one of KINDS.
        number: int, which step or checkpoint of the process, from 1; 0 for "life".
        seconds: float, after that, or after the start of the process.
    """

    kind: str
    number: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Pace:
    """How long things take in a run that nobody disturbs, in seconds, and how many there are."""

    life: float
    step: float
    checkpoint: float
    steps: int
    checkpoints: int

    def moment(self, kind: str) -> Moment:
        """A moment of a kind, drawn from the operating system's entropy."""
        if kind == "life":
            return Moment(kind, 0, _draw.uniform(0, self.life))
        most = self.steps if kind == "step" else self.checkpoints
        length = self.step if kind == "step" else self.checkpoint
        return Moment(kind, _draw.randint(1, most), _draw.uniform(0, length))


class RunError(Exception):
    """A run ended by itself and not well."""


class Run:
    """One process that trains; see `kill_run` for what it tells.

    Args:
        place: directory of the checkpoints and of the end's file.
        seed: int or None.
    """

    def __init__(self, place: pathlib.Path, seed: int | None) -> None:
        self.events: list[tuple[float, list[str]]] = []
        self._errors = place / "errors.txt"
        errors = os.open(self._errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        arguments = [str(place / "checkpoints"), str(place / "end.npz"), str(seed).lower()]
        self._start = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.kill_run", *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            cwd=ROOT,
        )
        os.close(errors)

    def kill(self, moment: Moment) -> bool:
        """Kills the process at a moment; False if it had ended before."""
        anchor, seen = _ANCHORS[moment.kind], 0
        if anchor:
            for words in self._lines():
                seen += words[0] == anchor
                if seen == moment.number:
                    break
        time.sleep(moment.seconds)
        self._process.send_signal(signal.SIGKILL)
        self.finish(check=False)
        return self._process.returncode == -signal.SIGKILL

    def finish(self, check: bool = True) -> float:
        """Waits for the end and gives the seconds of the whole life.

        Raises:
            RunError: if it ended with an error and `check` is true.
        """
        collections.deque(self._lines(), maxlen=0)
        self._process.wait()
        seconds = time.perf_counter() - self._start
        if check and self._process.returncode:
            last = self._errors.read_text(errors="replace").splitlines()[-20:]
            raise RunError(f"status {self._process.returncode}:\n" + "\n".join(last))
        return seconds

    def _lines(self) -> Iterator[list[str]]:
        assert self._process.stdout is not None
        for line in iter(self._process.stdout.readline, b""):
            self.events.append((time.perf_counter(), line.decode().split()))
            yield self.events[-1][1]

    def steps(self) -> list[tuple[int, str]]:
        """Number and digest of each step whose noise was drawn."""
        return [(int(words[1]), words[2]) for _, words in self.events if words[0] == "step"]

    def gaps(self, first: str, second: str) -> list[float]:
        """Seconds between an event and the next, where they are of these kinds."""
        pairs = itertools.pairwise(self.events)
        return [b - a for (a, x), (b, y) in pairs if (x[0], y[0]) == (first, second)]

    def last(self) -> str:
        """The last thing that it told."""
        return " ".join(self.events[-1][1][:2]) if self.events else ""

    def during(self) -> str:
        """What it was at when it ended; until the first step is there, TensorFlow traces it."""
        if self.last() == "saved" and not self.steps():
            return "start-up"
        return _DURING.get(self.last(), "end" if self.last() == "end" else "training")


def read_end(place: pathlib.Path) -> dict[str, Any]:
    """What a run ended as: "weights", "optimizer", "state" as bytes, "ledger" and "epsilon"."""
    with np.load(place / "end.npz") as stored:
        record = json.loads(bytes(stored["record"]))
        found: dict[str, Any] = {"ledger": without_ids(record["ledger"])}
        found["epsilon"] = record["epsilon"]
        for group in ("weights", "optimizer", "state"):
            names = sorted(name for name in stored.files if name.startswith(f"{group}_"))
            arrays = [stored[name] for name in names]
            found[group] = [(str(a.dtype), a.shape, a.tobytes()) for a in arrays]
    return found


def without_ids(ledger: Any) -> Any:
    """A ledger without the identities of its releases, which every process draws anew."""
    if isinstance(ledger, dict):
        return {k: without_ids(v) for k, v in ledger.items() if k != "release_id"}
    return [without_ids(item) for item in ledger] if isinstance(ledger, list) else ledger


def reused(seen: Seen, steps: Iterable[tuple[int, str]]) -> list[int]:
    """Enters steps into `seen`; the numbers under which gradients differ from those before."""
    odd = set()
    for number, digest in steps:
        seen.setdefault(number, set()).add(digest)
        if len(seen[number]) > 1:
            odd.add(number)
    return sorted(odd)


def reference(place: pathlib.Path, seed: int | None) -> tuple[Pace, dict[str, Any], Seen]:
    """A run that nobody disturbs: its pace, its end and its steps."""
    run = Run(place, seed)
    life = run.finish()
    steps = run.steps()
    pace = Pace(
        life,
        statistics.median(run.gaps("step", "step")),
        statistics.median(run.gaps("save", "saved")),
        len(steps),
        sum(words[0] == "save" for _, words in run.events),
    )
    return pace, read_end(place), {number: {digest} for number, digest in steps}


def killed_run(
    place: pathlib.Path, seed: int | None, pace: Pace, kinds: Iterable[str]
) -> tuple[list[dict[str, Any]], list[list[tuple[int, str]]]]:
    """A run that is killed at a moment of each kind in turn and then left to its end.

    A moment that comes after the end is drawn again, in a fresh run if it is the first.

    Returns:
        what was drawn and met for each kill; the steps of every process.
    """
    kills: list[dict[str, Any]] = []
    steps: list[list[tuple[int, str]]] = []
    for kind in kinds:
        moment = pace.moment(kind)
        run = Run(place, seed)
        killed = run.kill(moment)
        steps.append(run.steps())
        if not killed:
            break  # it is done; for a first moment of "life" this is a kill too late
        kills.append(
            {**dataclasses.asdict(moment), "during": run.during(), "last_event": run.last()}
        )
    run = Run(place, seed)
    run.finish()
    return kills, [*steps, run.steps()]


def judged(
    place: pathlib.Path, pace: Pace, expected: dict[str, Any], seen: Seen, kinds: Iterable[str]
) -> dict[str, Any]:
    """A seeded run that is killed, beside the reference."""
    kills, steps = killed_run(place, SEED, pace, kinds)
    found = read_end(place)
    equal = {name: found[name] == expected[name] for name in expected}
    odd = reused(seen, itertools.chain(*steps))
    return {
        "kills": kills,
        "equal": equal,
        "noise_on_two_sums": odd,
        "holds": bool(kills) and all(equal.values()) and not odd,
    }


def judged_without_seed(place: pathlib.Path, pace: Pace, epsilon: float) -> dict[str, Any]:
    """A run without a seed that is killed: nothing is spent off the record."""
    kind = _draw.choice(("step", "checkpoint"))
    kills, steps = killed_run(place, None, pace, [kind])
    numbers = [number for process in steps for number, _ in process]
    found = read_end(place)
    recorded = sum(entry["steps"] for entry in found["ledger"]["entries"])
    report = {
        "kills": kills,
        "steps_drawn": len(numbers),
        "steps_recorded": recorded,
        "numbers_used_twice": sorted(n for n, c in collections.Counter(numbers).items() if c > 1),
        "epsilon_of_plan": found["epsilon"] == epsilon,
    }
    report["holds"] = (
        bool(kills)
        and recorded >= len(numbers)
        and not report["numbers_used_twice"]
        and found["epsilon"] == epsilon
    )
    return report


def measure(kills: int) -> dict[str, Any]:
    """All runs, in a directory that is removed again.

    Args:
        kills: int, runs that are killed once each.
    """
    with tempfile.TemporaryDirectory() as work:
        places = (pathlib.Path(work, str(i)) for i in itertools.count())

        def fresh() -> pathlib.Path:
            place = next(places)
            place.mkdir()
            return place

        pace, expected, seen = reference(fresh(), SEED)
        runs = []
        for number, kind in zip(range(kills), itertools.cycle(KINDS), strict=False):
            run = judged(fresh(), pace, expected, seen, [kind])
            while not run["kills"]:  # it had ended by the moment drawn
                run = judged(fresh(), pace, expected, seen, [kind])
            runs.append(run)
            _say(f"kill {number + 1} of {kills}", run)
        kinds = [_draw.choice(KINDS) for _ in range(KILLS_IN_A_ROW)]
        # Early in each process, so that it is killed again before it is done.
        early = dataclasses.replace(pace, steps=4, checkpoints=2)
        row = judged(fresh(), early, expected, seen, kinds)
        _say(f"{len(row['kills'])} kills in a row", row)
        unseeded = []
        for _ in range(UNSEEDED_RUNS):
            unseeded.append(judged_without_seed(fresh(), pace, expected["epsilon"]))
            _say("without a seed", unseeded[-1])
    held = sum(run["holds"] for run in runs)
    return {
        "benchmark": "kill_resume",
        "command": f"python -m benchmarks.kill_resume --kills={kills}",
        "uninterrupted": dataclasses.asdict(pace),
        "bar": f"equal end for {kills} of {kills}",
        "equal_ends": held,
        "during": dict(collections.Counter(run["kills"][0]["during"] for run in runs)),
        "holds": held == kills and all(run["holds"] for run in [row, *unseeded]),
        "runs": runs,
        "killed_in_a_row": row,
        "without_seed": unseeded,
    }


def _say(what: str, run: dict[str, Any]) -> None:
    moments = ", ".join(
        f"{kill['kind']} {kill['number'] or ''} + {kill['seconds']:.4f} s, in {kill['during']}"
        f" (last: {kill['last_event'] or 'nothing'})"
        for kill in run["kills"]
    )
    print(f"{what}: {'holds' if run['holds'] else 'FAILS'}; {moments}", file=sys.stderr, flush=True)


def main() -> None:
    """Runs, prints, writes."""
    kills = _validate.positive_int(kills=FLAGS.kills)
    output = checked_output(FLAGS.output)
    try:
        report = measure(kills)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    text = json.dumps(report, indent=1)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")
    if FLAGS.json:
        print(text)
    else:
        met = ", ".join(f"{count} in {name}" for name, count in report["during"].items())
        print(f"equal ends: {report['equal_ends']} of {kills} ({met})")
        row, unseeded = report["killed_in_a_row"], report["without_seed"]
        print(f"killed {len(row['kills'])} times in a row: {_word(row['holds'])}")
        print(f"without a seed: {_word(all(run['holds'] for run in unseeded))}")
    sys.exit(0 if report["holds"] else 1)


def _word(holds: bool) -> str:
    return "holds" if holds else "FAILS"


if __name__ == "__main__":
    _cli.run(main, FLAGS, __doc__)
