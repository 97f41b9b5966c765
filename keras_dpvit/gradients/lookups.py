"""Tables that a record looks up past their end."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_dpvit.gradients.layer_calls import shadowed
from keras_dpvit.layers.inside import layers_inside


@contextlib.contextmanager
def lookups_within_range(model: Any) -> Iterator[None]:
    """Within the context, an index that an Embedding does not have gives NaN instead of an error.

    An error would end the training, and so tell of the one record that has the index; NaN makes
    that record one that counts as zero.

    Args:
        model: a Keras model.
    """
    with contextlib.ExitStack() as stack:
        for layer in layers_inside(model):
            if isinstance(layer, keras.layers.Embedding):
                stack.enter_context(shadowed(layer, "call", _within_range(layer, layer.call)))
        yield


def _within_range(layer: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    def looked_up(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        index = tf.cast(inputs, tf.int32)
        there = (index >= -layer.input_dim) & (index < layer.input_dim)  # Keras counts from the end
        found = call(tf.where(there, index, 0), *args, **kwargs)
        return tf.where(there[..., None], found, tf.cast(math.nan, found.dtype))

    return looked_up
