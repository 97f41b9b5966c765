"""Private training inside Keras' own `fit`: sampling, the certified step, what it has cost."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.gradients.layer_rules import clipping_groups, layer_rules
from keras_dpvit.gradients.reductions import full_precision_products
from keras_dpvit.gradients.spectral import normalize_spectra
from keras_dpvit.layers.model_structure import (
    as_model_returns,
    as_model_takes,
    output_names,
    outputs_of,
)
from keras_dpvit.models import provenance
from keras_dpvit.privacy import randomness
from keras_dpvit.privacy.ledger import PrivacyLedger, epsilon_by
from keras_dpvit.privacy.ledger_entries import LedgerEntry
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.training import batch_selection, fit_arguments
from keras_dpvit.training.adapted import adapted_statistics
from keras_dpvit.training.augmentation import Augmentation, check_augmentation
from keras_dpvit.training.checkpoint import Checkpoint
from keras_dpvit.training.class_weights import ClassWeights, class_weights
from keras_dpvit.training.external import ExternalBatches
from keras_dpvit.training.fit_callback import PrivateFitCallback
from keras_dpvit.training.layer_randomness import LayerRandomness
from keras_dpvit.training.private_metrics import MetricSums, metric_sums
from keras_dpvit.training.record_losses import RecordLosses, output_losses
from keras_dpvit.training.records import Rows
from keras_dpvit.training.sources import source_for
from keras_dpvit.training.state import TrainingKeys, TrainingState
from keras_dpvit.training.steering import Steering, same_records
from keras_dpvit.training.step import CertifiedStep
from keras_dpvit.training.strategies import refuse_strategies
from keras_dpvit.training.trial import try_training, what_is_tried
from keras_dpvit.training.validation_split import split_off

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
        jit_compile: bool or "auto", XLA for the forward and backward pass. "auto" is without XLA,
            which takes long to compile each of several sizes of a sample's chunks.
        loss_weights: as `compile` takes them.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        plan: PrivacyPlan,
        jit_compile: Any,
        loss_weights: Any = None,
    ) -> None:
        refuse_strategies(model)
        self.model = model
        self.optimizer = optimizer
        self.plan = plan
        self._jit_compile = jit_compile is True
        self._physical_batch_size = _default_physical_batch_size(plan)
        self.state = TrainingState(plan)
        self.keys = TrainingKeys(plan.seed)
        self._layer_randomness = LayerRandomness(model, self.keys.layers)
        self._owner_of_keys = object()
        self.keys.renew(self._present_weights())
        self._augmentation: Augmentation | None = None
        self._prepared: Any = None  # what the traced step was made for
        self._validated: Any = None  # what was found to be independent
        self._loss_weights = loss_weights
        self._class_weights: ClassWeights | None = None
        self._feed: batch_selection.Feed | None = None  # of the present fit
        self._in_fit = False
        self._look_for_statistics()
        self._shown_names: tuple[str, ...] = ()  # of the values that a step shows without noise
        self.metrics: MetricSums | None = None
        self._metric_sums = tf.Variable(tf.zeros(2), trainable=False)  # noised, of an epoch
        self._metrics_from = 0  # the epoch's first step
        self.external: ExternalBatches | None = None  # of the present fit

    def _present_weights(self) -> str:
        if self.plan.seed is None:
            return ""
        past = sum(entry.steps for entry in self.model.privacy_ledger.all_entries())
        return f"after {past} steps from {provenance.digest_of(self.model)}"

    @property
    def plan_is_spent(self) -> bool:
        """True if the plan has no steps left."""
        if self.is_external:
            return self.state.passes >= self.plan.epochs
        return self.state.steps_taken >= self.plan.steps

    def ledger_entries(self) -> tuple[LedgerEntry, ...]:
        """The ledger entries of the steps so far."""
        state = self.state
        return self.plan.entries(
            state.steps_done,
            state.entered[0],
            tuple(state.disclosures),
            state.passes_done if self.is_external else None,
            tuple(state.invalidated_by),
            None if self.metrics is None else self.metrics.noise_ratio,
        )

    def _look_for_statistics(self) -> None:
        self.state.invalidated_by.update(dict.fromkeys(adapted_statistics(self.model)))

    def begin_metrics(self) -> None:
        """Starts the private metrics of an epoch."""
        self._metric_sums.assign(tf.zeros(2))
        self._metrics_from = self.state.steps_taken

    def private_values(self) -> dict[str, float]:
        """The private metrics since the epoch began, from noised sums and public numbers."""
        steps = self.state.steps_taken - self._metrics_from
        if self.metrics is None or not steps:
            return {}
        return self.metrics.shown(self._metric_sums.numpy(), self.plan.batch_size * steps)

    def fit(
        self,
        keras_fit: Callable[..., Any],
        x: Any,
        y: Any,
        *,
        physical_batch_size: int | None = None,
        augmentation: Augmentation | None = None,
        private_metrics: Any = None,
        checkpoint_dir: Any = None,
        checkpoint_steps: int | None = None,
        epochs: int = 1,
        callbacks: Any = None,
        exceed_target: bool = False,
        **arguments: Any,
    ) -> Any:
        """Runs Keras' `fit` over samples of `x` and `y`, no further than the plan goes."""
        refuse_strategies(self.model)
        fit_arguments.check_fit_arguments(self.plan, arguments)
        fit_arguments.warn_of_weak_promises(self.plan)
        if not exceed_target:
            self._check_target()
        if self.plan.seed is not None and not self.state.steps_taken:
            self.keys.renew(self._present_weights())
        x, y, arguments = split_off(self.plan, x, y, arguments, checkpoint_dir is not None)
        data, records = self._data(x, y, arguments.pop("sample_weight", None))
        given = arguments.pop("class_weight", None)
        self._class_weights = class_weights(given, self.model, records.y)
        self._look_for_statistics()
        metrics = metric_sums(private_metrics, self.plan, self.model, records.y)
        self.prepare(physical_batch_size, augmentation, metrics)
        self._build_shown_metrics(records.y)
        callback = PrivateFitCallback(self, epochs, arguments.pop("initial_epoch", 0))
        self._begin(callback, checkpoint_dir, checkpoint_steps)
        self._validate(records)
        self._note_disclosures(arguments)
        validates_on_training = same_records(x, arguments.get("validation_data"))
        callback.steering = Steering(
            callback.note, lambda: self._shown_names, validates_on_training
        )
        self._in_fit = True
        self._layer_randomness.begin_fit()
        try:
            with callback.steering.watching(callbacks) as watched, full_precision_products():
                return keras_fit(
                    data,
                    epochs=epochs,
                    initial_epoch=callback.initial_epoch,
                    steps_per_epoch=None if self.is_external else self.plan.steps_per_epoch,
                    callbacks=[callback, *watched],
                    shuffle=False,  # a sample has no order
                    **arguments,
                )
        finally:
            self._in_fit = False
            self._layer_randomness.end_fit()
            callback.close()
            if self._feed is not None:
                self._feed.close()

    def _begin(self, callback: PrivateFitCallback, checkpoint_dir: Any, steps: int | None) -> None:
        """Goes to the last checkpoint, if there is one, and checks that steps are left.

        Raises:
            InputError: if no steps are left, or the checkpoints are of another training.
        """
        if checkpoint_dir is not None and self.is_external:
            raise InputError(
                "checkpoint_dir needs a plan that samples records itself ('poisson' or "
                "'shuffled'): nobody knows which batches of the others' pass are still to come."
            )
        if checkpoint_dir is not None:
            callback.use_checkpoints(Checkpoint(checkpoint_dir), steps)
        if self.plan_is_spent and not callback.resumed:
            raise InputError(
                f"The plan's {self.plan.steps} steps are spent: compile the model with a new plan; "
                "its cost will be added."
            )
        if self.plan.seed is not None and self.plan.noise_multiplier and not callback.resumed:
            randomness.claim(self.keys.sampling, self._owner_of_keys)

    def _check_target(self) -> None:
        """Refuses a plan that would take what the weights have cost past its target."""
        plan, before = self.plan, self.model.ledger_before_run()
        spent = epsilon_by(before, plan.delta, plan.accountant)
        if plan.target_epsilon is None or not 0 < spent < math.inf:
            return
        run = PrivacyLedger(plan.entries(plan.steps))
        total = epsilon_by(provenance.composed([before, run]), plan.delta, plan.accountant)
        if total > plan.target_epsilon:
            raise InputError(
                f"The model's weights have cost epsilon {spent:.3f} already: with this plan's "
                f"steps the total would be {total:.3f}, past its target {plan.target_epsilon:g}. "
                "Plan for what is left, or pass exceed_target=True to fit."
            )

    @property
    def is_external(self) -> bool:
        """True if somebody else makes the batches."""
        return self.plan.sampling == "external"

    def _data(self, x: Any, y: Any, weights: Any) -> tuple[Any, Rows]:
        """The data set for Keras, and a few records."""
        if self.is_external:
            if weights is not None:
                raise InputError("sample_weight must come with the batches, as their third part.")
            self.external = ExternalBatches(self.model, self.plan, x, y)
            return self.external.data, self.external.some_records
        source = source_for(self.model, x, y, weights)
        fit_arguments.check_size(self.plan, source.num_records)
        self._feed = batch_selection.Feed(
            self.plan, source, self.keys.sampling, lambda: self.state.steps_taken
        )
        signature = batch_selection.signature(source)
        data = tf.data.Dataset.from_generator(self._feed, output_signature=signature)
        return data.prefetch(2), batch_selection.some_records(source)

    def _validate(self, records: Rows) -> None:
        """Checks that examples are independent, once for what is trained as it is."""
        what = what_is_tried(self.model, self._losses, records)
        if what != self._validated:
            try_training(self.model, self._losses, self._output_losses, records)
            self._validated = what

    def prepare(
        self,
        physical_batch_size: int | None,
        augmentation: Any = None,
        metrics: MetricSums | None = None,
    ) -> None:
        if physical_batch_size is not None:
            _validate.positive_int(physical_batch_size=physical_batch_size)
            self._physical_batch_size = physical_batch_size
        check_augmentation(augmentation, self.plan, self.model)
        self._check_losses_beside()
        if isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer):
            raise InputError("optimizer must not be a LossScaleOptimizer: it skips steps by data.")
        wanted = (
            self._physical_batch_size,
            augmentation,
            metrics,
            self.model.loss,
            repr(self._loss_weights),
            self._class_weights,
            tuple(id(v) for v in self.model.trainable_variables),
        )
        if wanted == self._prepared:
            return
        if metrics != self.metrics and self.state.steps_done:
            self._enter_steps()  # they released other sums
        self._augmentation, self.metrics = augmentation, metrics
        names = output_names(self.model)
        self._output_losses = output_losses(self.model.loss, names, self._loss_weights)
        self._losses = RecordLosses(self._output_losses)
        groups = self.plan.clipping.groups
        rules = layer_rules(self.model, by_variable=groups == "variable")
        self._variables = [v for rule in rules for v in rule.variables]
        copies = 1 if augmentation is None else augmentation.copies
        self.step = CertifiedStep(
            self.model,
            self.plan,
            rules,
            clipping_groups(self.model, rules, groups),
            self._losses,
            rows_per_microbatch=copies * batch_selection.rows_per_microbatch(self.plan),
            physical_batch_size=self._physical_batch_size,
            jit_compile=self._jit_compile,
            metrics=metrics,
        )
        # In the model's own order, as files have it; the gradients come layer by layer.
        self.optimizer.build(self.model.trainable_variables)
        self.model.train_function = None  # traced for another step
        self._prepared = wanted

    def _check_losses_beside(self) -> None:
        """Refuses losses that are no record's, but for penalties of weights."""
        penalties = sum(v.regularizer is not None for v in self.model.trainable_variables)
        if len(self.model.losses) > penalties:
            raise InputError(
                "add_loss and activity regularizers cannot be used in private training: their "
                "gradients belong to no single record. A penalty of a record's own outputs goes "
                "into the loss; kernel_regularizer and weight_decay are of weights alone."
            )

    def _build_shown_metrics(self, labels: Any) -> None:
        """Makes the compiled metrics' variables: made in a traced step, it is traced twice."""
        metrics = self.model._compile_metrics  # noqa: SLF001
        if metrics is not None and not metrics.built:
            one = keras.tree.map_structure(lambda label: label[:1], labels)
            outputs = keras.tree.map_structure(
                lambda tensor: np.zeros((1, *tensor.shape[1:]), "float32"), outputs_of(self.model)
            )
            metrics.build(one, outputs)

    def _enter_steps(self) -> None:
        """Moves the steps so far to the model's past ledger, as they were released."""
        self.model.past_ledger = self.model.privacy_ledger
        self.state.enter()
        self.model.renew_release_id()

    def _note_disclosures(self, arguments: dict[str, Any]) -> None:
        self.state.disclosures["Training loss and metrics as shown by fit."] = None
        if arguments.get("validation_data") is not None:
            self.state.disclosures["Validation metrics as shown by fit."] = None

    def train_step(self, data: tuple[Any, Any, Any, Any]) -> dict[str, Any]:
        """One step over one batch `(x, y, weights, present)`; traced by Keras."""
        if not self._in_fit:
            raise InputError(
                "A private step runs inside fit(x, y) alone: its batch must be sampled."
            )
        x, y, weights, present = data
        x, y = as_model_takes(self.model, x), as_model_returns(self.model, y)
        if self._class_weights is not None:
            weights = self._class_weights.applied(weights, y)
        if self._augmentation is not None:
            seed = tf.random.experimental.stateless_fold_in(
                self.keys.augmentation, self.state.steps
            )
            x, y, weights, present = self._augmentation.apply(x, y, weights, present, seed)
        with tf.control_dependencies([present]):
            # The noise needs no batch; drawn while one is awaited it would keep the step waiting.
            step = tf.identity(self.state.steps)
        normalize_spectra(self.model)
        public_states = self._layer_randomness.enter(step)
        sums, below_count, outputs, losses = self.step.clipped_sums(
            x, y, weights, present, self.state.sensitivity
        )
        gradients, state, metrics = self.step.release_all(
            sums, below_count, self.state.sensitivity, step, self.keys.noise
        )
        gradients, penalty = self.step.with_penalties(gradients)
        with tf.control_dependencies([sums, below_count, *keras.tree.flatten(outputs), losses]):
            self._layer_randomness.leave(public_states)
        with tf.control_dependencies([below_count]):
            # Not before the batch is there: the sampler asks for the number of its step.
            self.state.steps.assign_add(1)
            # Hundreds of small reads, which would come before the forward pass.
            self.state.sensitivity.assign(state)
            if self.metrics is not None:
                self._metric_sums.assign_add(metrics)
            self.optimizer.apply(gradients, self._variables)
        rows = tf.where(present)[:, 0]
        shown = keras.tree.map_structure(
            lambda t: tf.gather(t, rows), (y, outputs, losses, weights)
        )
        y, outputs, losses, weights = shown
        return self._update_metrics(y, outputs, losses, weights, penalty)

    def _update_metrics(
        self, y: Any, outputs: Any, losses: Any, weights: Any, penalty: Any
    ) -> dict[str, Any]:
        finite = tf.math.is_finite(losses)
        shown = tf.math.divide_no_nan(
            tf.reduce_sum(tf.where(finite, losses, 0.0)), tf.reduce_sum(tf.cast(finite, tf.float32))
        )
        shown += penalty
        self.model._loss_tracker.update_state(shown, sample_weight=tf.shape(losses)[0])  # noqa: SLF001
        logs: dict[str, Any] = self.model.compute_metrics(None, y, outputs, sample_weight=weights)
        self._shown_names = tuple(logs)  # when traced
        return logs


def _default_physical_batch_size(plan: PrivacyPlan) -> int:
    """Rows at once where the user does not say: nearly all samples of a small batch whole."""
    rows = plan.num_microbatches * batch_selection.rows_per_microbatch(plan)
    return min(_MOST_ROWS_AT_ONCE, rows + math.ceil(5 * math.sqrt(rows)))
