"""Training on one client: some steps from the server's weights, plain or private by record."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from keras_dpvit._types import Array
from keras_dpvit.baselines.federated.job import Job, set_arrays
from keras_dpvit.baselines.federated.plans import ROUNDED, steps_of_round
from keras_dpvit.errors import InputError
from keras_dpvit.models import provenance
from keras_dpvit.privacy.batch_sizes import rounded_down
from keras_dpvit.privacy.ledger import PrivacyLedger
from keras_dpvit.training.own_loop import PrivateStep


class LocalTraining(Protocol):
    """Trains a client's copy of the model."""

    model: Any

    def place(self, places: tuple[int, ...], arrays: list[Array]) -> None:
        """Writes the server's values into the copy."""

    def round(self, arrays: list[Array], records: tuple[Array, Array], order: Any) -> None:
        """Trains for one round from these arrays, in place."""


class PlainTraining:
    """Local steps of a Keras optimizer over shuffled batches.

    One serves all clients of a process: nothing is left from round to round but the traced step.

    Args:
        job: the job.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self.model = job.build_model()
        self._loss = job.build_loss()
        self._trained = [v for v in self.model.weights if v.trainable]
        self._optimizer = _FreshOptimizer(job, self._trained)
        self._step: Any = None

    def place(self, places: tuple[int, ...], arrays: list[Array]) -> None:
        """Writes the server's values into the copy."""
        set_arrays(self.model, places, arrays)

    def round(self, arrays: list[Array], records: tuple[Array, Array], order: Any) -> None:
        """Trains for one round.

        Args:
            arrays: the values that the server sends.
            records: inputs and labels `(records, ...)`.
            order: a NumPy generator, by which the records are shuffled.
        """
        job = self._job
        self.place(job.exchanged, arrays)
        optimizer = self._optimizer.fresh()
        steps = job.local_steps or steps_of_round(len(records[0]), job.batch_size, job.local_epochs)
        if self._step is None:
            signature = [tf.TensorSpec((None, *part.shape[1:]), part.dtype) for part in records]
            self._step = tf.function(
                lambda x, y: self._one_step(optimizer, x, y),
                input_signature=signature,
                autograph=False,
            )
        for rows in itertools.islice(_batches(len(records[0]), job.batch_size, order), steps):
            self._step(*(tf.constant(part[rows]) for part in records))

    def _one_step(self, optimizer: Any, inputs: Any, labels: Any) -> None:
        with tf.GradientTape() as tape:
            loss = self._loss(labels, self.model(inputs, training=True))
            loss += sum(self.model.losses)
        gradients = tape.gradient(loss, [v.value for v in self._trained])
        optimizer.apply(gradients, self._trained)


class PrivateTraining:
    """Steps of `PrivateStep` under one plan for all rounds of one client.

    Guarantee: `RecordPrivacy`'s. The plan's steps are those of all rounds; when they are spent, a
    further round is refused.

    Args:
        job: with `record_privacy`.
        num_records: int, of the client.
        spent: the client's ledger of earlier rounds, where another process took them.
    """

    def __init__(self, job: Job, num_records: int, spent: PrivacyLedger) -> None:
        assert job.record_privacy is not None
        self._loss = job.build_loss()
        public = rounded_down(num_records)
        batch_size = min(job.batch_size, public)
        self._steps = job.local_steps or steps_of_round(public, batch_size, job.local_epochs)
        whole = job.record_privacy.plan(num_records, batch_size, self._steps * job.rounds)
        left = whole.steps - sum(entry.steps for entry in spent.all_entries())
        self._check(left)
        epochs = (left - 0.5) * whole.batch_size / whole.num_examples
        plan = dataclasses.replace(whole, epochs=epochs, target_epsilon=None)
        self._registry = provenance.Registry()
        with provenance.on_another_machine(self._registry):
            self.model = job.build_model()
            self._step = PrivateStep(self.model, plan, self._losses)
        self._optimizer = _FreshOptimizer(job, self._step.variables)
        self._job, self._spent = job, spent
        self.public_number = public

    @property
    def ledger(self) -> PrivacyLedger:
        """Everything that left this client, about its own records, in all rounds so far."""
        with provenance.on_another_machine(self._registry):
            own = self.model.privacy_ledger.all_entries()
        own = (dataclasses.replace(e, not_covered=(*e.not_covered, ROUNDED)) for e in own)
        return PrivacyLedger((*self._spent.entries, *own))

    def place(self, places: tuple[int, ...], arrays: list[Array]) -> None:
        """Writes the server's values into the copy.

        They tell nothing more of this client's records than the copy's own ledger says; what they
        tell of others' records is in the ledger that the server keeps.
        """
        with provenance.on_another_machine(self._registry):
            provenance.begin_training(self.model, self.model.weights, self.model)
            set_arrays(self.model, places, arrays)
            provenance.settle(self.model, self.model)

    def _check(self, steps_left: int) -> None:
        if steps_left < self._steps:
            raise InputError("the client's privacy budget is spent: the job asks for more rounds.")

    def round(self, arrays: list[Array], records: tuple[Array, Array], order: Any) -> None:
        """Trains for one round, as `PlainTraining.round`; the records' order is the plan's."""
        del order
        self._check(self._step.steps_left)
        self.place(self._job.exchanged, arrays)
        optimizer = self._optimizer.fresh()
        with provenance.on_another_machine(self._registry):
            batches: Any = self._step.batches(*records)
            for batch in itertools.islice(batches, self._steps):
                self._step.apply(optimizer, self._step.gradients(batch))
            batches.close()

    def _losses(self, model: Any, batch: Any) -> Any:
        inputs, labels = batch
        found = self._loss.call(labels, model(inputs, training=True))
        return tf.reduce_mean(tf.reshape(found, [tf.shape(found)[0], -1]), axis=1)


class _FreshOptimizer:
    """An optimizer that forgets: each round of federated averaging starts with an unused one."""

    def __init__(self, job: Job, variables: list[Any]) -> None:
        self._optimizer = job.build_optimizer()
        self._optimizer.build(variables)
        self._start = [np.array(v) for v in self._optimizer.variables]

    def fresh(self) -> Any:
        for variable, value in zip(self._optimizer.variables, self._start, strict=True):
            variable.assign(value)
        return self._optimizer


def _batches(num_records: int, batch_size: int, order: Any) -> Iterator[Array]:
    """Row numbers of endless batches, shuffled anew in each pass."""
    while True:
        rows = order.permutation(num_records)
        for begin in range(0, num_records, batch_size):
            yield rows[begin : begin + batch_size]


def round_records(inputs: Any, labels: Any) -> tuple[Array, Array]:
    """A client's records as arrays of one length.

    Raises:
        InputError: if they are not, or there is none.
    """
    inputs, labels = np.asarray(inputs), np.asarray(labels)
    if inputs.ndim < 1 or labels.ndim < 1 or len(inputs) != len(labels):
        raise InputError(
            "clients must have inputs and labels of the same length, got shapes "
            f"{inputs.shape} and {labels.shape}."
        )
    if not len(inputs):
        raise InputError("the client has no records.")
    return inputs, labels
