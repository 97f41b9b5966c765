"""Keys the layers' random numbers for private training, and keeps their states out of files."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_dpvit._types import Array
from keras_dpvit.gradients.randomness import seed_generators


class LayerRandomness:
    """Gives the layers' seed generators secret states while a private step runs.

    Dropout and other layer noise is drawn by row position. Somebody who knows the states (from a
    config, a file or `keras.utils.set_random_seed`) could draw it again, and a released sum
    would tell neighbours apart better than the noise of the mechanism allows a weaker observer.
    So each step starts from states that are derived from a key, the step's number and the
    generator's place, and ends by putting back the states that it found. Nothing outside of a
    step, a callback or a file, ever sees the private ones. A step that is taken again under the
    same key, after a crash, draws the same numbers.

    Args:
        model: the Keras model.
        key: int64 variable of 2, in no file.
    """

    def __init__(self, model: Any, key: Any) -> None:
        self._model = model
        self._key = key
        self._before: list[tuple[Any, Array]] = []

    def enter(self, step: Any) -> list[tuple[Any, Any]]:
        """Gives all generators the states of one step.

        Args:
            step: scalar int64; no two steps of a key share one.

        Returns:
            What `leave` puts back.
        """
        fold = tf.random.experimental.stateless_fold_in
        seed = fold(self._key, step)
        found = []
        for index, generator in enumerate(seed_generators(self._model)):
            state = generator.state
            found.append((state, tf.identity(state.value)))
            state.assign(_private_state(fold(seed, index), state))
        return found

    def leave(self, found: list[tuple[Any, Any]]) -> None:
        """Puts back the states that `enter` found; comes after all that draws."""
        for state, value in found:
            state.assign(value)

    def begin_fit(self) -> None:
        """Remembers the public states, for `end_fit`."""
        self._before = [(g.state, np.array(g.state.value)) for g in seed_generators(self._model)]

    def end_fit(self) -> None:
        """Puts the public states back, after a step that was broken off too."""
        for state, value in self._before:
            state.assign(value)
        self._before = []


def _private_state(seed: Any, state: Any) -> Any:
    dtype = tf.as_dtype(state.dtype)
    return tf.random.stateless_uniform(
        tuple(state.shape), seed, minval=None, maxval=None, dtype=dtype
    )
