"""The certified step (docs/privacy.md): clipped sums of a batch, noise, the optimizer's update."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dpvit.gradients.clipped_gradients import clipped_gradients
from keras_dpvit.gradients.layer_rules import LayerRule
from keras_dpvit.gradients.private_forward import private_forward
from keras_dpvit.layers.model_structure import outputs_of
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.training.noise_addition import standard_normals
from keras_dpvit.training.private_metrics import MetricSums
from keras_dpvit.training.record_losses import in_float32


class PrivateGradients(list[Any]):
    """Gradients that the plan's mechanism has clipped, summed and noised.

    Only a `CertifiedStep` makes them; private optimizers take nothing else.

    Args:
        gradients: tensors.
        noise_variance: scalar, the variance of the noise in each number of them; public under a
            plan that has a finite epsilon.
    """

    def __init__(self, gradients: Iterable[Any] = (), noise_variance: Any = 0.0) -> None:
        super().__init__(gradients)
        self.noise_variance = noise_variance

    def plus_public(self, others: list[Any]) -> "PrivateGradients":
        """The sum with gradients that were computed without looking at any private record.

        Privacy: adding what is public is post-processing. That `others` are is for the caller to
        see to: gradients of other private records would go past the noise.

        Args:
            others: tensors in the order and shapes of these; None adds nothing.
        """
        pairs = zip(self, others, strict=True)
        both = [a if b is None else a + b for a, b in pairs]
        return PrivateGradients(both, self.noise_variance)


class CertifiedStep:
    """Clipped, capped and noised sums over one batch, for one model under one plan.

    Guarantee: with `C` the step's cap, a function of earlier releases, one record moves the sums by
    at most the mechanism's `sensitivity`, whatever its gradient, and the optimizer is
    given the noised sums over the public divisor and nothing else.

    Args:
        model: the Keras model.
        plan: the `PrivacyPlan`.
        rules: the model's `layer_rules`.
        groups: for each of them the number of its clipping group.
        losses: one loss for each row, of `(labels, outputs, weights)`.
        rows_per_microbatch: int, rows of a batch that are clipped as one: a microbatch's records,
            or the copies of one record.
        physical_batch_size: int, rows in memory at once.
        jit_compile: bool, XLA for the forward and backward pass.
        metrics: `MetricSums` or None; their two sums come last in the vector of sums.
        loss_fn: None, or a function of the model and `x`, a batch in any structure, that gives
            float `(rows,)`; then `losses` is not asked and there are no outputs.
    """

    def __init__(
        self,
        model: Any,
        plan: PrivacyPlan,
        rules: list[LayerRule],
        groups: list[int],
        losses: Callable[[Any, Any, Any], Any],
        *,
        rows_per_microbatch: int,
        physical_batch_size: int,
        jit_compile: bool,
        metrics: MetricSums | None = None,
        loss_fn: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self._model = model
        self._plan = plan
        self._rules = rules
        self._variables = [v for rule in rules for v in rule.variables]
        self._sizes = [math.prod(v.shape) for v in self._variables]
        self._groups = groups
        self._losses = losses
        self._loss_fn = loss_fn
        self._outputs = outputs_of(model) if loss_fn is None else []
        self._rows_per_microbatch = rows_per_microbatch
        limit = max(1, physical_batch_size // rows_per_microbatch)
        self._xla = jit_compile
        self._metrics = metrics
        self._num_metrics = 0 if metrics is None else 2
        self._chunk_sizes = _chunk_sizes(plan.num_microbatches, limit, jit_compile)
        self._chunk = tf.function(self._chunk_sums, autograph=False)

    def clipped_sums(self, x: Any, y: Any, weights: Any, present: Any, state: Any) -> Any:
        """Sums over a batch of any size, in chunks.

        The batch is cut into equal parts that fit into memory. Their size is rounded up to one of
        a few, for XLA compiles and TensorFlow's kernels prepare themselves for each size that
        they meet. What pads takes no part.

        Args:
            x: `(microbatches * rows_per_microbatch, ...)`, microbatch by microbatch; in the
                structure that the model takes.
            y: labels of the rows, in the structure of its outputs.
            weights: float32 `(rows, ...)`, factors on the rows' losses.
            present: bool, which rows are records.
            state: the sensitivity's state.

        Returns:
            The sums of all variables as one vector, the count of norms below the median's bound,
            outputs and losses of all rows.
        """
        rows = self._rows_per_microbatch
        total = tf.shape(present)[0]
        microbatches = total // rows
        grain, least, most = self._chunk_sizes
        chunks = tf.maximum(1, (microbatches + most - 1) // most)
        size = (microbatches + chunks * grain - 1) // (chunks * grain) * grain
        size = tf.maximum(least, size)
        firsts = tf.zeros([chunks * size * rows - total], tf.int32)
        batch = keras.tree.map_structure(lambda t: _padded(t, firsts), (x, y, weights, present))

        def one_chunk(i: Any, sums: Any, below_count: Any, outputs: Any, losses: Any) -> Any:
            part = keras.tree.map_structure(
                lambda t: t[i * size * rows : (i + 1) * size * rows], batch
            )
            taking_part = tf.range(i * size, (i + 1) * size) < microbatches
            more, more_below_count, output, loss = self._chunk(*part, taking_part, state)
            return (
                i + 1,
                sums + more,
                below_count + more_below_count,
                [s.write(i, t) for s, t in zip(outputs, output, strict=True)],
                losses.write(i, loss),
            )

        _, sums, below_count, outputs, losses = tf.while_loop(
            lambda i, *_: i < chunks,
            one_chunk,
            (
                0,
                tf.zeros([sum(self._sizes) + self._num_metrics]),
                tf.zeros([]),
                [
                    tf.TensorArray(tf.float32, chunks, element_shape=(None, *t.shape[1:]))
                    for t in keras.tree.flatten(self._outputs)
                ],
                tf.TensorArray(tf.float32, chunks, element_shape=(None,)),
            ),
            parallel_iterations=1,
        )
        outputs = [stored.concat()[:total] for stored in outputs]
        outputs = keras.tree.pack_sequence_as(self._outputs, outputs)
        return sums, below_count, outputs, losses.concat()[:total]

    def _chunk_sums(
        self, x: Any, y: Any, weights: Any, present: Any, taking_part: Any, state: Any
    ) -> Any:
        """Clipped sums of one chunk, the count below, outputs and losses of its rows."""
        rows = self._rows_per_microbatch

        def forward() -> tuple[Any, Any]:
            with private_forward(self._model):
                return self._forward(x, y, weights)

        if rows == 1:
            taking_part &= present
        counted = present & tf.repeat(taking_part, rows)
        clipped = clipped_gradients(
            self._plan.clipping,
            self._plan.sensitivity.cap(state),
            self._rules,
            self._groups,
            forward,
            rows,
            1.0 / self._rows_averaged,
            present=counted,
            jit_compile=self._xla,
        )
        below_count = self._plan.sensitivity.below_count(
            state, clipped.norms, clipped.thresholds, taking_part
        )
        sums, gradients = clipped.weighted_sums(), clipped.gradients
        # One vector: a hundred variables would be a thousand small operations on the way.
        sums = [tf.reshape(tf.cast(s, tf.float32), [-1]) for s in sums]
        if self._metrics is not None:
            copies = rows if self._plan.microbatch_size == 1 else 1
            first, labels = gradients.aux[0], keras.tree.flatten(y)[0]
            sums.append(self._metrics.sums(gradients.losses, first, labels, counted, copies))
        return tf.concat(sums, axis=0), below_count, gradients.aux, gradients.losses

    def _forward(self, x: Any, y: Any, weights: Any) -> tuple[Any, list[Any]]:
        """The losses of some rows, and the outputs that they come from."""
        if self._loss_fn is not None:
            return tf.cast(self._loss_fn(self._model, x), tf.float32), []
        outputs = in_float32(self._model(x, training=True))
        return self._losses(y, outputs, weights), keras.tree.flatten(outputs)

    @property
    def _rows_averaged(self) -> int:
        """The public number over which a microbatch averages its rows' gradients."""
        shared = self._plan.microbatch_size
        return shared if shared > 1 else self._rows_per_microbatch

    def release(
        self, sums: Any, below_count: Any, state: Any, step: Any, noise_key: Any
    ) -> tuple[PrivateGradients, Any]:
        """Noises the sums and the count of a step.

        Args:
            sums: of all variables, one vector.
            below_count: scalar.
            state: the sensitivity's state.
            step: scalar int64; no two releases of a key share one.
            noise_key: int64 tensor of 2.

        Returns:
            The gradients for the optimizer and the sensitivity's next state.
        """
        return self.release_all(sums, below_count, state, step, noise_key)[:2]

    def release_all(
        self, sums: Any, below_count: Any, state: Any, step: Any, noise_key: Any
    ) -> tuple[PrivateGradients, Any, Any]:
        """As `release`, and the noised sums of the metrics, `(2,)` or `(0,)`."""
        plan, size = self._plan, sum(self._sizes)
        stddev, count_stddev, metrics_stddev = self._noise(step, state, below_count)
        seed = tf.random.experimental.stateless_fold_in(noise_key, step)
        normals = standard_normals(size + 1 + self._num_metrics, seed)
        noised = (sums[:size] + stddev * normals[1 : size + 1]) / plan.num_microbatches
        metrics = sums[size:] + metrics_stddev * normals[size + 1 :]
        gradients = [
            tf.reshape(part, variable.shape)
            for part, variable in zip(tf.split(noised, self._sizes), self._variables, strict=True)
        ]
        after = plan.sensitivity.next_state(
            state, below_count, count_stddev * normals[0], plan.num_microbatches
        )
        variance = (stddev / plan.num_microbatches) ** 2
        return PrivateGradients(gradients, variance), after, metrics

    def with_penalties(self, gradients: PrivateGradients) -> tuple[PrivateGradients, Any]:
        """Adds the gradients of the weights' regularizers, which look at no record.

        Returns:
            The gradients, and the penalties' sum.
        """
        regularized = [v for v in self._variables if v.regularizer is not None]
        if not regularized:
            return gradients, tf.zeros([])
        with tf.GradientTape() as tape:
            penalty = tf.add_n([tf.cast(v.regularizer(v), tf.float32) for v in regularized])
        own = tape.gradient(penalty, [v.value for v in regularized])
        more = dict(zip(map(id, regularized), own, strict=True))
        found = [
            gradient + tf.cast(more[id(v)], gradient.dtype) if id(v) in more else gradient
            for gradient, v in zip(gradients, self._variables, strict=True)
        ]
        return PrivateGradients(found, gradients.noise_variance), penalty

    def _noise(self, step: Any, state: Any, below_count: Any) -> tuple[Any, Any, Any]:
        """Standard deviations of a step's noise on the sums, on the count and on the metrics."""
        ratio = None if self._metrics is None else self._metrics.noise_ratio
        mechanisms, steps = zip(*self._plan.noise_segments(ratio), strict=True)
        level = tf.searchsorted(tf.constant(np.cumsum(steps)), [step], side="right")[0]
        level = tf.minimum(level, len(mechanisms) - 1)
        on_sums = tf.stack([mechanism.noise_stddev(state, below_count) for mechanism in mechanisms])
        on_count = tf.constant([mechanism.split_noise()[1] for mechanism in mechanisms], tf.float32)
        on_metrics = tf.constant([m.metrics_noise_stddev for m in mechanisms], tf.float32)
        return on_sums[level], on_count[level], on_metrics[level]


def _chunk_sizes(microbatches: int, limit: int, xla: bool) -> tuple[int, int, int]:
    """The step between sizes of chunks, the least and the greatest, for Poisson samples.

    A compilation by XLA costs more time and memory than what kernels prepare for a size: it gets
    five sizes if it can, up to two deviations from the mean; beyond them a sample is padded, or
    cut once more. Without XLA, sizes are a quarter of a deviation apart.

    Args:
        microbatches: int, expected in a sample.
        limit: int, microbatches at once.
        xla: bool.
    """
    chunks = math.ceil(microbatches / limit)
    deviation = math.sqrt(microbatches) / chunks
    grain = min(limit, max(1, round(deviation if xla else deviation / 4)))
    most = limit - limit % grain
    ends = (microbatches / chunks + sign * 2 * deviation for sign in (-1, 1))
    low, high = (math.ceil(end / grain) * grain for end in ends)
    # Where memory cuts more often than that, the parts have other sizes.
    return (grain, max(low, grain), high) if xla and high <= most else (grain, grain, most)


def _padded(tensor: Any, firsts: Any) -> Any:
    """The tensor with its first row at the end, as often as there are zeros in `firsts`.

    No blank that a layer might choke on; and not tf.repeat, which is forty operations for each part
    of a batch.
    """
    blank = tf.zeros([1, *tensor.shape[1:]], tensor.dtype)  # of an empty sample, whose sums are 0
    first = tf.concat([tensor[:1], blank], axis=0)
    return tf.concat([tensor, tf.gather(first, firsts)], axis=0)
