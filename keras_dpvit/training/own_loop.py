"""A private step for training loops of one's own."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dpvit import _validate
from keras_dpvit._types import Array
from keras_dpvit.errors import InputError
from keras_dpvit.gradients.layer_rules import clipping_groups, layer_rules
from keras_dpvit.gradients.reductions import full_precision_products
from keras_dpvit.gradients.spectral import normalize_spectra
from keras_dpvit.models import provenance
from keras_dpvit.models.private_model import PrivatelyTrainable
from keras_dpvit.privacy import randomness
from keras_dpvit.privacy.ledger import Ledger
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.training import batch_selection
from keras_dpvit.training.checkpoint import Checkpoint
from keras_dpvit.training.example_independence import check_rows_independent
from keras_dpvit.training.fit_arguments import warn_of_weak_promises
from keras_dpvit.training.kept_training import KeptTraining
from keras_dpvit.training.sources import ArraySource
from keras_dpvit.training.step import CertifiedStep, PrivateGradients
from keras_dpvit.training.strategies import refuse_strategies
from keras_dpvit.training.trainer import PrivateTrainer

_RECORDS_TRIED = 8


@dataclasses.dataclass(frozen=True)
class PrivateBatch:
    """The sample of one step, for that step alone.

    Attributes:
        data: tensors `(records, ...)` in the structure of the records.
        present: bool `(records,)`, which of the rows are records.
        step: int, the number of the step.
    """

    data: Any
    present: Any
    step: int


class PrivateStep:
    """The step that `fit` takes, for a loop of one's own: GANs, federated clients, several losses.

    Guarantee: the plan's, if `loss_fn` lets no row touch another, for what is computed from the
    gradients that `gradients` gives and from nothing else of the records. Each batch that `batches`
    draws gives one sum, clipped record by record and noised once, and each is counted in the
    model's ledger. `fit` evaluates a loss for one record at a time; here a trial on a few records
    is all that looks for rows that mix (`check_examples_independent` says what it cannot see).
    Whatever a loop takes from a batch besides (its size, a loss that is printed) is not covered.

    Args:
        model: a model from `make_private`, or a `DPViTClassifier`. Its ledger counts the steps.
        plan: a `PrivacyPlan` with Poisson sampling or shuffled batches.
        loss_fn: a function of `(model, batch)` that gives one loss for each row, float
            `(records,)`; `batch` has the structure that `batches` was given. It calls
            `model(inputs, training=True)`, once or several times.
        physical_batch_size: int or None, records in memory at once; changes no result.

    Raises:
        InputError: if the model is not private or cannot be trained so (see `make_private`), or the
            plan is one for batches made elsewhere.

    Example:
        >>> model = kd.make_private(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]))
        >>> plan = kd.PrivacyPlan(60, 20, 1, 1e-3, noise_multiplier=1.0)
        >>> loss_fn = lambda model, batch: model(batch, training=True)[:, 0] ** 2
        >>> step, optimizer = kd.PrivateStep(model, plan, loss_fn), keras.optimizers.SGD(0.1)
        >>> for batch in step.batches(np.ones((60, 4), "float32")):
        ...     step.apply(optimizer, step.gradients(batch))
        >>> step.ledger.epsilon(1e-3) == plan.epsilon()
        True
    """

    def __init__(
        self,
        model: Any,
        plan: PrivacyPlan,
        loss_fn: Callable[[Any, Any], Any],
        physical_batch_size: int | None = None,
    ) -> None:
        if not isinstance(model, PrivatelyTrainable):
            raise InputError(
                f"model must be private, got a {type(model).__name__}: wrap it with "
                "keras_dpvit.make_private(model), so that its ledger counts the steps."
            )
        if not isinstance(plan, PrivacyPlan):
            raise InputError(f"plan must be a PrivacyPlan, got {plan!r}.")
        if plan.sampling == "external":
            raise InputError("plan must sample records itself: 'poisson' or 'shuffled'.")
        self.model, self.plan, self._loss_fn = model, plan, loss_fn
        model.enter_own_training()
        self._trainer = _LoopTrainer(model, None, plan, jit_compile=False)
        model.private_trainer = self._trainer
        self._trainer.prepare_for(loss_fn, physical_batch_size)
        self._traced: Any = None
        self._tried = False
        self._kept: KeptTraining | None = None

    @property
    def variables(self) -> list[Any]:
        """The variables of the gradients, in their order."""
        return self._trainer.trained

    @property
    def ledger(self) -> Ledger:
        """Everything private that the model's weights have cost so far."""
        ledger: Ledger = self.model.privacy_ledger
        return ledger

    @property
    def steps_left(self) -> int:
        """Steps that the plan still pays for."""
        return self.plan.steps - self._trainer.state.steps_taken

    def batches(self, *parts: Any) -> Iterator[PrivateBatch]:
        """Draws a sample for each step that the plan has left.

        Args:
            *parts: arrays `(records, ...)`, or dicts and tuples of them; one is the batch itself,
                several are a tuple.

        Yields:
            a `PrivateBatch`, for `gradients`. One that is not used is drawn again.

        Raises:
            InputError: if no steps are left, or the arrays have no length in common.
        """
        source, trainer = self._source(parts), self._trainer
        if self.steps_left <= 0:
            raise InputError(
                f"The plan's {self.plan.steps} steps are spent: make a step with a new plan; its "
                "cost will be added."
            )
        self._try(source)
        sampler = self.plan.sampler(trainer.keys.sampling)
        assert sampler is not None
        provenance.begin_training(self.model, self.model.trainable_variables, self.model)
        try:
            while self.steps_left > 0:
                step = trainer.state.steps_taken
                yield self._drawn(source, sampler.sample(source.num_records, step), step)
        finally:
            provenance.settle(self.model)

    def _source(self, parts: tuple[Any, ...]) -> ArraySource:
        data = parts[0] if len(parts) == 1 else parts
        arrays = keras.tree.map_structure(np.asarray, data)
        lengths = {len(leaf) for leaf in keras.tree.flatten(arrays)}
        if len(lengths) != 1:
            raise InputError("batches needs arrays of one length, records along the first axis.")
        return ArraySource(arrays, np.zeros(lengths.pop(), "int64"))

    def _drawn(self, source: ArraySource, rows: Array, step: int) -> PrivateBatch:
        if self.plan.microbatch_size == 1:
            found = source.take(rows)
        else:
            found = batch_selection.microbatches(
                self.plan, source, rows, self._trainer.keys.sampling, step
            )
        data, present = keras.tree.map_structure(tf.constant, (found.x, found.present))
        return PrivateBatch(data, present, step)

    def _try(self, source: ArraySource) -> None:
        if not self._tried and source.num_records:
            few = source.take(np.arange(min(_RECORDS_TRIED, source.num_records)))
            check_rows_independent(self.model, self._loss_fn, few.x)
            self._tried = True

    def gradients(self, batch: PrivateBatch) -> PrivateGradients:
        """The noised mean gradient of a batch, clipped record by record.

        Args:
            batch: from `batches`, not used before.

        Returns:
            Tensors in the order of `variables`.

        Raises:
            InputError: if the batch is of another step: its noise would be used twice.
        """
        trainer = self._trainer
        refuse_strategies(self.model)
        if not isinstance(batch, PrivateBatch) or batch.step != trainer.state.steps_taken:
            raise InputError(
                "batch must be the last one that batches() gave, and used once: the noise of a "
                "step is for one sum."
            )
        if self.model.private_trainer is not trainer:
            raise InputError("the model was compiled or given to another step since: make it anew.")
        if self._traced is None:
            signature = keras.tree.map_structure(
                lambda t: tf.TensorSpec((None, *t.shape[1:]), t.dtype), (batch.data, batch.present)
            )
            self._traced = tf.function(trainer.noised, autograph=False, input_signature=signature)
        if self._kept is not None:
            self._kept.begin_step()
        with trainer.layers_keyed(), full_precision_products():
            return PrivateGradients(*self._traced(batch.data, batch.present))

    def apply(self, optimizer: Any, gradients: PrivateGradients) -> None:
        """Lets a Keras optimizer, private or not, take gradients of `gradients`.

        Raises:
            InputError: on any other gradients.
        """
        refuse_strategies(self.model)
        if not isinstance(gradients, PrivateGradients):
            raise InputError("gradients must be those of PrivateStep.gradients, or made from them.")
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        optimizer.apply(gradients, self.variables)

    def save(self, directory: Any, *optimizers: Any) -> None:
        """Writes the model, the optimizers and the loop's progress to a directory.

        From then on each step is noted there before it is taken: `restore` counts those that a
        crash lost. Keys are in no file.

        Args:
            directory: path, made if missing; one for each training.
            *optimizers: the Keras optimizers that the loop trains the model with.

        Raises:
            InputError: if the directory holds another training or cannot be written.
        """
        kept = self._keep(directory, optimizers)
        if not (kept is self._kept or kept.is_new()):
            kept.close()
            raise InputError(
                f"directory holds a training already: restore({str(directory)!r}) continues it."
            )
        self._take(kept)
        kept.save()

    def restore(self, directory: Any, *optimizers: Any) -> bool:
        """Continues from what `save` wrote last; steps lost since then count as spent.

        Args:
            directory: as `save` had it.
            *optimizers: as `save` had them.

        Returns:
            False if nothing was saved there.

        Raises:
            InputError: if it is the training of another model, plan or seed.
        """
        kept = self._keep(directory, optimizers)
        try:
            found = kept.restore() is not None
        except InputError:
            kept.close()
            raise
        if found:
            self._take(kept)
        else:  # nothing is noted where nothing is saved
            kept.close()
        return found

    def _keep(self, directory: Any, optimizers: tuple[Any, ...]) -> KeptTraining:
        for optimizer in optimizers:
            if not optimizer.built:
                optimizer.build(self.model.trainable_variables)
        path = pathlib.Path(directory).resolve()
        if self._kept is not None and self._kept.directory == path:
            self._kept.optimizers = list(optimizers)
            return self._kept
        return KeptTraining(self._trainer, Checkpoint(path), list(optimizers))

    def _take(self, kept: KeptTraining) -> None:
        if self._kept is not None and self._kept is not kept:
            self._kept.close()
        self._kept = kept


class _LoopTrainer(PrivateTrainer):
    """A trainer whose batches and optimizer are the loop's."""

    def prepare_for(
        self, loss_fn: Callable[[Any, Any], Any], physical_batch_size: int | None
    ) -> None:
        """Makes the step."""
        if physical_batch_size is not None:
            _validate.positive_int(physical_batch_size=physical_batch_size)
            self._physical_batch_size = physical_batch_size
        self._check_losses_beside()
        self._check_target()
        warn_of_weak_promises(self.plan)
        groups = self.plan.clipping.groups
        rules = layer_rules(self.model, by_variable=groups == "variable")
        self.trained = [v for rule in rules for v in rule.variables]
        self.step = CertifiedStep(
            self.model,
            self.plan,
            rules,
            clipping_groups(self.model, rules, groups),
            lambda y, outputs, weights: y,  # not asked
            rows_per_microbatch=batch_selection.rows_per_microbatch(self.plan),
            physical_batch_size=self._physical_batch_size,
            jit_compile=False,
            loss_fn=loss_fn,
        )
        if self.plan.seed is not None and self.plan.noise_multiplier:
            randomness.claim(self.keys.sampling, self._owner_of_keys)

    def fit(self, *args: Any, **arguments: Any) -> Any:
        """Refused: the model was not compiled for it."""
        raise InputError(
            "fit needs a compiled model: this one is trained by a PrivateStep; compile it with a "
            "private optimizer and a new plan."
        )

    @contextlib.contextmanager
    def layers_keyed(self) -> Iterator[None]:
        """Within the context, the layers' random numbers are private training's."""
        self._layer_randomness.begin_fit()
        try:
            yield
        finally:
            self._layer_randomness.end_fit()

    def noised(self, data: Any, present: Any) -> tuple[list[Any], Any]:
        """One step: its noised gradients and the noise's variance.

        The next sensitivity is kept, and the step counted.
        """
        step = tf.identity(self.state.steps)
        normalize_spectra(self.model)
        public_states = self._layer_randomness.enter(step)
        rows = tf.zeros(tf.shape(present)[:1], tf.int64)
        sums, below_count, _, losses = self.step.clipped_sums(
            data, rows, tf.ones(tf.shape(present)), present, self.state.sensitivity
        )
        gradients, state = self.step.release(
            sums, below_count, self.state.sensitivity, step, self.keys.noise
        )
        gradients, _ = self.step.with_penalties(gradients)
        with tf.control_dependencies([sums, below_count, losses]):
            self._layer_randomness.leave(public_states)
            self.state.steps.assign_add(1)
            self.state.sensitivity.assign(state)
        return list(gradients), gradients.noise_variance
