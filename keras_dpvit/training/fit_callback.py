"""Keeps a private `fit` within its plan, its ledger and its checkpoints."""

from typing import Any

import keras

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.privacy.ledger import epsilon_by
from keras_dpvit.training.checkpoint import Checkpoint
from keras_dpvit.training.kept_training import KeptTraining
from keras_dpvit.training.steering import Steering


class PrivateFitCallback(keras.callbacks.Callback):
    """Ends `fit` where the plan ends, shows epsilon, counts passes and writes checkpoints.

    Args:
        trainer: the `PrivateTrainer`.
        epochs: int, epochs that `fit` was asked for.
        initial_epoch: int, the number of the first of them.

    Attributes:
        initial_epoch: int, for Keras; above 0 in a run that is resumed.
        resumed: bool.
        steering: the `Steering` of the run's callbacks, or None.
    """

    def __init__(self, trainer: Any, epochs: int, initial_epoch: int = 0) -> None:
        super().__init__()
        self._trainer = trainer
        self._kept: KeptTraining | None = None
        self._epochs = epochs
        self._first_step = trainer.state.steps_taken
        steps = (epochs - initial_epoch) * trainer.plan.steps_per_epoch
        self._last_step = self._first_step + steps
        self.initial_epoch = initial_epoch
        self.resumed = False
        self.steering: Steering | None = None

    def note(self, kind: str, line: str) -> None:
        """Enters a line for the ledger, in the checkpoint's journal at once."""
        if self._trainer.state.note(kind, line) and self._kept is not None:
            self._kept.note(kind, line)

    def use_checkpoints(self, checkpoint: Checkpoint, every: int | None) -> None:
        """Resumes from the last checkpoint, if there is one, and writes further ones.

        Args:
            checkpoint: where.
            every: int or None for once an epoch, steps between checkpoints.

        Raises:
            InputError: if the checkpoint is not of this training.
        """
        trainer = self._trainer
        self._kept = KeptTraining(trainer, checkpoint, [trainer.optimizer])
        self._every = trainer.plan.steps_per_epoch
        if every is not None:
            self._every = _validate.positive_int(checkpoint_steps=every)
        progress = self._kept.restore()
        if progress is None:
            self._save()
            return
        self.resumed = True
        self._first_step, self._last_step = progress["first_step"], progress["last_step"]
        done = trainer.state.steps_taken - self._first_step
        self.initial_epoch += done // trainer.plan.steps_per_epoch
        if trainer.plan_is_spent or trainer.state.steps_taken >= self._last_step:
            self.initial_epoch = self._epochs  # not one step more

    def _save(self) -> None:
        assert self._kept is not None
        self._kept.save(first_step=self._first_step, last_step=self._last_step)

    def close(self) -> None:
        """Closes the checkpoint's files."""
        if self._kept is not None:
            self._kept.close()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._trainer.state.passes += 1
        self._trainer.begin_metrics()

    def on_train_begin(self, logs: Any = None) -> None:
        if self.model.steps_per_execution != 1:
            raise InputError(
                "steps_per_execution must be 1 in private training, got "
                f"{self.model.steps_per_execution}: each step is checked against the plan before "
                "it is taken."
            )

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if not self._trainer.is_external and self._trainer.plan_is_spent:
            raise InputError(
                f"training continued after the plan's {self._trainer.plan.steps} steps were spent: "
                "stop_training must not be reset."
            )
        if self._kept is not None:
            self._kept.begin_step()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        trainer = self._trainer
        if trainer.is_external:
            return
        done = trainer.state.steps_taken
        if trainer.plan_is_spent or done >= self._last_step:
            self.model.stop_training = True
        if self._kept is not None and (done - self._first_step) % self._every == 0:
            self._save()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        trainer = self._trainer
        if trainer.external is not None and not self.model.stop_training:
            trainer.external.check_whole_pass()
        if trainer.is_external and trainer.plan_is_spent:
            self.model.stop_training = True
        if self.steering is not None:
            self.steering.note_known()
        if logs is not None:
            logs.update(trainer.private_values())
            plan = trainer.plan
            logs["epsilon"] = epsilon_by(self.model.privacy_ledger, plan.delta, plan.accountant)

    def on_train_end(self, logs: Any = None) -> None:
        if self._kept is not None:
            self._save()
