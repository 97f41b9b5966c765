"""Scores of how much a training shows of each canary: by its loss, or by every noisy sum."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dpvit.auditing.canaries import Canaries
from keras_dpvit.errors import InputError
from keras_dpvit.gradients.clipped_gradients import clipped_gradients
from keras_dpvit.gradients.layer_rules import clipping_groups, layer_rules
from keras_dpvit.gradients.private_forward import private_forward
from keras_dpvit.training.record_losses import per_example_loss

_ROWS_AT_ONCE = 256


def example_losses(model: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The compiled loss of each record as the model stands, float array `(records,)`."""
    loss = per_example_loss(model.loss)
    outputs = model.predict(x, batch_size=_ROWS_AT_ONCE, verbose=0)
    return np.asarray(loss(y, tf.cast(outputs, tf.float32)), float)


class LossScores(keras.callbacks.Callback):
    """Black box: by how much the loss of each canary fell, from the first weights to the last.

    Args:
        canaries: the `Canaries`; their coins are not looked at.
    """

    def __init__(self, canaries: Canaries) -> None:
        super().__init__()
        self._x, self._y = canaries.x, canaries.y

    def on_train_begin(self, logs: Any = None) -> None:
        self._first = example_losses(self.model, self._x, self._y)

    def on_train_end(self, logs: Any = None) -> None:
        self.scores = self._first - example_losses(self.model, self._x, self._y)


class ClippedRecords:
    """Clipped gradients of given records at a model's present weights, as its plan clips them.

    Args:
        model: a model compiled with a private optimizer, whose plan clips single records.
        x: array `(records, ...)`.
        y: array `(records,)`.
    """

    def __init__(self, model: Any, x: np.ndarray, y: np.ndarray) -> None:
        trainer = model.private_trainer
        self._model, self._plan, self._state = model, trainer.plan, trainer.state.sensitivity
        self._losses = per_example_loss(model.loss)
        by = self._plan.clipping.groups
        self._rules = layer_rules(model, by_variable=by == "variable")
        self._groups = clipping_groups(model, self._rules, by)
        self.variables = [v for rule in self._rules for v in rule.variables]
        self._chunks = [
            (tf.constant(x[i : i + _ROWS_AT_ONCE]), tf.constant(y[i : i + _ROWS_AT_ONCE]))
            for i in range(0, len(x), _ROWS_AT_ONCE)
        ]
        rows = [tf.TensorSpec((None, *t.shape[1:]), t.dtype) for t in (x, y)]
        like = [tf.TensorSpec(v.shape, tf.float32) for v in self.variables]
        self._sum = tf.function(self._chunk_sum, rows, autograph=False)
        self._products = tf.function(self._chunk_products, [*rows, like], autograph=False)

    def sum(self) -> list[Any]:
        """The records' clipped gradients added up, variable by variable."""
        parts = [self._sum(*chunk) for chunk in self._chunks]
        return [tf.add_n(list(part)) for part in zip(*parts, strict=True)]

    def products(self, directions: list[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Each clipped gradient's inner product with a direction and with itself, layer by layer.

        Args:
            directions: one tensor for each of `variables`.

        Returns:
            Float arrays `(records, layers)` and `(records, layers)`.
        """
        parts = [self._products(*chunk, directions) for chunk in self._chunks]
        products, squares = zip(*parts, strict=True)
        return np.concatenate(products).astype(float), np.concatenate(squares).astype(float)

    def _gradients(self, x: Any, y: Any) -> tuple[Any, Any, Any]:
        def forward() -> tuple[Any, Any]:
            with private_forward(self._model):
                outputs = tf.cast(self._model(x, training=True), tf.float32)
            return self._losses(y, outputs), outputs

        found = clipped_gradients(
            self._plan.clipping,
            self._plan.sensitivity.cap(self._state),
            self._rules,
            self._groups,
            forward,
        )
        squares = tf.cast(found.gradients.layer_norms() ** 2, tf.float32)
        return found.gradients, found.weights, found.weights**2 * squares

    def _chunk_sum(self, x: Any, y: Any) -> list[Any]:
        gradients, weights, _ = self._gradients(x, y)
        return gradients.weighted_sums(weights)

    def _chunk_products(self, x: Any, y: Any, directions: list[Any]) -> tuple[Any, Any]:
        gradients, weights, squares = self._gradients(x, y)
        # A weighted sum is linear in its weights: what its product with a direction owes to one
        # weight is that record's own product.
        with tf.GradientTape() as tape:
            tape.watch(weights)
            sums = gradients.weighted_sums(weights)
            total = tf.add_n([tf.reduce_sum(s * d) for s, d in zip(sums, directions, strict=True)])
        products = weights * tape.gradient(total, weights)
        # A step counts such a record as zero; here it tells that the training has diverged.
        return tf.where(gradients.usable[:, None], products, math.nan), squares


class GradientScores(keras.callbacks.Callback):
    """White box: how much likelier every noisy sum is with each canary than without it.

    Plain SGD moves the weights by the released noisy mean gradient, so that weights before and
    after a step give it away; what is expected of all records is taken off. Looked at are its
    inner products `p` with a canary's clipped gradient, layer by layer. A canary that is in the
    step adds `s`, its layers' squared norms; the rest, noise and other canaries, is taken as
    Gaussian of the covariance V that the products of all canaries show. A step adds to the score
    `log(1 - q + q exp(s V^-1 (p - s / 2)))`, q the sampling probability.

    Args:
        canaries: the `Canaries`; their coins are not looked at.
        x: array `(records, ...)`, the records that are known to be in the training data.
        y: array `(records,)`, their labels.

    Raises:
        InputError: when training begins, unless under plain SGD and Poisson sampling of records.
    """

    def __init__(self, canaries: Canaries, x: np.ndarray, y: np.ndarray) -> None:
        super().__init__()
        self._canaries = canaries
        self._known = x, y
        self.scores = np.zeros(len(canaries))

    def on_train_begin(self, logs: Any = None) -> None:
        trainer = getattr(self.model, "private_trainer", None)
        optimizer = self.model.optimizer
        if trainer is None or not isinstance(optimizer, keras.optimizers.SGD) or optimizer.momentum:
            raise InputError("score=gradient needs a private SGD optimizer without momentum.")
        self._plan = trainer.plan
        if self._plan.sampling != "poisson" or self._plan.microbatch_size > 1:
            raise InputError("score=gradient needs Poisson sampling without microbatches.")
        self._planted = ClippedRecords(self.model, self._canaries.x, self._canaries.y)
        self._fixed = ClippedRecords(self.model, *self._known) if len(self._known[0]) else None
        self._variables = self._planted.variables

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._before = [tf.identity(v.value) for v in self._variables]
        self._expected = [0.5 * total for total in self._planted.sum()]
        if self._fixed is not None:
            both = zip(self._expected, self._fixed.sum(), strict=True)
            self._expected = [a + b for a, b in both]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        probability = self._plan.sampling_probability
        scale = self._plan.batch_size / float(self.model.optimizer.learning_rate)
        after = [tf.identity(v.value) for v in self._variables]
        rest = [
            scale * (before - now) - probability * expected
            for before, now, expected in zip(self._before, after, self._expected, strict=True)
        ]
        self._assign(self._before)
        products, squares = self._planted.products(rest)
        self._assign(after)
        self.scores += step_log_likelihoods(products, squares, probability)

    def _assign(self, values: list[Any]) -> None:
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)


def step_log_likelihoods(
    products: np.ndarray, squares: np.ndarray, probability: float
) -> np.ndarray:
    """Log-likelihood ratio of one step's release for each canary: may it have been in or not.

    Args:
        products: float array `(canaries, layers)`, clipped gradient times what the step released.
        squares: float array `(canaries, layers)`, squared norms of the clipped gradients.
        probability: float in (0, 1], with which a record enters the step.

    Raises:
        InputError: if a product is not finite.
    """
    if not np.isfinite(products).all():
        raise InputError("learning_rate must be lower: the training has diverged.")
    centred = products - products.mean(axis=0)
    spread = centred.T @ centred / len(centred)
    directions = squares @ np.linalg.pinv(spread, rcond=1e-6, hermitian=True)
    exponents = np.sum(directions * (centred - 0.5 * squares), axis=1)
    with np.errstate(divide="ignore"):
        return np.logaddexp(np.log1p(-probability), np.log(probability) + exponents)
