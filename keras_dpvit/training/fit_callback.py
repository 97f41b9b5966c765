"""Keeps a private `fit` within its plan, its ledger and its checkpoints."""

import dataclasses
import json
from typing import Any

import keras

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.privacy.ledger import epsilon_by, ledger_from_dict
from keras_dpvit.training.checkpoint import Checkpoint
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
        self._checkpoint: Checkpoint | None = None
        self._epochs = epochs
        self._first_step = trainer.state.steps_taken
        steps = (epochs - initial_epoch) * trainer.plan.steps_per_epoch
        self._last_step = self._first_step + steps
        self.initial_epoch = initial_epoch
        self.resumed = False
        self.steering: Steering | None = None

    def note(self, kind: str, line: str) -> None:
        """Enters a line for the ledger, in the checkpoint's journal at once."""
        if self._trainer.state.note(kind, line) and self._checkpoint is not None:
            self._checkpoint.note(kind, line)

    def use_checkpoints(self, checkpoint: Checkpoint, every: int | None) -> None:
        """Resumes from the last checkpoint, if there is one, and writes further ones.

        Args:
            checkpoint: where.
            every: int or None for once an epoch, steps between checkpoints.

        Raises:
            InputError: if the checkpoint is not of this training.
        """
        trainer = self._trainer
        self._checkpoint = checkpoint
        self._every = trainer.plan.steps_per_epoch
        if every is not None:
            self._every = _validate.positive_int(checkpoint_steps=every)
        meta = checkpoint.read_meta()
        if meta is None:
            if checkpoint.steps_begun():
                raise InputError(
                    "checkpoint_dir holds a training that was cut off before its first "
                    "checkpoint: give another directory."
                )
            self._save()
            return
        self._check(meta)
        drawn = trainer.state.steps_taken
        checkpoint.load(self._variables())
        self._restore(meta, drawn)

    def close(self) -> None:
        """Closes the checkpoint's files."""
        if self._checkpoint is not None:
            self._checkpoint.close()

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
        if self._checkpoint is not None:
            self._checkpoint.begin_step(self._trainer.state.steps_taken + 1)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        trainer = self._trainer
        if trainer.is_external:
            return
        done = trainer.state.steps_taken
        if trainer.plan_is_spent or done >= self._last_step:
            self.model.stop_training = True
        if self._checkpoint is not None and (done - self._first_step) % self._every == 0:
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
        if self._checkpoint is not None:
            self._save()

    def _variables(self) -> list[Any]:
        trainer = self._trainer
        return [
            *trainer.model.variables,
            *trainer.optimizer.variables,
            *trainer.state.variables(),
        ]

    def _save(self) -> None:
        assert self._checkpoint is not None
        trainer = self._trainer
        meta = {
            "plan": trainer.plan.get_config(),
            "key": trainer.keys.tag(),
            "keyed_for": trainer.keys.made_for,
            "first_step": self._first_step,
            "last_step": self._last_step,
            **trainer.state.meta(),
            "private_metrics": _config(trainer.metrics),
            "past_ledger": trainer.model.past_ledger.to_dict(),
        }
        self._checkpoint.save(self._variables(), meta)

    def _check(self, meta: dict[str, Any]) -> None:
        if meta["plan"] != _json_like(self._trainer.plan.get_config()):
            raise InputError("checkpoint_dir holds a training under another plan.")
        if self._trainer.plan.seed is not None:
            self._trainer.keys.renew(meta["keyed_for"])
        if meta["key"] != self._trainer.keys.tag():
            raise InputError("checkpoint_dir holds a training under another seed.")
        if meta.get("private_metrics") != _config(self._trainer.metrics):
            raise InputError(
                "checkpoint_dir holds a training with other private_metrics: give fit the same."
            )

    def _restore(self, meta: dict[str, Any], drawn: int) -> None:
        """Takes over what is not in variables; `drawn` steps have had this process' noise."""
        trainer, checkpoint = self._trainer, self._checkpoint
        assert checkpoint is not None
        self.resumed = True
        self._first_step, self._last_step = meta["first_step"], meta["last_step"]
        trainer.state.restore(meta)
        for kind, line in checkpoint.notes():
            trainer.state.note(kind, line)
        trainer.model.past_ledger = ledger_from_dict(meta["past_ledger"])
        # Two copies of a checkpoint may resume: what follows is not the release of either.
        trainer.model.renew_release_id()
        if trainer.plan.seed is None:
            # The lost steps have been taken, with noise that is lost too: they count as spent,
            # and their numbers are not used again.
            taken, each = max(trainer.state.steps_taken, checkpoint.steps_begun(), drawn), 1
            if trainer.plan.sampling == "shuffled":
                # Shuffled anew, a record may come twice in what is left of a pass: leave it out.
                each = trainer.plan.steps_per_epoch
            trainer.state.steps.assign(-(-taken // each) * each)
        done = trainer.state.steps_taken - self._first_step
        self.initial_epoch += done // trainer.plan.steps_per_epoch
        if trainer.plan_is_spent or trainer.state.steps_taken >= self._last_step:
            self.initial_epoch = self._epochs  # not one step more


def _config(metrics: Any) -> dict[str, Any] | None:
    return None if metrics is None else _json_like(dataclasses.asdict(metrics))


def _json_like(config: Any) -> Any:
    """The config as it comes back from JSON."""
    return json.loads(json.dumps(config))
