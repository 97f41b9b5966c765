"""Augmentation multiplicity: several altered copies of a record, averaged before clipping."""

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.layers.model_structure import inputs_of
from keras_dpvit.privacy.plan import PrivacyPlan


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Copies of each sampled image, mirrored and shifted at random (De et al. 2022, section 3).

    Guarantee: a record's gradient is the mean over its own copies, clipped as one, so the copies
    cost time and no privacy.

    Args:
        copies: int, of each record.
        shift: int, pixels by which a copy is moved at most, along rows and columns; the border is
            repeated into what comes free.
        mirror: bool, whether copies are mirrored left to right with probability 1/2. Not for
            images that read, such as digits.

    Example:
        >>> copies = kd.Augmentation(copies=4, shift=2)  # for fit(..., augmentation=copies)
    """

    copies: int = 4
    shift: int = 2
    mirror: bool = True

    def __post_init__(self) -> None:
        _validate.keep(
            self,
            copies=_validate.positive_int,
            shift=_validate.non_negative_int,
            mirror=_validate.true_or_false,
        )

    def apply(
        self, x: Any, y: Any, weights: Any, present: Any, seed: Any
    ) -> tuple[Any, Any, Any, Any]:
        """The copies of a batch, record by record.

        Args:
            x: images `(rows, height, width, channels)`.
            y: labels `(rows, ...)`, one tensor for each output.
            weights: float32 `(rows, ...)`.
            present: bool `(rows,)`.
            seed: int tensor of 2; the same seed alters the same way.

        Returns:
            The four with `rows * copies` rows.
        """
        x, y, weights, present = tf.nest.map_structure(
            lambda tensor: tf.repeat(tensor, self.copies, axis=0), (x, y, weights, present)
        )
        seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 3))
        for axis, own in ((1, seeds[0]), (2, seeds[1])):
            x = self._moved(x, axis, own)
        if self.mirror:
            mirrored = tf.random.stateless_uniform(tf.shape(x)[:1], seeds[2]) < 0.5
            x = tf.where(mirrored[:, None, None, None], tf.reverse(x, [2]), x)
        return x, y, weights, present

    def _moved(self, x: Any, axis: int, seed: Any) -> Any:
        side = x.shape[axis]
        by = tf.random.stateless_uniform(
            tf.shape(x)[:1], seed, -self.shift, self.shift + 1, tf.int32
        )
        places = tf.clip_by_value(tf.range(side)[None] + by[:, None], 0, side - 1)
        return tf.gather(x, places, axis=axis, batch_dims=1)


def check_augmentation(augmentation: Augmentation | None, plan: PrivacyPlan, model: Any) -> None:
    """Raises `InputError` on an augmentation that the plan or the model's inputs do not allow."""
    if augmentation is None:
        return
    if plan.microbatch_size > 1:
        raise InputError("augmentation cannot be used with microbatch_size above 1.")
    inputs = inputs_of(model)
    if keras.tree.is_nested(inputs) or len(inputs.shape) != 4:
        raise InputError(
            "augmentation needs a model whose one input is images (height, width, channels)."
        )
