"""Features below a head, computed once: what is frozen need not be computed in every step."""

import math
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dpvit._types import Array
from keras_dpvit.layers.whitening import JoinedFeatures
from keras_dpvit.models.linear_head import linear_head
from keras_dpvit.models.synthetic_weights import whitened_layers

# What is done to a batch of features before it is kept, None for nothing.
Then = Callable[[Any], Any] | None

_BATCH = 256
_IN_MEMORY = 2**32  # bytes


def frozen_features(model: Any, images: Any, then: Then = None) -> Array:
    """The input of a classifier's logits layer for every image, as half-precision numbers.

    Features of a record are computed from that record alone, so training on them costs what
    training on the images costs. Above 4 GiB they lie in a file that has no name, so that none
    is left behind. Shows a progress bar on a terminal.

    Args:
        model: a `DPViTClassifier` or another model whose last layer is a linear `Dense`; what lies
            below that must not change afterwards.
        images: `(records, height, width, channels)`, pixels 0..255.
        then: a function of a batch of features, whose results are kept in their place.

    Returns:
        float16 `(records, width)`; a memory map if it is large.

    Raises:
        InputError: if the model ends otherwise.
    """
    below = linear_head(model).features_model
    kept = then or tf.identity
    (features,) = _computed(lambda batch: [kept(below(batch, training=False))], [images])
    return features


def whitened_inputs(model: Any, images: Any) -> list[Array]:
    """The input of each whitened layer for every image, as `frozen_features` has them.

    Args:
        model: a `DPViTClassifier` with `head="whitened"`.
        images: as in `frozen_features`.

    Returns:
        for each layer of `whitened_layers` float16 `(records, width)`.
    """
    blocks = keras.Model(model.input, [layer.input for layer in whitened_layers(model)])

    def compute(batch: Any) -> list[Any]:
        found = blocks(batch, training=False)
        return found if isinstance(found, list) else [found]

    return _computed(compute, [images])


def features_of(model: Any, blocks: list[Array], then: Then = None) -> Array:
    """`frozen_features` from `whitened_inputs`, by the layers as they are now."""
    layers, kept = whitened_layers(model), then or tf.identity
    (joined,) = (layer for layer in model.layers if isinstance(layer, JoinedFeatures))

    def compute(*batch: Any) -> list[Any]:
        floats = [tf.cast(block, tf.float32) for block in batch]
        return [kept(joined([layer(block) for layer, block in zip(layers, floats, strict=True)]))]

    (features,) = _computed(compute, blocks)
    return features


def _computed(function: Callable[..., list[Any]], sources: list[Any]) -> list[Array]:
    """The function's outputs over batches of rows of all sources."""
    count = len(sources[0])
    first = [tf.constant(source[:1]) for source in sources]
    specs = [tf.TensorSpec((None, *rows.shape[1:]), rows.dtype) for rows in first]
    # Concrete: TensorFlow would warn of a function that is traced anew by each caller.
    compute = tf.function(function, autograph=False).get_concrete_function(*specs)
    results: list[Array] = []
    bar = keras.utils.Progbar(count) if sys.stdout.isatty() else None
    for start in range(0, max(count, 1), _BATCH):
        rows = slice(start, min(start + _BATCH, count))
        outputs = compute(*(tf.constant(source[rows]) for source in sources))
        results = results or [_empty((count, int(output.shape[-1]))) for output in outputs]
        for result, output in zip(results, outputs, strict=True):
            result[rows] = output.numpy()
        if bar is not None:
            bar.update(rows.stop)
    return results


def _empty(shape: tuple[int, int]) -> Array:
    if math.prod(shape) * 2 <= _IN_MEMORY:
        return np.empty(shape, "float16")
    # The map keeps the file open after its name, if it ever had one, is gone.
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, "float16", "w+", shape=shape)
