"""DP-FedAvg's release: which clients enter a round, and the noised mean of their updates."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dpvit._types import Array
from keras_dpvit.baselines.federated.plans import check_client_plan
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import randomness
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.privacy.sensitivity import release_weights
from keras_dpvit.training.noise_addition import standard_normals

Update = Sequence[Array] | None


class ClientAggregator:
    """Samples clients and releases the noised mean of their updates, round by round.

    Guarantee: a round is one step of the plan with a client for a record. Each client enters it
    with the plan's probability, by a draw of its own. Its update is scaled so that the L2 norm of
    all its arrays is at most the round's bound, whatever it is: zero, of any size, NaN. A client
    that failed adds nothing. Updates are added without weights, so that one client moves the sum by
    at most the bound, and noise is drawn once, of the plan's multiplier times the bound. The
    divisor is the public number of clients expected in a round, whoever came. The next bound is a
    function of a noised count alone. So `plan.entries(rounds)` counts what was released.

    Args:
        plan: over clients, see `client_plan`.
        shapes: of the arrays of an update.

    Attributes:
        rounds: int, released so far.
        bound: float, the bound of the coming round on the norm of an update.

    Raises:
        InputError: if the plan is of another kind.
    """

    def __init__(self, plan: PrivacyPlan, shapes: Sequence[tuple[int, ...]]) -> None:
        self.plan = check_client_plan(plan)
        self.rounds = 0
        self._shapes = [tuple(shape) for shape in shapes]
        self._state = float(plan.sensitivity.initial_state())
        self._sampler = plan.sampler(randomness.new_key(plan.seed, "federated sampling"))
        self._noise_key = randomness.new_key(plan.seed, "federated noise")
        if plan.seed is not None and plan.noise_multiplier:
            randomness.claim(self._noise_key, self)

    @property
    def bound(self) -> float:
        return float(self.plan.sensitivity.cap(self._state))

    def sample(self, clients: Sequence[int]) -> list[int]:
        """The clients that enter the coming round; may be none.

        Args:
            clients: names of all that there are, in any number.

        Raises:
            InputError: if the plan's rounds are spent.
        """
        self._check()
        assert self._sampler is not None
        return [clients[i] for i in self._sampler.sample(len(clients), self.rounds)]

    def clipped_sum(self, updates: Sequence[Update]) -> tuple[list[Array], float]:
        """The sum of the clipped updates, before noise, and the count of norms below the bound.

        Args:
            updates: of the clients that were sampled, arrays of the shapes; None for a client
                that failed.

        Returns:
            float64 arrays, and the sum of +1/2 (norm at most the bound) or -1/2 for each update.
        """
        total = [np.zeros(shape) for shape in self._shapes]
        norms = []
        for update in updates:
            if update is None:
                continue
            parts = [np.asarray(part, np.float64) for part in update]
            if [part.shape for part in parts] != self._shapes:
                continue
            weights, norm = self._weights(parts)
            norms.append(norm)
            for into, part, weight in zip(total, parts, weights, strict=True):
                if weight > 0:  # zero times infinity is not zero
                    into += weight * part
        every = tf.constant(norms, tf.float32)
        below = self.plan.sensitivity.below_count(
            tf.constant(self._state, tf.float32), every, every, tf.ones_like(every, tf.bool)
        )
        return total, float(below)

    def _weights(self, parts: list[Array]) -> tuple[list[float], float]:
        """The weight of each array of one update, and its norm before the bound."""
        with np.errstate(over="ignore", invalid="ignore"):
            norms = [np.sqrt(np.sum(np.square(part))) for part in parts]
        each = tf.constant([norms], tf.float64)
        weights, norm = release_weights(each, self.plan.clipping.factors(each), self.bound)
        return [float(weight) for weight in weights[0]], float(norm[0])

    def release(self, updates: Sequence[Update]) -> list[Array]:
        """The noised mean update of a round; the bound of the next one follows.

        Args:
            updates: as in `clipped_sum`, one for each client that `sample` gave.

        Returns:
            float64 arrays.

        Raises:
            InputError: if the plan's rounds are spent.
        """
        self._check()
        total, below = self.clipped_sum(updates)
        mechanism = self.plan.mechanism(self.rounds)
        sizes = [into.size for into in total]
        normals = self._normals(1 + sum(sizes))
        stddev = float(mechanism.noise_stddev(self._state))
        noise = np.split(stddev * normals[1:], np.cumsum(sizes)[:-1])
        self._state = float(
            self.plan.sensitivity.next_state(
                tf.constant(self._state, tf.float32),
                tf.constant(below, tf.float32),
                tf.constant(mechanism.split_noise()[1] * normals[0], tf.float32),
                self.plan.num_microbatches,
            )
        )
        self.rounds += 1
        expected = self.plan.num_microbatches
        return [
            (into + part.reshape(into.shape)) / expected
            for into, part in zip(total, noise, strict=True)
        ]

    def _normals(self, count: int) -> Array:
        key = randomness.step_key(self._noise_key, self.rounds).to_bytes(32, "big")
        found: Any = standard_normals(count, np.frombuffer(key[:16], np.int64))
        return np.asarray(found, np.float64)

    def _check(self) -> None:
        if self.rounds >= self.plan.steps:
            raise InputError(f"The plan's {self.plan.steps} rounds are spent.")
