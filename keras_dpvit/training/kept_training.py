"""A private training in a directory, to be continued after a crash."""

import dataclasses
import json
import pathlib
from typing import Any

from keras_dpvit.errors import InputError
from keras_dpvit.privacy.ledger import ledger_from_dict
from keras_dpvit.training.checkpoint import Checkpoint


class KeptTraining:
    """Writes a trainer's state to a directory and takes it over again.

    Args:
        trainer: the `PrivateTrainer`.
        checkpoint: the directory's `Checkpoint`.
        optimizers: built Keras optimizers that train with it.

    Attributes:
        optimizers: those that are saved; others may take their place.
    """

    def __init__(self, trainer: Any, checkpoint: Checkpoint, optimizers: list[Any]) -> None:
        self._trainer, self._checkpoint = trainer, checkpoint
        self.optimizers = optimizers

    @property
    def directory(self) -> pathlib.Path:
        """The directory's path."""
        return self._checkpoint.directory

    def is_new(self) -> bool:
        """True if the directory holds nothing of a training."""
        return self._checkpoint.read_meta() is None and not self._checkpoint.steps_begun()

    def close(self) -> None:
        """Closes the directory's files."""
        self._checkpoint.close()

    def begin_step(self) -> None:
        """Notes that the next step is taken, before it is."""
        self._checkpoint.begin_step(self._trainer.state.steps_taken + 1)

    def note(self, kind: str, line: str) -> None:
        """Keeps a line for the ledger at once."""
        self._checkpoint.note(kind, line)

    def save(self, **progress: Any) -> None:
        """Writes the training as it is now.

        Args:
            **progress: JSON-able, kept besides and given back by `restore`.
        """
        trainer = self._trainer
        meta = {
            "plan": trainer.plan.get_config(),
            "key": trainer.keys.tag(),
            "keyed_for": trainer.keys.made_for,
            **trainer.state.meta(),
            "private_metrics": _config(trainer.metrics),
            "past_ledger": trainer.model.past_ledger.to_dict(),
            "progress": progress,
        }
        self._checkpoint.save(self._variables(), meta)

    def restore(self) -> dict[str, Any] | None:
        """Takes over what was saved last, and counts what was lost since.

        Returns:
            The progress that `save` was given; None if nothing was saved.

        Raises:
            InputError: if the directory's training is another one, or has no whole checkpoint.
        """
        trainer, checkpoint = self._trainer, self._checkpoint
        meta = checkpoint.read_meta()
        if meta is None:
            if checkpoint.steps_begun():
                raise InputError(
                    "checkpoint_dir holds a training that was cut off before its first "
                    "checkpoint: give another directory."
                )
            return None
        self._check(meta)
        drawn = trainer.state.steps_taken  # have had this process' noise
        checkpoint.load(self._variables())
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
        progress: dict[str, Any] = meta["progress"]
        return progress

    def _variables(self) -> list[Any]:
        of_optimizers = [v for optimizer in self.optimizers for v in optimizer.variables]
        return [*self._trainer.model.variables, *of_optimizers, *self._trainer.state.variables()]

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


def _config(metrics: Any) -> dict[str, Any] | None:
    return None if metrics is None else _json_like(dataclasses.asdict(metrics))


def _json_like(config: Any) -> Any:
    """The config as it comes back from JSON."""
    return json.loads(json.dumps(config))
