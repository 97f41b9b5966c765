"""The trial of a model, its losses and a few records before they are trained on."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_dpvit._types import Array
from keras_dpvit.layers.inside import layers_inside
from keras_dpvit.layers.model_structure import outputs_of
from keras_dpvit.training.example_independence import check_examples_independent, config_of
from keras_dpvit.training.recipe import once_for_each_recipe
from keras_dpvit.training.record_losses import OutputLoss, check_loss
from keras_dpvit.training.records import Rows

_RECORDS_TRIED = 6
_SOUND = 1e6


def what_is_tried(model: Any, losses: Any, records: Rows) -> tuple[Any, ...]:
    """Everything that a trial is about: equal for two trainings of which one trial is enough."""
    layers = layers_inside(model)
    return (losses, *_kinds(records), *((id(x), x.trainable, config_of(x)) for x in layers))


def try_training(
    model: Any, losses: Any, output_losses: Sequence[OutputLoss], records: Rows
) -> None:
    """Checks that losses are of single records and that no example touches another.

    Args:
        model: a built and compiled Keras model.
        losses: one loss for each row, of labels and outputs.
        output_losses: of each output.
        records: a few.

    Raises:
        InputError: if it does not hold.
    """
    images = keras.tree.map_structure(_sound, records.x)

    def check() -> None:
        outputs = keras.tree.flatten(outputs_of(model))
        labels = keras.tree.flatten(records.y)
        for loss, label, output in zip(output_losses, labels, outputs, strict=True):
            _check_loss(loss, label, output)
        check_examples_independent(model, losses, records.y, images)

    once_for_each_recipe(check, model, *keras.tree.flatten(model.loss), *_kinds(records))


def _kinds(records: Rows) -> list[str]:
    arrays = keras.tree.flatten(records.parts())
    return [f"{array.dtype} {array.shape[1:]}" for array in arrays]


def _sound(images: Array) -> Array:
    """The numbers of records to try, 0 for one that is not sound: no single record may decide."""
    sound = np.isfinite(images.astype("float64")) & (np.abs(images) < _SOUND)
    return np.where(sound, images, images.dtype.type(0))


def _check_loss(loss: OutputLoss, labels: Array, output: Any) -> None:
    """Tries a loss on labels like the first record's, and outputs drawn by chance."""
    rng = np.random.default_rng(0)
    shape = (_RECORDS_TRIED, *output.shape[1:])
    classes = int(shape[-1])
    outputs = rng.dirichlet(np.ones(classes + 1), shape[:-1])[..., :classes]
    like = np.resize(labels, (_RECORDS_TRIED, *labels.shape[1:]))
    if np.issubdtype(like.dtype, np.floating):
        like = rng.uniform(0.1, 0.9, like.shape).astype(like.dtype)
    elif like.ndim == 1 or like.shape[1:] == (1,):
        # Pairs of one class beside pairs of another: a loss may compare either.
        pairs = np.arange(_RECORDS_TRIED) // 2 % max(2, classes)
        like = pairs.reshape(like.shape).astype(like.dtype)
    check_loss(loss, like, outputs.astype("float32"))
