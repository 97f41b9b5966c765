"""Noise at inference in an exported graph: drawn anew on every call, by TensorFlow itself.

Keras keeps a generator's state in a variable, from which the noise of every later call follows. In
an export that would be one sequence for all servers, and its key would travel with the file.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_dpvit.errors import InputError
from keras_dpvit.layers.inside import layers_inside


class InferenceNoise:
    """The layers of a model that add noise, and whether an export shall keep it.

    Args:
        model: a Keras model.
        wanted: bool, noise at inference in every layer that has noise, or in none; None leaves
            each layer as it was made.

    Attributes:
        is_drawn: bool, whether a call outside training draws noise.
        has_range: bool, whether that noise leaves activations in some range: a normalisation's
            does not, because it divides by a noised deviation, which can vanish.

    Raises:
        InputError: if noise is wanted and no layer has any.
    """

    def __init__(self, model: Any, wanted: bool | None) -> None:
        self._layers = [x for x in layers_inside(model) if _is_noisy(x)]
        if wanted and not self._layers:
            raise InputError(
                "noise_at_inference=True needs a model with attention_noise_stddev or "
                "norm_noise_stddev above 0: this model has none."
            )
        self._choices = [x.noise_at_inference if wanted is None else wanted for x in self._layers]
        drawn = [x for x, choice in zip(self._layers, self._choices, strict=True) if choice]
        self.is_drawn = bool(drawn)
        self.has_range = all(_is_on_attention(layer) for layer in drawn)

    def generator_states(self) -> list[Any]:
        """The variables that the layers' own generators keep, of no use in an export."""
        return [layer.seed_generator.state for layer in self._layers]

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """While a graph is traced: noise as chosen, by an op that is seeded when it is loaded."""
        before = [layer.noise_at_inference for layer in self._layers]
        try:
            for layer, choice in zip(self._layers, self._choices, strict=True):
                layer.noise_at_inference = choice
                layer.draw_noise = _fresh_normal(_stddev(layer))
            yield
        finally:
            for layer, choice in zip(self._layers, before, strict=True):
                layer.noise_at_inference = choice
                layer.__dict__.pop("draw_noise", None)


def _is_noisy(layer: Any) -> bool:
    # A dropout layer has a generator as well, and is silent outside training.
    has_choice = hasattr(layer, "noise_at_inference")
    return has_choice and getattr(layer, "seed_generator", None) is not None


def _is_on_attention(layer: Any) -> bool:
    return hasattr(layer, "attention_noise_stddev")


def _stddev(layer: Any) -> float:
    on_attention = _is_on_attention(layer)
    return float(layer.attention_noise_stddev if on_attention else layer.noise_stddev)


def _fresh_normal(stddev: float) -> Any:
    def draw(shape: Any) -> Any:
        # tf.random.normal would write a seed set in this process into the graph; 0 and 0 stand
        # for a seed drawn by the process that loads it. TFLite has this op too.
        normal = tf.raw_ops.RandomStandardNormal(
            shape=tf.stack(shape), dtype=tf.float32, seed=0, seed2=0
        )
        return stddev * normal

    return draw
