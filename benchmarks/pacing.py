"""The worker's half of the protocol: a training run that goes on only as far as it is asked to.

One worker trains one side in one long run and stands still between the turns that the parent gives
it. Commands come as JSON lines on standard input, one answer line goes back for each:

* `{"command": "run", "warm_up": W, "steps": K}`: takes W + K steps. Answer: `warm_up` and
  `seconds`, the time of each, and `records`, the batch sizes of the K.
* `{"command": "memory"}`: `built_kib`, resident memory when the model was built, and `peak_kib`,
  the highest since.
* `{"command": "stop"}`, or the end of input: the run ends. No answer.

The very first step is timed from the command on, so that it holds the start of `fit`, tracing and
compilation. Every other one is timed from the end of the step before it: sampling is part of it.

This module needs Python alone; it runs in the peers' environment too.
"""

import json
import os
import re
import sys
import time
from typing import Any, TextIO


class Pacer:
    """Serves the parent's commands between the steps of a training run.

    Args:
        commands: stream of JSON lines to read.
        answers: stream of JSON lines to write.
    """

    def __init__(self, commands: TextIO, answers: TextIO) -> None:
        self._commands = commands
        self._answers = answers
        self._built_kib = 0
        self._to_skip = 0
        self._seconds: list[float] = []
        self._records: list[int] = []
        self._asked = 0
        self._last = 0.0

    @classmethod
    def on_standard_streams(cls) -> "Pacer":
        """Over stdin and stdout; whatever else is written to stdout goes to stderr from now on."""
        sys.stdout.flush()
        answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        return cls(sys.stdin, answers)

    def ready(self, **facts: Any) -> bool:
        """Announces the built model and waits for the first turn.

        Args:
            **facts: JSON-able, for the parent.

        Returns:
            Whether there is a first turn; if so, training must begin at once.
        """
        _forget_peak()
        self._built_kib = _status_kib("VmRSS")
        self._answer(facts)
        return self._wait()

    def step_done(self, records: int) -> bool:
        """Told of the end of each step; comes back when the next may begin.

        Args:
            records: the batch size of the step.

        Returns:
            Whether there is a next step.
        """
        now = time.perf_counter()
        self._seconds.append(now - self._last)
        self._records.append(records)
        self._last = now
        if len(self._seconds) < self._asked:
            return True
        skip = self._to_skip
        self._answer(
            {
                "warm_up": self._seconds[:skip],
                "seconds": self._seconds[skip:],
                "records": self._records[skip:],
            }
        )
        return self._wait()

    def _wait(self) -> bool:
        for line in self._commands:
            command = json.loads(line)
            if command["command"] == "stop":
                return False
            if command["command"] == "memory":
                self._answer({"built_kib": self._built_kib, "peak_kib": _status_kib("VmHWM")})
                continue
            self._to_skip = command["warm_up"]
            self._asked = command["warm_up"] + command["steps"]
            self._seconds, self._records = [], []
            self._last = time.perf_counter()
            return True
        return False

    def _answer(self, answer: dict[str, Any]) -> None:
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()


def _forget_peak() -> None:
    """Lets the peak count from here; where the kernel refuses, imports stay in it."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return


def _status_kib(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        found = re.search(rf"^{field}:\s*(\d+) kB", file.read(), re.MULTILINE)
    return int(found.group(1)) if found else 0
