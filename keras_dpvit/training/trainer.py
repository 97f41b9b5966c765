"""The certified step (design section 3) inside Keras' own `fit`."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.gradients.per_example import PerExampleGradients
from keras_dpvit.gradients.units import find_units
from keras_dpvit.privacy import randomness
from keras_dpvit.privacy.ledger import LedgerEntry
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.privacy.sensitivity import release_weights
from keras_dpvit.training import inputs
from keras_dpvit.training.losses import per_example_loss
from keras_dpvit.training.optimizers import PrivateGradients
from keras_dpvit.training.validation import validate

DEFAULT_PHYSICAL_BATCH_SIZE = 256


class PrivateTrainer:
    """Trains one model under one plan; made by a private optimizer when a model is compiled.

    Guarantee: the plan's. A step is: a Poisson sample; each record's gradient clipped by layer
    and capped at the step's sensitivity; one draw of noise on their sum; a noised count that
    moves the sensitivity of the next step. The optimizer sees the noised sum over the public
    expected batch, and nothing else. An empty sample is a step like any other. Memory chunks of
    a batch change no result but for the order of float additions.

    Args:
        model: the Keras model, `PrivatelyTrainable`.
        optimizer: the private optimizer.
        plan: the `PrivacyPlan`.
        jit_compile: bool or "auto", XLA for the part of the step that has static shapes. "auto"
            is no XLA: on CPU it was measured slower here than TensorFlow's own kernels.
    """

    def __init__(self, model: Any, optimizer: Any, plan: PrivacyPlan, jit_compile: Any) -> None:
        self._model = model
        self._optimizer = optimizer
        self.plan = plan
        self._jit_compile = jit_compile is True
        self._physical_batch_size = min(plan.batch_size, DEFAULT_PHYSICAL_BATCH_SIZE)
        # Steps that the model has on record enter a seeded key: trained on under the same seed, it
        # must not meet noise that an earlier sum has had.
        past = sum(entry.steps for entry in model.privacy_ledger.all_entries())
        self._sampling_key = randomness.new_key(plan.seed, f"sampling after {past}")
        noise_key = randomness.new_key(plan.seed, f"noise after {past}")
        # A variable, not a constant: a traced graph must not carry the key.
        self._noise_key = tf.Variable(np.frombuffer(noise_key[:16], np.int64), trainable=False)
        self._steps = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._state = tf.Variable(plan.sensitivity.initial_state(), dtype=tf.float32)
        self._steps_in_past_ledger = 0
        self._in_fit = False
        self._disclosures: dict[str, None] = {}

    @property
    def steps_done(self) -> int:
        """Steps taken under the plan that no earlier ledger holds."""
        return int(self._steps.numpy()) - self._steps_in_past_ledger

    @property
    def sensitivity_cap(self) -> float:
        """The release cap of the next step."""
        return float(self.plan.sensitivity.cap(self._state))

    def forget_steps(self) -> None:
        """The model's past ledger now holds the steps done so far."""
        self._steps_in_past_ledger = int(self._steps.numpy())

    def ledger_entry(self) -> LedgerEntry:
        """What the steps so far have cost."""
        return self.plan.entry(self.steps_done, tuple(self._disclosures))

    def fit(
        self,
        keras_fit: Callable[..., Any],
        x: Any,
        y: Any,
        *,
        physical_batch_size: int | None = None,
        epochs: int = 1,
        callbacks: Any = None,
        **arguments: Any,
    ) -> Any:
        """Runs Keras' `fit` over Poisson samples of `x` and `y`, no further than the plan goes."""
        inputs.check_fit_arguments(self.plan, arguments)
        x, y = inputs.check_arrays(self._model, x, y)
        inputs.check_size(self.plan, len(x))
        if int(self._steps.numpy()) >= self.plan.steps:
            raise InputError(
                f"The plan's {self.plan.steps} steps are spent: compile the model with a new plan; "
                "its cost will be added."
            )
        self._prepare(physical_batch_size)
        validate(self._model, self._losses, y[:1])
        self._note_disclosures(arguments)
        callbacks = [*(callbacks or []), _StopWithPlan(self)]
        self._in_fit = True
        try:
            return keras_fit(
                self._batches(x, y),
                epochs=epochs,
                steps_per_epoch=self.plan.steps_per_epoch,
                callbacks=callbacks,
                shuffle=False,  # a Poisson sample has no order
                **arguments,
            )
        finally:
            self._in_fit = False

    def _prepare(self, physical_batch_size: int | None) -> None:
        if physical_batch_size is not None:
            _validate.positive_int(physical_batch_size=physical_batch_size)
            if physical_batch_size != self._physical_batch_size:
                self._physical_batch_size = physical_batch_size
                self._model.train_function = None  # traced for another chunk
        self._units = find_units(self._model)
        self._variables = [v for unit in self._units for v in unit.variables]
        self._losses = per_example_loss(self._model.loss)
        if self._model.losses:
            raise InputError(
                "add_loss and regularizers cannot be used in private training: their gradients "
                "are no record's own."
            )
        if isinstance(self._model.optimizer, keras.optimizers.LossScaleOptimizer):
            raise InputError("optimizer must not be a LossScaleOptimizer: it skips steps by data.")
        self._seed_states = [
            part.state for layer in self._model._flatten_layers() for part in _generators(layer)
        ]
        self._chunk = tf.function(self._chunk_sums, jit_compile=self._jit_compile, autograph=False)

    def _note_disclosures(self, arguments: dict[str, Any]) -> None:
        self._disclosures["Training loss and metrics as shown by fit."] = None
        if arguments.get("validation_data") is not None:
            self._disclosures["Validation metrics as shown by fit."] = None

    def _batches(self, x: np.ndarray, y: np.ndarray) -> tf.data.Dataset:
        sampler = self.plan.sampler(self._sampling_key)

        def samples() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for rows in sampler.steps_from(len(x), int(self._steps.numpy())):
                yield x[rows], y[rows]

        signature = tuple(tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in (x, y))
        return tf.data.Dataset.from_generator(samples, output_signature=signature).prefetch(2)

    def train_step(self, data: tuple[Any, Any]) -> dict[str, Any]:
        """One step over one Poisson sample `(x, y)`; traced by Keras."""
        if not self._in_fit:
            raise InputError(
                "A private step runs inside fit(x, y) alone: its batch must be sampled."
            )
        x, y = data
        cap = self.plan.sensitivity.cap(self._state)
        sums, count_below, outputs, losses = self._sums_of_batch(x, y, cap)
        self._release(sums, count_below, cap)
        return self._update_metrics(y, outputs, losses)

    def _sums_of_batch(self, x: Any, y: Any, cap: Any) -> tuple[list[Any], Any, Any, Any]:
        """Clipped sums over a batch of any size, in chunks of one static size."""
        size = self._physical_batch_size
        records = tf.shape(y)[0]
        chunks = tf.maximum(1, (records + size - 1) // size)
        x, y = (_padded(tensor, chunks * size) for tensor in (x, y))
        classes = self._model.output_shape[1:]

        def one_chunk(i: Any, sums: Any, below: Any, outputs: Any, losses: Any) -> Any:
            rows = tf.range(i * size, (i + 1) * size)
            part_x, part_y = (
                tf.ensure_shape(t[i * size : (i + 1) * size], (size, *t.shape[1:])) for t in (x, y)
            )
            more, more_below, output, loss = self._finite_chunk(
                part_x, part_y, tf.less(rows, records), cap
            )
            sums = [a + b for a, b in zip(sums, more, strict=True)]
            return i + 1, sums, below + more_below, outputs.write(i, output), losses.write(i, loss)

        _, sums, below, outputs, losses = tf.while_loop(
            lambda i, *_: i < chunks,
            one_chunk,
            (
                0,
                [tf.zeros(v.shape) for v in self._variables],
                tf.zeros([]),
                tf.TensorArray(tf.float32, chunks, element_shape=(size, *classes)),
                tf.TensorArray(tf.float32, chunks, element_shape=(size,)),
            ),
            parallel_iterations=1,
        )
        return sums, below, outputs.concat()[:records], losses.concat()[:records]

    def _finite_chunk(self, x: Any, y: Any, taking_part: Any, cap: Any) -> Any:
        """A chunk's sums; records without a usable gradient leave no trace in them.

        Their weight is 0, but activations that overflowed turn 0 into NaN inside a product with
        the other records. Then the chunk runs again with blank images in their place and the
        layers' own noise drawn as before, so that every other record's gradient is the same.
        """
        seeds = [tf.identity(state.value) for state in self._seed_states]
        first = self._chunk(x, y, taking_part, cap)

        def again() -> Any:
            for state, before in zip(self._seed_states, seeds, strict=True):
                state.assign(before)
            usable = first[4]
            mask = tf.reshape(usable, (-1,) + (1,) * (x.shape.rank - 1))
            blanked = tf.where(mask, x, tf.zeros([], x.dtype))
            sums, below, output, loss, _ = self._chunk(blanked, y, taking_part & usable, cap)
            # Weights that overflow on a blank image leave no gradient worth the name.
            sums = [tf.where(tf.math.is_finite(s), s, 0.0) for s in sums]
            # A dropped record's norm counts as 0, here as in a chunk that needs no second run.
            dropped = tf.cast(taking_part & ~usable, tf.float32)
            return sums, below + 0.5 * tf.reduce_sum(dropped), output, loss

        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(s)) for s in first[0]])
        return tf.cond(finite, lambda: first[:4], again)

    def _chunk_sums(self, x: Any, y: Any, taking_part: Any, cap: Any) -> Any:
        """Clipped sums of one chunk of static size; the part that XLA compiles."""

        def forward() -> tuple[Any, Any]:
            outputs = tf.cast(self._model(x, training=True), tf.float32)
            return self._losses(y, outputs), outputs

        gradients = PerExampleGradients(self._units, forward)
        layer_norms = gradients.layer_norms()
        factors = self.plan.clipping.factors(layer_norms)
        weights, norms = release_weights(layer_norms, factors, cap)
        usable = tf.reduce_all(tf.math.is_finite(layer_norms), axis=1)
        weights = tf.where(taking_part[:, None], weights, 0.0)
        below = self.plan.sensitivity.count_below(self._state, norms, taking_part)
        return gradients.weighted_sums(weights), below, gradients.aux, gradients.losses, usable

    def _release(self, sums: list[Any], count_below: Any, cap: Any) -> None:
        """Noises the sums and the count, and moves weights, sensitivity and step counter."""
        plan = self.plan
        seed = tf.random.experimental.stateless_fold_in(self._noise_key, self._steps)
        seeds = tf.unstack(tf.random.experimental.stateless_split(seed, len(sums) + 1))
        stddev = plan.gradient_noise_multiplier * cap
        noised = [
            (total + stddev * tf.random.stateless_normal(total.shape, own)) / plan.batch_size
            for total, own in zip(sums, seeds[:-1], strict=True)
        ]
        count_noise = plan.count_noise_stddev * tf.random.stateless_normal([], seeds[-1])
        self._steps.assign_add(1)
        self._state.assign(
            plan.sensitivity.next_state(self._state, count_below, count_noise, plan.batch_size)
        )
        self._optimizer.apply(PrivateGradients(noised), self._variables)

    def _update_metrics(self, y: Any, outputs: Any, losses: Any) -> dict[str, Any]:
        finite = tf.math.is_finite(losses)
        shown = tf.math.divide_no_nan(
            tf.reduce_sum(tf.where(finite, losses, 0.0)), tf.reduce_sum(tf.cast(finite, tf.float32))
        )
        self._model._loss_tracker.update_state(shown, sample_weight=tf.shape(losses)[0])
        logs: dict[str, Any] = self._model.compute_metrics(None, y, outputs, sample_weight=None)
        return logs


class _StopWithPlan(keras.callbacks.Callback):
    """Ends `fit` at the plan's last step."""

    def __init__(self, trainer: PrivateTrainer) -> None:
        super().__init__()
        self._trainer = trainer

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if int(self._trainer._steps.numpy()) >= self._trainer.plan.steps:
            self.model.stop_training = True


def _padded(tensor: Any, length: Any) -> Any:
    padding = [[0, length - tf.shape(tensor)[0]]] + [[0, 0]] * (tensor.shape.rank - 1)
    return tf.pad(tensor, padding)


def _generators(layer: Any) -> list[Any]:
    return [v for v in vars(layer).values() if isinstance(v, keras.random.SeedGenerator)]
