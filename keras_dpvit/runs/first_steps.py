"""Says what a training is doing before its first epoch has ended."""

import sys
import time
from typing import Any

import keras

_STEPS_TIMED = 3
_WORTH_SAYING = 60.0  # seconds that are still to come


class FirstSteps(keras.callbacks.Callback):
    """Announces the first step, which takes long to prepare, then estimates the whole time.

    Args:
        steps: int, of the whole training.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps
        self._seen = 0
        self._start = self._first = 0.0
        self._left = steps

    def on_train_begin(self, logs: Any = None) -> None:
        self._seen, self._start = 0, time.monotonic()
        self._left = self._steps - self.model.private_trainer.state.steps_taken
        if self._left > 0:
            print("Preparing the first step; large pictures take minutes.", flush=True)
        else:
            print("Every step of it was taken before.", flush=True)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._seen += 1
        if self._seen == 1:
            self._first = time.monotonic()
        if self._seen != 1 + _STEPS_TIMED or sys.stdout.isatty():  # the bar has an estimate
            return
        each = (time.monotonic() - self._first) / _STEPS_TIMED
        left = self._left - self._seen
        if each * left > _WORTH_SAYING:
            print(
                f"The first step took {self._first - self._start:.0f} s, the next {each:.2g} s "
                f"each: about {each * left / 60:.0f} minutes for the {left} to come.",
                flush=True,
            )
