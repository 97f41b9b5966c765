"""Trainings under a strategy of `tf.distribute`, which are refused."""

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_dpvit.errors import InputError
from keras_dpvit.layers.inside import layers_inside


def refuse_strategies(model: Any) -> None:
    """Refuses a training that TensorFlow would spread over devices.

    Every replica would draw a sample and noise of its own, and the sum of them is not what the
    ledger states. Keras trains under a strategy of one device in the same way.

    Args:
        model: a Keras model.

    Raises:
        InputError: if the model or a part of it was made, or is trained, under a strategy.
    """
    for strategy in _strategies(model):
        count = strategy.num_replicas_in_sync
        raise InputError(
            f"private training takes no strategy of tf.distribute, got {type(strategy).__name__} "
            f"({count} {'replica' if count == 1 else 'replicas'}): each replica would add noise of "
            "its own. Build, compile and train the model outside strategy.scope()."
        )


def _strategies(model: Any) -> Iterator[Any]:
    """The present strategy, and those under which the model and its parts were made."""
    present = tf.distribute.get_strategy()
    if tf.distribute.has_strategy():
        yield present
    for layer in layers_inside(model):
        if isinstance(layer, keras.Model) and layer.distribute_strategy is not present:
            yield layer.distribute_strategy
    for variable in model.variables:
        if isinstance(variable.value, tf.distribute.DistributedValues):
            yield variable.value.distribute_strategy
