"""Names the callbacks through which a private training's records steer it past the noise."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras

from keras_dpvit.errors import InputError
from keras_dpvit.training.private_metrics import ACCURACY, LOSS, NAMES
from keras_dpvit.training.watched_logs import WatchedLogs

_callbacks = keras.callbacks

# Keras' own, by exact type: a subclass may do anything.
_ACT_ON_MONITOR = (_callbacks.EarlyStopping, _callbacks.ReduceLROnPlateau)
_SAVE = tuple(
    getattr(_callbacks, name)
    for name in ("ModelCheckpoint", "OrbaxCheckpoint")
    if hasattr(_callbacks, name)
)
_LOGGERS = (_callbacks.CSVLogger, _callbacks.TensorBoard, _callbacks.RemoteMonitor)
_HARMLESS = (
    _callbacks.History,
    _callbacks.ProgbarLogger,
    _callbacks.LearningRateScheduler,
    _callbacks.SwapEMAWeights,
)

_TRAINING_HOOKS = tuple(
    f"on_{what}_{when}"
    for what in ("train", "epoch", "train_batch", "batch")
    for when in ("begin", "end")
)
_TEST_HOOKS = tuple(
    f"on_{what}_{when}" for what in ("test", "test_batch") for when in ("begin", "end")
)

# In the logs without being computed from records past the noise.
_PUBLIC = ("epsilon", *NAMES)
_LEARNING_RATE = "learning_rate"
_MODES = {LOSS: "min", ACCURACY: "max"}


class Steering:
    """Watches what the callbacks of one `fit` read of its logs.

    Guarantee: none. A callback that acts on a value computed from the records without
    noise makes the model depend on them in a way that no epsilon counts. Keras' own callbacks are
    known; any other gets logs that note what is read of them. What reaches a callback past its
    logs is not seen (docs/pitfalls.md).

    Args:
        note: takes "invalidated_by" or "not_covered" and a line for the ledger.
        training_names: gives the names of the values that the training step shows.
        validates_on_training: bool, whether the validation records are the training's.
    """

    def __init__(
        self,
        note: Callable[[str, str], None],
        training_names: Callable[[], Iterable[str]],
        validates_on_training: bool = False,
    ) -> None:
        self._note = note
        self._training_names = training_names
        self._validates_on_training = validates_on_training
        self._known: list[Any] = []

    @contextlib.contextmanager
    def watching(self, callbacks: Any) -> Iterator[list[Any]]:
        """Gives the callbacks as a list; until the end of the block, what they read is noted.

        Args:
            callbacks: as `fit` takes them, a Keras `CallbackList` too, which is taken apart.

        Raises:
            InputError: on what is not a callback, or is one that private training refuses.
        """
        found = flattened(callbacks)
        refuse_backup(found)
        for callback in found:
            if not hasattr(callback, "__dict__"):
                raise InputError(f"callbacks must be Keras callbacks, got {callback!r}.")
        self._known = [c for c in found if type(c) in (*_ACT_ON_MONITOR, *_SAVE)]
        for callback in found:
            self._note_by_type(callback)
        with contextlib.ExitStack() as restored:
            for callback in {id(c): c for c in found}.values():
                if not _is_known(callback):
                    self._watch(callback, restored)
            self.note_known()
            yield found

    def note_known(self) -> None:
        """Notes Keras' own callbacks that act on a value; called again when its name is known."""
        for callback in self._known:
            if type(callback) in _ACT_ON_MONITOR or callback.save_best_only:
                self._acted(callback, callback.monitor)

    def _note_by_type(self, callback: Any) -> None:
        """Notes what a callback does whatever it monitors."""
        kind = type(callback)
        if kind in (*_ACT_ON_MONITOR, *_SAVE) and callback.mode == "auto":
            # Keras knows no direction for names that are not a metric's.
            callback.mode = _MODES.get(callback.monitor, "auto")
        if kind is _callbacks.TerminateOnNaN:
            self._acted(callback, "loss")
        elif kind in _LOGGERS:
            self._note(
                "not_covered",
                f"Training loss and metrics without noise, in what {kind.__name__} wrote.",
            )
        elif kind in _SAVE and "{" in str(getattr(callback, "filepath", "")):
            self._note(
                "not_covered", f"Values in the names of the files that {kind.__name__} wrote."
            )

    def _acted(self, callback: Any, key: str) -> None:
        name, kind = type(callback).__name__, self._kind(key)
        if kind == "training":
            self._note(
                "invalidated_by",
                f"{name} acted on {key}, which is computed from the records without noise.",
            )
        elif kind == "validation":
            self._note(
                "not_covered",
                f"{name} acted on {key}, which is computed from the validation records.",
            )

    def _read(self, callback: Any, key: str, in_test: bool) -> None:
        name = type(callback).__name__
        kind = self._kind(f"val_{key}" if in_test else key, own=not in_test)
        if kind == "validation":
            self._note(
                "not_covered",
                f"{name} read {key}, which is computed from the validation records.",
            )
        elif kind == "training" and getattr(callback, "displays_only", False) is True:
            self._note(
                "not_covered",
                f"{name} read {key}, which is computed from the records without noise; it says "
                "that it only displays it.",
            )
        elif kind == "training":
            self._note(
                "invalidated_by",
                f"{name} read {key}, which is computed from the records without noise, and may "
                "have acted on it.",
            )

    def _kind(self, key: Any, own: bool = True) -> str:
        """Tells "training", "validation" and "public" values apart by their name."""
        name = str(key)
        if own and name in self._training_names():  # whatever it is called
            return "training"
        if name.startswith("val_"):
            return "training" if self._validates_on_training else "validation"
        if name in _PUBLIC or name.startswith(_LEARNING_RATE):
            return "public"
        return "training"

    def _watch(self, callback: Any, restored: contextlib.ExitStack) -> None:
        """Puts watched logs into the hooks of a callback, until the stack is closed."""
        for hook in (*_TRAINING_HOOKS, *_TEST_HOOKS):
            method = getattr(callback, hook, None)
            if method is None or getattr(method, "_is_default", False):
                continue
            had, before = hook in vars(callback), vars(callback).get(hook)
            setattr(callback, hook, self._watched(callback, method, hook in _TEST_HOOKS))
            restored.callback(_restore, callback, hook, had, before)

    def _watched(self, callback: Any, method: Callable[..., Any], in_test: bool) -> Any:
        def note(key: str) -> None:
            self._read(callback, key, in_test)

        def wrapped(value: Any) -> Any:
            return WatchedLogs(value, note) if type(value) is dict else value

        def hook(*args: Any, **kwargs: Any) -> Any:
            return method(*map(wrapped, args), **{k: wrapped(v) for k, v in kwargs.items()})

        return hook


def flattened(callbacks: Any) -> list[Any]:
    """Callbacks as one list: from None, one, a list or tuple of them, or Keras' `CallbackList`."""
    if callbacks is None:
        return []
    if type(callbacks) is _callbacks.CallbackList:
        callbacks = callbacks.callbacks
    if isinstance(callbacks, dict):
        callbacks = list(callbacks.values())
    if isinstance(callbacks, (list, tuple)):
        return [c for part in callbacks for c in flattened(part)]
    return [callbacks]


def refuse_backup(callbacks: list[Any]) -> None:
    """Raises `InputError` on a `BackupAndRestore`, which brings back weights without their cost."""
    if any(isinstance(c, _callbacks.BackupAndRestore) for c in callbacks):
        raise InputError(
            "BackupAndRestore cannot be used in private training: it restores weights and not what "
            "they have cost; use checkpoint_dir."
        )


def same_records(x: Any, validation_data: Any) -> bool:
    """True if validation is on the very object that is trained on."""
    if isinstance(validation_data, (list, tuple)) and validation_data:
        validation_data = validation_data[0]
    return validation_data is not None and validation_data is x


def _is_known(callback: Any) -> bool:
    known = (*_ACT_ON_MONITOR, *_SAVE, *_LOGGERS, *_HARMLESS, _callbacks.TerminateOnNaN)
    # An instance can carry hooks beside its class'.
    own = any(hook in vars(callback) for hook in (*_TRAINING_HOOKS, *_TEST_HOOKS))
    return type(callback) in known and not own


def _restore(callback: Any, hook: str, had: bool, before: Any) -> None:
    if had:
        setattr(callback, hook, before)
    else:
        delattr(callback, hook)
