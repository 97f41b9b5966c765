"""Everything that a private training needs to resume after a crash, in one file."""

import io
import json
import os
import pathlib
import zipfile
from typing import Any

import numpy as np

from keras_dpvit import _files, _reasons
from keras_dpvit.errors import InputError

_FILE = "private_training.npz"
_JOURNAL = "steps_begun"
_NOTES = "notes"
_META = "meta"


class Checkpoint:
    """The state of a training in its own directory.

    The file holds weights, optimizer, the layers' noise states, the sensitivity's state, the step
    counter (which is the noise counter and the sampler's position) and the ledger. It is written
    beside the old one and put in its place, so that there is always one whole file, after a loss
    of power too. It holds no key, no seed and no data. A journal beside it counts the steps that
    were begun.

    Args:
        directory: made if missing.

    Attributes:
        directory: its path.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = _files.make_directory(directory, "checkpoint_dir")
        try:
            _sync_directory(self.directory.parent)
            self._journal = os.open(self.directory / _JOURNAL, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise InputError(
                f"checkpoint_dir must be a directory that can be written: {error.strerror}."
            ) from error

    def close(self) -> None:
        """Closes the journal."""
        os.close(self._journal)

    def begin_step(self, step: int) -> None:
        """Notes, before a step is taken, that it is; on the disk before it comes back."""
        os.pwrite(self._journal, step.to_bytes(8, "big"), 0)
        os.fsync(self._journal)

    def steps_begun(self) -> int:
        """The number of steps that were begun."""
        return int.from_bytes(os.pread(self._journal, 8, 0) or b"\0", "big")

    def note(self, kind: str, line: str) -> None:
        """Keeps a line for the ledger; on the disk before it comes back, whatever is saved later.

        Args:
            kind: which lines it belongs to.
            line: text.
        """
        with open(self.directory / _NOTES, "a", encoding="utf-8") as file:
            file.write(json.dumps([kind, line]) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def notes(self) -> list[tuple[str, str]]:
        """The lines that were noted, each with its kind; one that a crash cut off is left out."""
        path = self.directory / _NOTES
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        return [tuple(json.loads(line)) for line in lines]

    def save(self, variables: list[Any], meta: dict[str, Any]) -> None:
        """Writes a checkpoint in place of the last one.

        Args:
            variables: Keras or TensorFlow variables, always the same in the same order.
            meta: JSON-able.
        """
        arrays = {f"v{i}": np.asarray(_value(v)) for i, v in enumerate(variables)}
        text = np.frombuffer(json.dumps(meta).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays, **{_META: text})
        _files.write_whole(self.directory / _FILE, buffer.getbuffer())
        _sync_directory(self.directory)  # the journal's name in it, too

    def load(self, variables: list[Any]) -> dict[str, Any] | None:
        """Puts the last checkpoint's values into the variables.

        Returns:
            Its `meta`, None if there is no checkpoint.

        Raises:
            InputError: if it is damaged or of another model.
        """
        meta = self.read_meta()
        if meta is None:
            return None
        with np.load(self.directory / _FILE) as stored:
            shapes = [tuple(stored[name].shape) for name in stored.files if name != _META]
            if shapes != [tuple(v.shape) for v in variables]:
                raise InputError(
                    f"checkpoint_dir={str(self.directory)!r} holds the training of another model: "
                    "give a separate directory."
                )
            for index, variable in enumerate(variables):
                variable.assign(stored[f"v{index}"])
        return meta

    def read_meta(self) -> dict[str, Any] | None:
        """The `meta` that `save` was given; None if there is no checkpoint."""
        path = self.directory / _FILE
        if not path.exists():
            return None
        try:
            with np.load(path) as stored:
                meta: dict[str, Any] = json.loads(bytes(stored[_META]))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(
                f"checkpoint_dir={str(self.directory)!r} holds a damaged checkpoint: "
                f"{_reasons.reason(error)}."
            ) from error
        return meta


def _sync_directory(directory: pathlib.Path) -> None:
    """Brings a directory's names to the disk."""
    folder = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _value(variable: Any) -> Any:
    return variable.numpy() if hasattr(variable, "numpy") else variable
