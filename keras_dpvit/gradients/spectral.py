"""Spectral normalisation in private training: once a step, and not while records are seen."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_dpvit.gradients.layer_calls import shadowed
from keras_dpvit.layers.inside import layers_inside


def normalize_spectra(model: Any) -> None:
    """Divides each kernel in a `SpectralNormalization` by its largest singular value.

    As Keras does in each call.

    Privacy: none is used; kernel and power iteration are functions of the weights.

    Args:
        model: a Keras model.
    """
    for layer in _spectral(model):
        vector, kernel = tf.cond(
            tf.reduce_all(tf.equal(layer.kernel.value, 0)),
            lambda layer=layer: (layer.vector_u.value, layer.kernel.value),
            layer.normalized_weights,
        )
        layer.vector_u.assign(vector)
        layer.kernel.assign(kernel)


@contextlib.contextmanager
def spectra_left(model: Any) -> Iterator[None]:
    """Within the context, `SpectralNormalization` layers call what they wrap and write nothing.

    Keras normalises in each call. A step calls its model once for each chunk of a sample: the
    kernel would be another for each, and what fits into memory would change results.
    """
    with contextlib.ExitStack() as stack:
        for layer in _spectral(model):
            stack.enter_context(shadowed(layer, "call", _wrapped_call(layer)))
        yield


def _spectral(model: Any) -> list[Any]:
    return [
        layer
        for layer in layers_inside(model)
        if isinstance(layer, keras.layers.SpectralNormalization)
    ]


def _wrapped_call(layer: Any) -> Callable[..., Any]:
    def called(inputs: Any, training: bool = False) -> Any:
        del training
        return keras.ops.cast(layer.layer(inputs), inputs.dtype)

    return called
