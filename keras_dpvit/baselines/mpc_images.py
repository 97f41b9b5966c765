"""The public side of a private model: its facts, and the part that an image's owner computes."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_dpvit._types import Array


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """The public facts of a model that parties hold.

    Attributes:
        image_shape: (height, width, channels).
        batch_size: int, images that are classified at a time; missing ones are filled up.
        output: "logits", or "probabilities" of a fused model.
        class_names: str, one a class.
    """

    image_shape: tuple[int, int, int]
    batch_size: int
    output: str
    class_names: tuple[str, ...]

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> "ModelFacts":
        """The inverse of `dataclasses.asdict`, by way of JSON."""
        height, width, channels = map(int, facts["image_shape"])
        names = tuple(map(str, facts["class_names"]))
        shape = (height, width, channels)
        return cls(shape, int(facts["batch_size"]), str(facts["output"]), names)

    def probabilities(self, outputs: Array) -> Array:
        """Outputs `(n, classes)` as probabilities."""
        if self.output == "probabilities":
            return outputs
        odds = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        found: Array = odds / odds.sum(axis=1, keepdims=True)
        return found


def image_function(image_part: bytes) -> Callable[[Array], list[Array]]:
    """A batch's values that are shared, from `mpc_program.PrivateProgram.image_part`.

    Args:
        image_part: bytes, serialized by `jax.export`: a program of XLA without files or network.

    Returns:
        function of a batch `(batch_size, height, width, channels)`, pixels 0..255.
    """
    from jax import export

    exported = export.deserialize(bytearray(image_part))

    def compute(images: Array) -> list[Array]:
        values = exported.call(np.asarray(images, "float32"))  # type: ignore[no-untyped-call]
        return [np.asarray(value) for value in values]

    return compute
