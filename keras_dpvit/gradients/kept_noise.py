"""The noise that dropout layers drew in a call, kept and used once more."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_dpvit.gradients.layer_calls import Calls, shadowed
from keras_dpvit.gradients.randomness import seed_generators
from keras_dpvit.layers.inside import layers_inside

_FACTORS = (
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)
_SUMMANDS = (keras.layers.GaussianNoise,)


def layers_with_noise(layer: Any, asked: set[int]) -> list[Any]:
    """The layers inside one that multiply their inputs by noise or add it, and do nothing else.

    Args:
        layer: a Keras layer.
        asked: the `id` of each seed generator that was asked for random numbers.
    """
    return [
        part
        for part in layers_inside(layer)
        if type(part) in _FACTORS + _SUMMANDS
        and id(getattr(part, "seed_generator", None)) in asked  # it has none at a rate of 0
    ]


def draws_known_noise_alone(layer: Any, calls: Calls) -> bool:
    """True if all random numbers in a layer are drawn for its records by `layers_with_noise`."""
    noisy = layers_with_noise(layer, calls.asked)
    known = {id(part.seed_generator) for part in noisy}
    drawn = {id(generator) for generator in seed_generators(layer)} & calls.asked
    return drawn <= known and all(calls.by_record[id(part)] for part in noisy)


@contextlib.contextmanager
def noise_kept(noisy: list[Any]) -> Iterator[list[Any]]:
    """Within the context, the noise of `layers_with_noise` is drawn apart and kept.

    Yields:
        The noise `(records, ...)` of each of their calls, in the order of the calls.
    """
    kept: list[Any] = []

    def keeping(part: Any, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(inputs: Any, training: bool = False) -> Any:
            blank = tf.zeros_like if isinstance(part, _SUMMANDS) else tf.ones_like
            kept.append(call(blank(inputs), training=training))
            return _under(part, inputs, kept[-1])

        return called

    with _calls_shadowed(noisy, keeping):
        yield kept


@contextlib.contextmanager
def noise_used(noisy: list[Any], noise: list[Any]) -> Iterator[None]:
    """Within the context, layers with noise meet that of `noise_kept`, call by call."""
    left = iter(noise)

    def using(part: Any, call: Callable[..., Any]) -> Callable[..., Any]:
        del call
        return lambda inputs, training=False: _under(part, inputs, next(left))

    with _calls_shadowed(noisy, using):
        yield


def _under(part: Any, inputs: Any, noise: Any) -> Any:
    return inputs + noise if isinstance(part, _SUMMANDS) else inputs * noise


@contextlib.contextmanager
def _calls_shadowed(
    noisy: list[Any], other: Callable[[Any, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for part in noisy:
            stack.enter_context(shadowed(part, "call", other(part, part.call)))
        yield
