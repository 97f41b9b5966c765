"""Ctrl-C that is not lost."""

import signal
import threading
from types import TracebackType
from typing import Any

import keras


class Interrupts(keras.callbacks.Callback):
    """As a context around `fit` and a callback of it: Ctrl-C ends the training at the next step.

    Python raises `KeyboardInterrupt` wherever it is; what is raised while an object is destroyed,
    as TensorFlow's iterators are between two epochs, is lost. Here it is raised once more.
    """

    def __init__(self) -> None:
        super().__init__()
        self._came = False
        self._before: Any = None

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._noted)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _noted(self, number: int, frame: Any) -> None:
        self._came = True
        raise KeyboardInterrupt

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._came:
            raise KeyboardInterrupt
