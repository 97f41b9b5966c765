"""Keras callbacks of private training."""

from typing import Any

import keras

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import accounting
from keras_dpvit.privacy.ledger import PrivacyLedger, compose


class PrivacyBudget(keras.callbacks.Callback):
    """Ends training before the step that would take the model's epsilon above a target.

    Counts everything on the model's ledger, earlier trainings too. A model whose ledger is above
    the target before the first step is not trained at all.

    Args:
        epsilon: float above 0.
        delta: float in (0, 1); None takes the plan's.
        accountant: "rdp" or "pld".

    Attributes:
        steps: int, how many steps of the plan the budget allows, once training has begun.

    Example:
        >>> callback = kd.PrivacyBudget(epsilon=2.0)  # for fit(..., callbacks=[callback])
    """

    def __init__(self, epsilon: float, delta: float | None = None, accountant: str = "rdp") -> None:
        super().__init__()
        self.epsilon = _validate.positive(epsilon=epsilon)
        self.delta = None if delta is None else _validate.open_unit_interval(delta=delta)
        self.accountant = _validate.one_of(accounting.ACCOUNTANTS, accountant=accountant)
        self.steps = 0

    def on_train_begin(self, logs: Any = None) -> None:
        trainer = getattr(self.model, "private_trainer", None)
        if trainer is None:
            raise InputError("PrivacyBudget needs a model compiled with a private optimizer.")
        if trainer.plan.sampling == "external":
            raise InputError(
                "PrivacyBudget needs a plan that samples records itself ('poisson' or 'shuffled')."
            )
        self._trainer = trainer
        self.steps = trainer.state.steps_taken + self._affordable(trainer)
        if self.steps == trainer.state.steps_taken:
            raise InputError(
                f"epsilon={self.epsilon:g} is spent: the model's ledger leaves no room for a step."
            )

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._trainer.state.steps_taken >= self.steps:
            self.model.stop_training = True

    def _affordable(self, trainer: Any) -> int:
        """The most further steps that stay within the budget, by bisection."""
        plan, past = trainer.plan, self.model.ledger_before_run()
        delta = plan.delta if self.delta is None else self.delta
        entered = trainer.state.steps_taken - trainer.state.steps_done

        def epsilon(steps: int) -> float:
            # The run as one: a shuffled pass that it is in the middle of is paid for already.
            run = PrivacyLedger(plan.entries(trainer.state.steps_done + steps, entered))
            return compose([past, run], "shared").epsilon(delta, self.accountant)

        low, high = 0, plan.steps - trainer.state.steps_taken
        while low < high:
            middle = (low + high + 1) // 2
            if epsilon(middle) <= self.epsilon:
                low = middle
            else:
                high = middle - 1
        return low
