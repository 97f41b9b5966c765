"""Models that hand their training over to a private optimizer.

This room imports no training code. It knows these protocols alone: an optimizer that has a
`private_trainer(model)` method gives a `Trainer`, which does `fit` and `train_step`.
"""

import dataclasses
import json
import logging
import pathlib
import re
import secrets
from typing import TYPE_CHECKING, Any, Protocol

import keras

from keras_dpvit import _reasons
from keras_dpvit.errors import InputError
from keras_dpvit.models import provenance
from keras_dpvit.models.trainable import choose_trainable
from keras_dpvit.privacy import statement
from keras_dpvit.privacy.ledger import Ledger, PrivacyLedger, compose, ledger_from_dict
from keras_dpvit.privacy.ledger_entries import LedgerEntry

_NOTES_KEY = "notes"
_TRAINABLE_KEY = "trainable_part"
_KID_KEY = "encryption_kid"

# Training that no mechanism protected: one event of infinite epsilon.
_WITHOUT_PRIVACY = LedgerEntry(
    steps=1,
    noise_multiplier=0.0,
    sampling_probability=1.0,
    not_covered=("Training by fit under an optimizer that is not private.",),
    release_id="without privacy",
)


class Progress(Protocol):
    """The progress of a trainer."""

    @property
    def steps_done(self) -> int:
        """Steps that no earlier ledger holds."""

    def enter(self) -> None:
        """Notes that an earlier ledger holds the steps so far."""


class Trainer(Protocol):
    """Trains a model in Keras' place; `training.trainer.PrivateTrainer` is one."""

    @property
    def state(self) -> Progress:
        """The training's progress."""

    def fit(self, keras_fit: Any, x: Any, y: Any, **arguments: Any) -> Any:
        """Runs `keras_fit` over samples of `x` and `y`."""

    def train_step(self, *data: Any) -> dict[str, Any]:
        """One step over one batch."""

    def ledger_entries(self) -> tuple[LedgerEntry, ...]:
        """The ledger entries of the steps so far."""


# Keras puts its functional class among the bases of whatever derives from keras.Model, for all
# that share the base: so this is a mixin with a separate base.
if TYPE_CHECKING:
    from keras import Model as _Base
else:
    _Base = object


def _input_error_in(error: Exception) -> InputError | None:
    """A source's error about a record; TensorFlow's pipeline hands on its words alone."""
    found = re.search(r"InputError: (.+)", str(error))
    return InputError(found[1]) if found and not isinstance(error, InputError) else None


class PrivatelyTrainable(_Base):
    """Mixin for models: `fit` trains privately under a private optimizer.

    Compiled with any other optimizer it is an ordinary Keras model, and `fit` enters training
    without privacy into the ledger (infinite epsilon) unless it is told `public_data=True`. The
    ledger belongs to the variables: whatever holds, copies or loads them has it, and it travels in
    `.keras` and `.weights.h5` files; weights that came by a way that carries none are named first
    in the statement (`models.provenance`). Stands before `keras.Model` among the bases.

    Attributes:
        trainable_part: what `models.trainable.choose_trainable` chose last.
        encryption_kid: id of the key under which the model sees encrypted images, or None; see
            `encryption.transform_model`.
    """

    trainable_part: str = "all"
    encryption_kid: str | None = None
    private_trainer: Trainer | None = None
    past_ledger: Ledger = PrivacyLedger()
    _notes: tuple[str, ...] = ()
    _disclosed: tuple[str, ...] = ()
    _compiled_part: str = "all"
    _release_id: str = ""
    _from_file: bool = False

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """As `keras.Model.compile`; a private optimizer takes the training over."""
        self.enter_own_training()
        make_trainer = getattr(optimizer, "private_trainer", None)
        if make_trainer is None:
            super().compile(optimizer, loss, loss_weights, *args, **kwargs)
            return
        jit_compile = kwargs.pop("jit_compile", "auto")
        # The step jits its inner part alone (static shapes), and unscales nothing.
        kwargs = {**kwargs, "jit_compile": False, "auto_scale_loss": False}
        super().compile(optimizer, loss, loss_weights, *args, **kwargs)
        self.private_trainer = make_trainer(self, jit_compile, loss_weights)
        self._compiled_part = self.trainable_part

    def enter_own_training(self) -> None:
        """Enters what the weights have cost so far, before a loop of one's own trains them."""
        self._observe()
        self.past_ledger = self.own_ledger()
        self.private_trainer = None
        self.renew_release_id()

    def get_compile_config(self) -> dict[str, Any]:
        """As Keras has it, with the choice of variables that the optimizer was built for."""
        config = super().get_compile_config()
        return {**config, _TRAINABLE_KEY: self.trainable_part} if config else config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a loaded model as it was compiled when it was saved."""
        config = dict(config)
        choose_trainable(self, config.pop(_TRAINABLE_KEY, "all"))
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x: Any = None, y: Any = None, **kwargs: Any) -> Any:
        """As `keras.Model.fit`; under a private optimizer the plan draws each step's sample.

        Then `x` and `y` are arrays, or `x` alone is a random-access source of (image, label)
        records (`tfds.data_source`) or a `PyDataset`; under a plan with external sampling, a
        `tf.data.Dataset`. The batch size is the plan's. Further arguments:

        * `physical_batch_size`: int, examples in memory at once; changes no result.
        * `augmentation`: an `Augmentation`, altered copies averaged before clipping.
        * `private_metrics`: a `PrivateMetrics`, training loss and accuracy with noise in the logs.
        * `checkpoint_dir`: a directory. A run that was cut off resumes from there; under a seed
          to the same end as if it had not been, else with the steps lost counted as spent.
        * `checkpoint_steps`: int, steps between checkpoints; once an epoch by default.

        * `exceed_target`: bool, True lets a plan made for a target epsilon add to what the weights
          have cost before, past that target; refused otherwise.

        Logs have "epsilon", that of the model's ledger at the plan's delta. Under another
        optimizer `public_data=True` says that these records need no protection.
        """
        public_data = kwargs.pop("public_data", False)
        if self.private_trainer is None:
            self._begin_training()
            if not public_data:
                logging.getLogger("keras_dpvit").warning(
                    "%s is not private: this training makes the model's epsilon infinite. Compile "
                    "with kd.DPKerasAdamOptimizer(plan), or pass public_data=True to fit if these "
                    "records need no protection.",
                    type(self.optimizer).__name__,
                )
                self._note_training_without_privacy()
            try:
                return super().fit(x, y, **kwargs)
            finally:
                provenance.settle(self)
        if self.trainable_part != self._compiled_part:
            raise InputError(
                f"model must be compiled after choosing what is trained: it was compiled for "
                f"{self._compiled_part!r}, now it is {self.trainable_part!r}."
            )
        try:
            self._begin_training()
            return self.private_trainer.fit(super().fit, x, y, **kwargs)
        except Exception as error:
            told = _input_error_in(error)
            if told is None:
                error.add_note(f"fit failed: {_reasons.reason(error)}")
                raise
            raise told from None
        finally:
            provenance.settle(self)

    def train_step(self, *args: Any) -> Any:
        # Under JAX, Keras passes its state before the data.
        if self.private_trainer is None:
            return super().train_step(*args)
        return self.private_trainer.train_step(*args)

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.train_on_batch`; refused under a private optimizer."""
        if self.private_trainer is not None:
            raise InputError(
                "train_on_batch cannot be private: the batch must be drawn by the plan's sampler; "
                "call fit(x, y)."
            )
        self._begin_training()
        self._note_training_without_privacy()
        try:
            return super().train_on_batch(*args, **kwargs)
        finally:
            provenance.settle(self)

    def _begin_training(self) -> None:
        provenance.begin_training(self, self.trainable_variables, self)

    def _observe(self) -> None:
        """Looks for weights that changed without this package."""
        if self._from_file:
            provenance.settle(self, self)
            self._from_file = False
        elif self.built:
            provenance.observe(self)

    def set_weights(self, weights: Any) -> None:
        """As Keras has it; copies of weights that were seen before bring their ledger."""
        self._observe()
        super().set_weights(weights)
        self._observe()

    def load_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """As Keras has it; the ledger in the file is composed with the model's own.

        A file that has none is named in the statement: weights that came from elsewhere.
        """
        before = self.privacy_ledger  # of values that the file may leave as they are, too
        super().load_weights(filepath, *args, **kwargs)
        text = provenance.read_ledger(filepath)
        if text is None:
            self._observe()
            return
        content = json.loads(text)
        self.past_ledger = provenance.composed([ledger_from_dict(content), before])
        if self.private_trainer is not None:
            self.private_trainer.state.enter()
            self.renew_release_id()
        self._notes = tuple(dict.fromkeys([*self._notes, *content.get(_NOTES_KEY, ())]))
        provenance.settle(self, self)

    def save_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """As Keras has it; a `.weights.h5` file gets the ledger too."""
        super().save_weights(filepath, *args, **kwargs)
        provenance.write_ledger(filepath, json.dumps(self._ledger_content()))

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """As Keras has it, to `.keras` files alone.

        Raises:
            InputError: for an `.h5` file, which could never be loaded.
        """
        if pathlib.Path(filepath).suffix in (".h5", ".hdf5"):
            raise InputError(
                f"model must be saved to a .keras file, got {str(filepath)!r}: an .h5 file has no "
                "place for the privacy ledger and could not be loaded."
            )
        super().save(filepath, *args, **kwargs)

    def _note_training_without_privacy(self) -> None:
        if _WITHOUT_PRIVACY not in self.past_ledger.all_entries():
            unprotected = PrivacyLedger((_WITHOUT_PRIVACY,))
            self.past_ledger = compose([self.past_ledger, unprotected], "shared")

    @property
    def privacy_ledger(self) -> Ledger:
        """Everything private that this model's weights have cost so far, here and elsewhere."""
        return provenance.composed([self.own_ledger(), *self._ledgers_of_others()])

    def ledger_before_run(self) -> Ledger:
        """The ledger without the steps of the training that the model is compiled for."""
        return provenance.composed([self.past_ledger, *self._ledgers_of_others()])

    def _ledgers_of_others(self) -> list[Ledger]:
        self._observe()
        return [o.own_ledger() for o in provenance.origins_of(self) if o is not self]

    def own_ledger(self) -> Ledger:
        """The cost of this model's own trainings and files, without that of other holders."""
        if self.private_trainer is None or not self.private_trainer.state.steps_done:
            return self.past_ledger
        entries = tuple(
            dataclasses.replace(
                entry,
                not_covered=(*self._notes, *self._disclosed, *entry.not_covered),
                release_id=f"{self._release_id}-{index}",
            )
            for index, entry in enumerate(self.private_trainer.ledger_entries())
        )
        return compose([self.past_ledger, PrivacyLedger(entries)], "shared")

    @property
    def privacy_notes(self) -> tuple[str, ...]:
        """Sentences on what epsilon does not count about the weights the model started from."""
        return self._notes

    def start_from(self, ledger: Ledger, notes: tuple[str, ...] = ()) -> None:
        """Enters where the model's weights come from, before it is trained on.

        Args:
            ledger: what those weights have cost; it is composed with all that follows.
            notes: what epsilon does not count about them, for the statement of later trainings.

        Raises:
            InputError: if the model is compiled for private training already: its noise, where
                seeded, is keyed by the ledger that it had then.
        """
        if self.private_trainer is not None:
            raise InputError(
                "model must get its initial weights before it is compiled with a private optimizer."
            )
        # With what its values have cost elsewhere: after this, they count as this model's.
        self.past_ledger = provenance.composed([ledger, self.privacy_ledger])
        self._notes = tuple(dict.fromkeys([*self._notes, *notes]))
        provenance.settle(self, self)

    def enter_release(self, entry: LedgerEntry) -> None:
        """Enters a release that weights are about to be computed from, with what was disclosed."""
        self.start_from(PrivacyLedger())
        told = (*self._notes, *self._disclosed, *entry.not_covered)
        added = PrivacyLedger((dataclasses.replace(entry, not_covered=told),))
        self.past_ledger = provenance.composed([self.past_ledger, added])

    def disclose(self, line: str) -> None:
        """Names what leaves beside the mechanism, in the entries of this and later trainings.

        Args:
            line: a sentence, for the statement's limits.
        """
        self._disclosed = tuple(dict.fromkeys([*self._disclosed, line]))

    def renew_release_id(self) -> None:
        """Gives what is trained from here on a new identity in ledgers."""
        self._release_id = secrets.token_hex(16)

    def count_selection(self, mean: float, shape: float = 1.0) -> None:
        """Enters that this model was chosen as the best of a random number of runs like its own.

        Guarantee: the one of `privacy.ledger_entries.SelectionEntry`; `random_trials` draws the
        number of runs, sees to most of what the guarantee asks for and calls this.

        Args:
            mean: float, the mean number of runs, see `privacy.private_selection.TrialCount`.
            shape: float, of the number's distribution.
        """
        self.past_ledger = self.privacy_ledger.compose_selection(mean, shape)
        if self.private_trainer is not None:
            self.private_trainer.state.enter()
            self.renew_release_id()
        provenance.settle(self, self)

    def privacy_statement(self, delta: float | None = None) -> str:
        """The statement of this model's privacy.

        Args:
            delta: float in (0, 1); None takes the one of the last training's plan.
        """
        return statement.statement(self.privacy_ledger, self.privacy_delta(delta))

    def privacy_delta(self, delta: float | None = None) -> float:
        """`delta` if given, else the one the last private training was planned for."""
        if delta is not None:
            return delta
        entries = self.privacy_ledger.all_entries()
        planned = [e.details["delta"] for e in entries if "delta" in e.details]
        return planned[-1] if planned else 1e-5

    def save_assets(self, dir_path: str) -> None:
        text = json.dumps(self._ledger_content(), indent=1)
        pathlib.Path(dir_path, provenance.LEDGER_FILE).write_text(text)

    def _ledger_content(self) -> dict[str, Any]:
        content = {**self.privacy_ledger.to_dict(), _NOTES_KEY: list(self._notes)}
        if self.encryption_kid is not None:
            content[_KID_KEY] = self.encryption_kid
        return content

    def load_assets(self, dir_path: str) -> None:
        text = pathlib.Path(dir_path, provenance.LEDGER_FILE).read_text()
        content = json.loads(text)
        self.past_ledger = ledger_from_dict(content)
        self._notes = tuple(content.get(_NOTES_KEY, ()))
        self.encryption_kid = content.get(_KID_KEY)
        self._from_file = True  # the weights are put in after this
        if self.private_trainer is not None:
            self.private_trainer.state.enter()
            self.renew_release_id()
