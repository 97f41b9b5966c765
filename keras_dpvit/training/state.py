"""The progress of a private training, and the keys that its random numbers come from."""

import hashlib
import hmac
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dpvit.privacy import randomness
from keras_dpvit.privacy.plan import PrivacyPlan


class TrainingKeys:
    """The keys of one training: of sampling, noise, augmentation and the layers.

    Args:
        seed: int or None, the plan's; None for keys from the operating system.

    Attributes:
        made_for: str, names the weights that the training starts from.
        sampling: bytes, 32 of them.
        noise, augmentation, layers: int64 variables of 2. Not constants: a traced graph must not
            carry the keys.
    """

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self.made_for = ""
        self.sampling = b""
        self.noise, self.augmentation, self.layers = (
            tf.Variable(tf.zeros(2, tf.int64), trainable=False) for _ in range(3)
        )

    def renew(self, weights: str) -> None:
        """Makes all keys anew.

        Args:
            weights: names the weights that the training starts from. It enters keys made from a
                seed: trained on, or from other weights, a model must not meet noise that an
                earlier sum has had.
        """
        self.made_for = weights
        self.sampling = randomness.new_key(self._seed, f"sampling {weights}")
        for variable, purpose in (
            (self.noise, "noise"),
            (self.augmentation, "augmentation"),
            (self.layers, "layers"),
        ):
            key = randomness.new_key(self._seed, f"{purpose} {weights}")
            variable.assign(np.frombuffer(key[:16], np.int64))

    def tag(self) -> str | None:
        """A text that tells a seeded run from one under another seed, and gives no key away.

        Without a seed the keys are lost with the process, and no tag could agree.
        """
        if self._seed is None:
            return None
        return hmac.new(self.sampling, b"checkpoint", hashlib.sha256).hexdigest()


class TrainingState:
    """The progress of one training, all of which a checkpoint keeps.

    Args:
        plan: the `PrivacyPlan`.

    Attributes:
        steps: int64 variable, steps taken under the plan.
        sensitivity: float32 variable, the state of the plan's sensitivity.
        passes: int, passes begun, for batches that somebody else makes.
        entered: int, int; steps and passes that an earlier ledger holds.
        disclosures: what the run did with private data that epsilon does not count, in order.
        invalidated_by: what its guarantee does not survive, in order.
    """

    def __init__(self, plan: PrivacyPlan) -> None:
        self.steps = tf.Variable(0, dtype=tf.int64, trainable=False)
        initial = plan.sensitivity.initial_state()
        self.sensitivity = tf.Variable(initial, dtype=tf.float32, trainable=False)
        self.passes = 0
        self.entered = (0, 0)
        self.disclosures: dict[str, None] = {}
        self.invalidated_by: dict[str, None] = {}

    @property
    def steps_taken(self) -> int:
        """Steps taken under the plan."""
        return int(self.steps.numpy())

    @property
    def steps_done(self) -> int:
        """Steps taken under the plan that no earlier ledger holds."""
        return self.steps_taken - self.entered[0]

    @property
    def passes_done(self) -> int:
        """Passes begun under the plan that no earlier ledger holds."""
        return self.passes - self.entered[1]

    def enter(self) -> None:
        """Notes that an earlier ledger holds the steps so far."""
        self.entered = (self.steps_taken, self.passes)

    def note(self, kind: str, line: str) -> bool:
        """Enters a line for the ledger.

        Args:
            kind: "invalidated_by" or "not_covered", fields of a `LedgerEntry`.
            line: a sentence.

        Returns:
            True if it is new.
        """
        lines = self.invalidated_by if kind == "invalidated_by" else self.disclosures
        new = line not in lines
        lines[line] = None
        return new

    def variables(self) -> list[Any]:
        """The variables of which a checkpoint keeps the values."""
        return [self.steps, self.sensitivity]

    def meta(self) -> dict[str, Any]:
        """The JSON-able part of a checkpoint, beside the variables."""
        return {
            "passes": self.passes,
            "entered": list(self.entered),
            "disclosures": list(self.disclosures),
            "invalidated_by": list(self.invalidated_by),
        }

    def restore(self, meta: dict[str, Any]) -> None:
        """Takes over what `meta` gave."""
        self.passes, self.entered = meta["passes"], tuple(meta["entered"])
        self.disclosures.update(dict.fromkeys(meta["disclosures"]))
        self.invalidated_by.update(dict.fromkeys(meta.get("invalidated_by", ())))
