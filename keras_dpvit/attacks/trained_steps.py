"""Parts of both trainings of learned attacks: batches, and resuming after an interruption."""

import dataclasses
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_dpvit import _files
from keras_dpvit.errors import InputError

_FILE = "attack_training.npz"
_META = "meta"
_BATCH = 256

# Called after each epoch with its number from 1 and what was measured in it.
OnEpoch = Callable[[int, dict[str, float]], None]


@dataclasses.dataclass
class Trained:
    """A trained attack.

    Attributes:
        model: `keras.Model` from ciphertexts, pixels 0..255, to images.
        history: what was measured in each epoch.
        best_epoch: int, from 1; whose weights these are.
        lowest: float, what the network puts out for black: 0 or -1; white is 1.
    """

    model: Any
    history: list[dict[str, float]]
    best_epoch: int
    lowest: float

    def recover(self, encrypted: np.ndarray) -> np.ndarray:
        """Images that the attack recovers from ciphertexts.

        Args:
            encrypted: uint8 `(n, height, width, channels)`.

        Returns:
            uint8 of the same shape.
        """
        parts = []
        for start in range(0, len(encrypted), _BATCH):
            batch = encrypted[start : start + _BATCH].astype(np.float32)
            images = np.asarray(self.model(batch, training=False))
            unit = (images - self.lowest) / (1 - self.lowest)
            parts.append(np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8))
        return np.concatenate(parts)


class EpochStore:
    """The state of a training after its last whole epoch, in one file of a directory.

    It holds weights and optimizers' states, and no image and no key. The file is written beside
    the old one and put in its place.

    Args:
        directory: made if missing.

    Raises:
        InputError: if it cannot be made.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = _files.make_directory(directory, "checkpoint_dir")

    def save(self, arrays: list[np.ndarray], meta: dict[str, Any]) -> None:
        """Writes a state in place of the last one.

        Args:
            arrays: always as many and in the same order.
            meta: JSON-able; its "training" tells one training from another.
        """
        text = np.frombuffer(json.dumps(meta).encode(), np.uint8)
        named = {f"a{i}": array for i, array in enumerate(arrays)}
        buffer = io.BytesIO()
        np.savez(buffer, **named, **{_META: text})
        _files.write_whole(self._directory / _FILE, buffer.getbuffer())

    def load(self, training: str) -> tuple[list[np.ndarray], dict[str, Any]] | None:
        """The last state, None if there is none.

        Args:
            training: what `fingerprint` says of this training.

        Raises:
            InputError: if it is damaged or of another training.
        """
        path = self._directory / _FILE
        if not path.exists():
            return None
        try:
            with np.load(path) as stored:
                meta: dict[str, Any] = json.loads(bytes(stored[_META]))
                arrays = [stored[f"a{i}"] for i in range(len(stored.files) - 1)]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"checkpoint_dir={str(self._directory)!r} holds a damaged checkpoint: delete it."
            ) from error
        if meta.get("training") != training:
            raise InputError(
                f"checkpoint_dir={str(self._directory)!r} holds the training of another attack: "
                "give a separate directory."
            )
        return arrays, meta


def fingerprint(settings: Any, *arrays: np.ndarray | None) -> str:
    """Tells a training from others: by its settings and its data.

    Args:
        settings: a dataclass.
        *arrays: of the data.
    """
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(settings), sort_keys=True).encode())
    for array in arrays:
        if array is not None:
            digest.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def values_of(variables: list[Any]) -> list[np.ndarray]:
    """The variables' values as arrays."""
    return [np.array(variable) for variable in variables]


def assign(variables: list[Any], values: list[np.ndarray]) -> None:
    """Gives variables the values that `values_of` took of them."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def shuffled_batches(count: int, batch_size: int, *seed: int) -> list[np.ndarray]:
    """Row numbers of an epoch's whole batches, in an order that the seed alone decides."""
    order = np.random.default_rng(seed).permutation(count)
    size = min(batch_size, count)
    return [order[start : start + size] for start in range(0, count - size + 1, size)]


def check_images(name: str, images: Any) -> np.ndarray:
    """The images, found to be a batch of uint8.

    Raises:
        InputError: if they are not.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise InputError(
            f"{name} must be uint8 (n, height, width, channels) with n above 0, got "
            f"{images.dtype} {images.shape}."
        )
    return images
