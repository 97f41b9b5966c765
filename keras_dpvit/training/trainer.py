"""Private training inside Keras' own `fit`: sampling, the certified step, what it has cost."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.gradients.units import clipping_groups, find_units
from keras_dpvit.privacy import randomness
from keras_dpvit.privacy.ledger import LedgerEntry
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.training import batches, inputs
from keras_dpvit.training.adapted import adapted_statistics
from keras_dpvit.training.augmentation import Augmentation
from keras_dpvit.training.checkpoint import Checkpoint
from keras_dpvit.training.external import ExternalBatches
from keras_dpvit.training.guard import Guard
from keras_dpvit.training.losses import per_example_loss
from keras_dpvit.training.sources import source_for
from keras_dpvit.training.step import CertifiedStep
from keras_dpvit.training.validation import validate

_MOST_ROWS_AT_ONCE = 320


class PrivateTrainer:
    """Trains one model under one plan; made by a private optimizer when a model is compiled.

    Guarantee: the plan's. A step is: a sample of the plan's; each record's gradient clipped by
    group and capped at the step's sensitivity; one draw of noise on their sum; a noised count
    that moves the sensitivity of the next step. The optimizer sees the noised sum over the public
    expected batch, and nothing else. An empty sample is a step like any other. Memory chunks of
    a batch change no result but for the order of float additions.

    Args:
        model: the Keras model, `PrivatelyTrainable`.
        optimizer: the private optimizer.
        plan: the `PrivacyPlan`.
        jit_compile: bool or "auto", XLA for the forward and backward pass. "auto" is no XLA,
            which takes its time to compile each of several sizes of a sample's chunks.
    """

    def __init__(self, model: Any, optimizer: Any, plan: PrivacyPlan, jit_compile: Any) -> None:
        self._model = model
        self._optimizer = optimizer
        self.plan = plan
        self._jit_compile = jit_compile is True
        self._physical_batch_size = _default_physical_batch_size(plan)
        # Steps that the model has on record enter a seeded key: trained on under the same seed, it
        # must not meet noise that an earlier sum has had.
        past = sum(entry.steps for entry in model.privacy_ledger.all_entries())
        self._sampling_key = randomness.new_key(plan.seed, f"sampling after {past}")
        self._noise_key = _key_variable(plan.seed, f"noise after {past}")
        self._augmentation_key = _key_variable(plan.seed, f"augmentation after {past}")
        self._steps = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._state = tf.Variable(plan.sensitivity.initial_state(), dtype=tf.float32)
        self._passes = 0
        self._entered = (0, 0)  # steps and passes that an earlier ledger holds
        self._augmentation: Augmentation | None = None
        self._prepared: tuple[Any, ...] | None = None  # what the traced step was made for
        self._in_fit = False
        self._disclosures: dict[str, None] = {}
        self._adapted: dict[str, None] = {}
        self._look_for_statistics()
        self.external: ExternalBatches | None = None  # of the present fit

    @property
    def steps_taken(self) -> int:
        """Steps taken under the plan."""
        return int(self._steps.numpy())

    @property
    def steps_done(self) -> int:
        """Steps taken under the plan that no earlier ledger holds."""
        return self.steps_taken - self._entered[0]

    @property
    def plan_is_spent(self) -> bool:
        """Whether the plan pays for no further step."""
        if self._external:
            return self._passes >= self.plan.epochs
        return self.steps_taken >= self.plan.steps

    def forget_steps(self) -> None:
        """The model's past ledger now holds the steps done so far."""
        self._entered = (self.steps_taken, self._passes)

    def ledger_entries(self) -> tuple[LedgerEntry, ...]:
        """What the steps so far have cost."""
        entries = self.plan.entries(
            self.steps_done,
            self._entered[0],
            tuple(self._disclosures),
            self._passes - self._entered[1] if self._external else None,
        )
        lines = tuple(self._adapted)
        return tuple(dataclasses.replace(entry, invalidated_by=lines) for entry in entries)

    def _look_for_statistics(self) -> None:
        self._adapted.update(dict.fromkeys(adapted_statistics(self._model)))

    def fit(
        self,
        keras_fit: Callable[..., Any],
        x: Any,
        y: Any,
        *,
        physical_batch_size: int | None = None,
        augmentation: Augmentation | None = None,
        checkpoint_dir: Any = None,
        checkpoint_steps: int | None = None,
        epochs: int = 1,
        callbacks: Any = None,
        **arguments: Any,
    ) -> Any:
        """Runs Keras' `fit` over samples of `x` and `y`, no further than the plan goes."""
        inputs.check_fit_arguments(self.plan, arguments)
        data, labels = self._data(x, y)
        self._look_for_statistics()
        self._prepare(physical_batch_size, augmentation)
        guard = Guard(self, epochs)
        if checkpoint_dir is not None and self._external:
            raise InputError(
                "checkpoint_dir needs a plan that samples by itself: nobody knows which batches of "
                "the others' pass are still to come."
            )
        if checkpoint_dir is not None:
            guard.use_checkpoints(Checkpoint(checkpoint_dir), checkpoint_steps)
        if self.plan_is_spent and not guard.resumed:
            raise InputError(
                f"The plan's {self.plan.steps} steps are spent: compile the model with a new plan; "
                "its cost will be added."
            )
        validate(self._model, self._losses, labels)
        self._note_disclosures(arguments)
        self._in_fit = True
        try:
            return keras_fit(
                data,
                epochs=epochs,
                initial_epoch=guard.initial_epoch,
                steps_per_epoch=None if self._external else self.plan.steps_per_epoch,
                callbacks=[guard, *(callbacks or [])],
                shuffle=False,  # a sample has no order
                **arguments,
            )
        finally:
            self._in_fit = False
            guard.close()

    @property
    def _external(self) -> bool:
        return self.plan.sampling == "external"

    def _data(self, x: Any, y: Any) -> tuple[Any, np.ndarray]:
        """The data set for Keras, and labels of one record."""
        if self._external:
            self.external = ExternalBatches(self._model, self.plan, x, y)
            return self.external.data, self.external.example
        source = source_for(self._model, x, y)
        inputs.check_size(self.plan, source.num_records)
        data = tf.data.Dataset.from_generator(
            lambda: batches.sampled_batches(
                self.plan, source, self._sampling_key, lambda: self.steps_taken
            ),
            output_signature=batches.signature(source),
        )
        return data.prefetch(2), source.example()[1]

    def _prepare(self, physical_batch_size: int | None, augmentation: Any = None) -> None:
        if physical_batch_size is not None:
            _validate.positive_int(physical_batch_size=physical_batch_size)
            self._physical_batch_size = physical_batch_size
        if augmentation is not None and self.plan.microbatch_size > 1:
            raise InputError("augmentation cannot be used with microbatch_size above 1.")
        if self._model.losses:
            raise InputError(
                "add_loss and regularizers cannot be used in private training: their gradients "
                "are no record's own."
            )
        if isinstance(self._model.optimizer, keras.optimizers.LossScaleOptimizer):
            raise InputError("optimizer must not be a LossScaleOptimizer: it skips steps by data.")
        wanted = (
            self._physical_batch_size,
            augmentation,
            self._model.loss,
            tuple(id(v) for v in self._model.trainable_variables),
        )
        if wanted == self._prepared:
            return
        self._augmentation = augmentation
        self._losses = per_example_loss(self._model.loss)
        groups = self.plan.clipping.groups
        units = find_units(self._model, by_variable=groups == "variable")
        self._variables = [v for unit in units for v in unit.variables]
        copies = 1 if augmentation is None else augmentation.copies
        self.step = CertifiedStep(
            self._model,
            self.plan,
            units,
            clipping_groups(self._model, units, groups),
            self._losses,
            rows_per_unit=copies * batches.rows_per_unit(self.plan),
            physical_batch_size=self._physical_batch_size,
            jit_compile=self._jit_compile,
        )
        # In the model's own order, as files have it; the gradients come layer by layer.
        self._optimizer.build(self._model.trainable_variables)
        self._model.train_function = None  # traced for another step
        self._prepared = wanted

    def _note_disclosures(self, arguments: dict[str, Any]) -> None:
        self._disclosures["Training loss and metrics as shown by fit."] = None
        if arguments.get("validation_data") is not None:
            self._disclosures["Validation metrics as shown by fit."] = None

    def train_step(self, data: tuple[Any, Any, Any]) -> dict[str, Any]:
        """One step over one batch `(x, y, present)`; traced by Keras."""
        if not self._in_fit:
            raise InputError(
                "A private step runs inside fit(x, y) alone: its batch must be sampled."
            )
        x, y, present = data
        if self._augmentation is not None:
            seed = tf.random.experimental.stateless_fold_in(self._augmentation_key, self._steps)
            x, y, present = self._augmentation.apply(x, y, present, seed)
        with tf.control_dependencies([present]):
            # The noise needs no batch; drawn while one is awaited it would keep the step waiting.
            step = tf.identity(self._steps)
        sums, tally, outputs, losses = self.step.clipped_sums(x, y, present, self._state)
        gradients, state = self.step.release(sums, tally, self._state, step, self._noise_key)
        with tf.control_dependencies([tally]):
            # Not before the batch is there: the sampler asks for the number of its step.
            self._steps.assign_add(1)
            # Hundreds of small reads, which would come before the forward pass.
            self._state.assign(state)
            self._optimizer.apply(gradients, self._variables)
        return self._update_metrics(*(tf.boolean_mask(t, present) for t in (y, outputs, losses)))

    def _update_metrics(self, y: Any, outputs: Any, losses: Any) -> dict[str, Any]:
        finite = tf.math.is_finite(losses)
        shown = tf.math.divide_no_nan(
            tf.reduce_sum(tf.where(finite, losses, 0.0)), tf.reduce_sum(tf.cast(finite, tf.float32))
        )
        self._model._loss_tracker.update_state(shown, sample_weight=tf.shape(losses)[0])
        logs: dict[str, Any] = self._model.compute_metrics(None, y, outputs, sample_weight=None)
        return logs


def _default_physical_batch_size(plan: PrivacyPlan) -> int:
    """Rows at once where the user does not say: nearly all samples of a small batch whole."""
    rows = plan.num_microbatches * batches.rows_per_unit(plan)
    return min(_MOST_ROWS_AT_ONCE, rows + math.ceil(5 * math.sqrt(rows)))


def _key_variable(seed: int | None, purpose: str) -> Any:
    """A key for TensorFlow's stateless generators."""
    key = randomness.new_key(seed, purpose)
    # A variable, not a constant: a traced graph must not carry the key.
    return tf.Variable(np.frombuffer(key[:16], np.int64), trainable=False)
