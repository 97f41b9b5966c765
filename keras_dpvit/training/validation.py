"""Checks by trial that no example of a batch touches another."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_dpvit.errors import InputError

_RECORDS = 4


def validate(
    model: Any, losses: Callable[[Any, Any], Any] | None = None, labels: Any = None
) -> None:
    """Raises unless a model's examples are independent of each other in training.

    The model is called on random images in training mode, then again, under the same layer
    noise, with one image replaced: every other output must stay as it was, and so must each
    non-trainable variable. This finds what mixes examples whatever its class: batch statistics
    without trainable parameters, a custom layer, a loss that looks across the batch.

    Args:
        model: a built Keras model with one input and one output.
        losses: a per-example loss of `(labels, outputs)`, checked along with the model.
        labels: labels of at least one record, for `losses`.

    Raises:
        InputError: if a record's output or loss depends on another record, or the forward pass
            writes what it saw into a variable, past the noise.
    """
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (_RECORDS, *model.input_shape[1:])).astype("float32")
    replaced = images.copy()
    replaced[0] = 255 * (rng.uniform(size=images.shape[1:]) < 0.2)
    if labels is not None:
        labels = np.resize(labels, (_RECORDS, *np.shape(labels)[1:]))
    states = model.non_trainable_variables
    before = [keras.ops.convert_to_numpy(state) for state in states]

    def run(batch: np.ndarray) -> list[np.ndarray]:
        for state, value in zip(states, before, strict=True):
            state.assign(value)
        outputs = model(batch, training=True)
        found = [outputs] if losses is None else [outputs, losses(labels, outputs)]
        return [keras.ops.convert_to_numpy(part).astype("float64") for part in found]

    try:
        for what, first, second in zip(
            ("outputs", "losses"), run(images), run(replaced), strict=False
        ):
            tolerance = 1e-5 * max(1.0, np.abs(first[1:]).max())
            if not np.allclose(first[1:], second[1:], rtol=0, atol=tolerance, equal_nan=True):
                raise InputError(
                    f"The {what} of one example change with another example of the batch: the "
                    "model mixes examples (batch statistics?), so it cannot be trained privately."
                )
        _check_states(model, states, before)
    finally:
        for state, value in zip(states, before, strict=True):
            state.assign(value)


def _check_states(model: Any, states: list[Any], before: list[np.ndarray]) -> None:
    generators = {
        id(value.state)
        for layer in model._flatten_layers()
        for value in vars(layer).values()
        if isinstance(value, keras.random.SeedGenerator)
    }
    for state, value in zip(states, before, strict=True):
        changed = not np.array_equal(keras.ops.convert_to_numpy(state), value, equal_nan=True)
        if changed and id(state) not in generators:
            raise InputError(
                f"Variable {state.path} is written during the forward pass: what it learns of the "
                "images would be released without noise."
            )
