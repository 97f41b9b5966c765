"""One training, again and again on parts of the records, for attacks that need many models."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_dpvit._types import Array
from keras_dpvit.datasets import ImageData
from keras_dpvit.privacy.head_plan import HeadPlan
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.runs import heads
from keras_dpvit.runs import training as run_training
from keras_dpvit.runs.settings import RunSettings

_PLAIN_BATCH_SIZE, _PLAIN_LEARNING_RATE = 64, 5e-3


class PartTrainings:
    """Trainings by the same settings, each planned for half of the training images.

    Records are numbers of rows, those of the test images behind those of the training images:
    features of frozen networks are computed once for all trainings.

    Guarantee: batches, noise and steps are planned for half of the number of training images,
    whatever the part that is given, so that they tell nothing about who is in it.

    Args:
        data: the images.
        preset: str, the network's size.
        settings: of each training. With `trainable="head"` and `weights` a head is trained over
            frozen features.
        private: bool; without privacy it is Adam at `settings.learning_rate`, epsilon infinite.
    """

    def __init__(
        self, data: ImageData, preset: str, settings: RunSettings, private: bool = True
    ) -> None:
        self._data, self._preset, self._settings = data, preset, settings
        self._private = private
        self._num_examples = max(1, len(data.x_train) // 2)
        self._images = np.concatenate([data.x_train, data.x_test])
        self._on_features = heads.is_frozen_below(settings)
        self._blocks = self._all_blocks() if self._on_features else []
        self._trained = 0

    def train(self, rows: Array, labels: Array) -> Callable[[Array], Array]:
        """Trains on some of the training images.

        Args:
            rows: their numbers.
            labels: their class numbers.

        Returns:
            A function from numbers of rows to logits `(rows, classes)`.
        """
        plan = self._plan()
        model = self._new_model(plan)
        self._trained += 1
        if self._on_features:
            return self._train_head(model, rows, labels, plan)
        assert not isinstance(plan, HeadPlan)  # which heads over features alone have
        self._fit(model, self._images[rows], labels, plan)
        return lambda rows: np.asarray(
            model.predict(self._images[rows], batch_size=500, verbose=0), "float32"
        )

    def plan(self) -> heads.Plan:
        """The plan of each private training, without its seed."""
        settings = dataclasses.replace(self._settings, seed=None)
        num_means = len(self._blocks)
        (plan,) = run_training.plans(self._num_examples, settings, num_means)
        return plan

    def _plan(self) -> heads.Plan | None:
        if not self._private:
            return None
        seed = self._settings.seed
        # Two trainings of one seed would have the same noise.
        return dataclasses.replace(self.plan(), seed=None if seed is None else seed + self._trained)

    def _new_model(self, plan: heads.Plan | None) -> Any:
        import keras

        if self._settings.seed is not None:
            keras.utils.set_random_seed(self._settings.seed + self._trained)
        return heads.new_member(self._data, self._preset, self._settings)

    def _train_head(
        self, model: Any, rows: Array, labels: Array, plan: heads.Plan | None
    ) -> Callable[[Array], Array]:
        from keras_dpvit.training.frozen_features import features_of

        blocks = [block[rows] for block in self._blocks]
        if isinstance(plan, HeadPlan):
            heads.solved_on_blocks(model, blocks, labels, plan, self._settings)
        elif plan is None:
            self._fit(model.head_model(), features_of(model, blocks), labels, plan)
        else:
            head, features = heads.head_on_features(model, blocks, plan, self._settings)
            self._fit(head, features, labels, plan)

        def logits(rows: Array) -> Array:
            features = features_of(model, [block[rows] for block in self._blocks])
            return np.asarray(model.head_model()(features.astype("float32")))

        return logits

    def _fit(self, model: Any, inputs: Array, labels: Array, plan: PrivacyPlan | None) -> None:
        import keras

        settings = self._settings
        optimizer, batches = None, {}
        if plan is None:
            rate = settings.learning_rate or _PLAIN_LEARNING_RATE
            optimizer = keras.optimizers.Adam(rate)
            batches = {"batch_size": settings.batch_size or _PLAIN_BATCH_SIZE}
        else:
            optimizer = run_training.optimizer_of(plan, settings)
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(inputs, labels, epochs=math.ceil(settings.epochs), verbose=0, **batches)

    def _all_blocks(self) -> list[Array]:
        from keras_dpvit.training.frozen_features import whitened_inputs

        model = heads.new_member(self._data, self._preset, self._settings)
        print("Computing the features of all images once.", flush=True)
        return whitened_inputs(model, self._images)
