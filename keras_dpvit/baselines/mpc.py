"""Private inference: images that only their owner sees, weights that only theirs does.

Parties compute on secret shares, by SecretFlow SPU (`pip install 'keras_dpvit[mpc]'`). It protects
images and weights while a model is used, from parties that follow the protocol; what a model has
learned about its training data is protected by differential privacy or not at all. See docs/mpc.md.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from keras_dpvit import _validate
from keras_dpvit._reasons import reason
from keras_dpvit._types import Array
from keras_dpvit.baselines import child_processes, mpc_worker
from keras_dpvit.baselines.mpc_runtime import PROTOCOLS, libspu
from keras_dpvit.errors import InputError

# Set before Keras and TensorFlow are imported.
ENVIRONMENT = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}


@dataclasses.dataclass(frozen=True)
class PrivateInference:
    """Answers of a private model, what they cost, and the plain model's.

    Attributes:
        protocol: a name of `mpc_runtime.PROTOCOLS`.
        output: "logits", or "probabilities" of a fused model.
        outputs: float32 `(n, classes)`, as the images' owner put them together.
        plain_outputs: float32 `(n, classes)`, of the same model in the clear.
        seconds_per_image: float, sharing and putting together included; not compilation, nor
            dealing the weights.
        bytes_per_image: float for each party, which it sent to the others; the most first in a
            simulation, in order of the parties otherwise.
    """

    protocol: str
    output: str
    outputs: Array
    plain_outputs: Array
    seconds_per_image: float
    bytes_per_image: tuple[float, ...]

    @property
    def labels(self) -> Array:
        """int64 `(n,)`, the best class of each image."""
        best: Array = self.outputs.argmax(axis=1)
        return best

    @property
    def agreement(self) -> float:
        """The share of images with the plain model's best class."""
        return float((self.labels == self.plain_outputs.argmax(axis=1)).mean())

    @property
    def largest_error(self) -> float:
        """The largest distance of an output from the plain model's."""
        return float(np.abs(self.outputs - self.plain_outputs).max())


def private_inference(
    model: str | os.PathLike[str],
    images: Array,
    protocol: str = "aby3",
    *,
    member: int | None = None,
    batch_size: int = 50,
    processes: bool = False,
) -> PrivateInference:
    """Classifies images under secret sharing, in a process of its own with Keras on JAX.

    Guarantee: as of the protocol, `PROTOCOLS[protocol].protects`, between parties that follow it.
    Here all parties, and both owners, are this machine: it is for measuring.
    `trainers.mpc` has them apart.

    Args:
        model: a `.keras` file of a `DPViTClassifier` or a `FusedClassifier`.
        images: `(n, height, width, channels)`, pixels 0..255.
        protocol: "aby3", "cheetah" or "semi2k".
        member: int, the number of one member of a fused model, from 1; None for all of it.
        batch_size: int, images at a time.
        processes: bool, the parties are processes that talk by brpc on loopback addresses; False
            simulates them in threads.

    Raises:
        InputError: if an argument is not allowed, the model cannot be run, or SPU is missing.

    Example:
        >>> kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=3).save("model.keras")
        >>> images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 1))
        >>> found = kd.baselines.mpc.private_inference("model.keras", images)
        >>> found.outputs.shape, found.agreement, found.largest_error < 0.05
        ((2, 3), 1.0, True)
    """
    settings = {
        "model": os.path.abspath(model),
        "protocol": _validate.one_of(PROTOCOLS, protocol=protocol),
        "member": _validate.optional(_validate.positive_int)(member=member),
        "batch_size": _validate.positive_int(batch_size=batch_size),
        "processes": _validate.true_or_false(processes=processes),
    }
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        np.save(place / mpc_worker.IMAGES, np.asarray(images, "float32"))
        _work(settings, place)
        with np.load(place / mpc_worker.ANSWER) as answer:
            return PrivateInference(
                protocol=protocol,
                output=str(answer["output"]),
                outputs=answer["outputs"],
                plain_outputs=answer["plain"],
                seconds_per_image=float(answer["seconds"]) / len(images),
                bytes_per_image=tuple(float(sent) / len(images) for sent in answer["sent"]),
            )


def _work(settings: dict[str, object], place: pathlib.Path) -> None:
    """Runs the worker on the folder.

    Raises:
        InputError: as the worker does.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = child_processes.start(
            mpc_worker.__name__,
            json.dumps(settings),
            str(place),
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            status = process.wait()
        finally:
            child_processes.end(process)
        if (place / mpc_worker.ERROR).is_file():
            raise InputError((place / mpc_worker.ERROR).read_text("utf-8"))
        if status:
            errors.seek(0)
            lines = errors.read().strip().splitlines() or [f"exit status {status}"]
            raise RuntimeError(f"private inference failed: {reason(lines[-1])}")


def use_jax() -> None:
    """Has Keras run on JAX in this process, before anything imports it.

    Raises:
        InputError: if SPU, and JAX with it, is not installed.
    """
    if "keras" in sys.modules:
        raise RuntimeError("Keras is imported already")
    os.environ.update(ENVIRONMENT)
    libspu()
