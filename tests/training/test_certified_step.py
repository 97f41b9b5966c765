"""The step against its claim: what one record can move, what noise is added, what is spent."""

import itertools
import math

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from scipy import stats

import keras_dpvit as kd
from keras_dpvit.gradients.randomness import seed_generators
from keras_dpvit.training.step import _chunk_sizes
from keras_dpvit.training.trainer import PrivateTrainer

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SHAPE = (4, 4, 1)


def plan(num_examples, batch_size=None, noise_multiplier=0.0, epochs=1, **arguments):
    return kd.PrivacyPlan(
        num_examples=num_examples,
        batch_size=batch_size or num_examples,
        epochs=epochs,
        delta=1e-5,
        noise_multiplier=noise_multiplier,
        **arguments,
    )


def small_model(noise=0.0, seed=1):
    keras.utils.set_random_seed(seed)
    return kd.DPViTClassifier(
        kd.DPViTBackbone(
            SHAPE,
            patch_size=2,
            hidden_dim=8,
            num_heads=2,
            stage_depths=(1,),
            attention_noise_stddev=noise,
            norm_noise_stddev=noise,
            seed=5,
        ),
        num_classes=3,
    )


def data(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 255, (n, *SHAPE)).astype("float32"), rng.integers(0, 3, n)


def compiled(model, the_plan, **arguments):
    model.compile(kd.DPKerasSGDOptimizer(the_plan, 1.0), LOSS, metrics=["accuracy"], **arguments)
    return model


def median_clipped_sum(model, x, y, cap):
    """Steps 2 to 4 of the design for one example at a time, in NumPy."""
    total = [np.zeros(v.shape) for v in model.trainable_variables]
    layers = [
        layer
        for layer in model._flatten_layers()
        if layer.trainable_variables and not any(c.trainable_variables for c in layer._layers)
    ]
    for i in range(len(x)):
        with tf.GradientTape() as tape:
            loss = LOSS(y[i : i + 1], model(x[i : i + 1], training=True))
        g = tape.gradient(loss, [v.value for v in model.trainable_variables])
        g = {
            id(v): t.numpy().astype("float64")
            for v, t in zip(model.trainable_variables, g, strict=True)
        }
        norms = [
            np.sqrt(sum(np.sum(g[id(v)] ** 2) for v in la.trainable_variables)) for la in layers
        ]
        median = np.median(norms)
        for layer, norm in zip(layers, norms, strict=True):
            for v in layer.trainable_variables:
                g[id(v)] = g[id(v)] / max(1.0, norm / median)
        whole = np.sqrt(sum(np.sum(t**2) for t in g.values()))
        for index, v in enumerate(model.trainable_variables):
            total[index] += g[id(v)] * min(1.0, cap / whole)
    return total


@pytest.mark.parametrize(("cap", "jit_compile"), [(0.05, False), (1e6, False), (0.05, True)])
def test_a_step_without_noise_is_the_sum_clipped_one_by_one(cap, jit_compile):
    x, y = data(6)
    the_plan = plan(6, sensitivity=kd.FixedSensitivity(cap))
    model = compiled(small_model(), the_plan, jit_compile=jit_compile)
    expected = median_clipped_sum(model, x, y, cap)
    before = [v.numpy() for v in model.trainable_variables]
    model.fit(x, y, verbose=0)
    for v, old, total in zip(model.trainable_variables, before, expected, strict=True):
        moved = (old - v.numpy()) * 6
        np.testing.assert_allclose(moved, total, rtol=2e-3, atol=2e-4 * np.abs(total).max() + 1e-6)


def test_no_noise_and_no_clipping_is_plain_sgd():
    x, y = data(8)
    private = small_model()
    plain = small_model()
    no_clip = plan(8, clipping=kd.FlatClipping(), sensitivity=kd.FixedSensitivity(1e9), epochs=3)
    compiled(private, no_clip).fit(x, y, epochs=3, verbose=0)
    plain.compile(keras.optimizers.SGD(1.0), LOSS)
    plain.fit(x, y, batch_size=8, epochs=3, verbose=0)
    for a, b in zip(private.weights, plain.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-3, atol=1e-5)


def test_memory_chunks_change_no_result():
    x, y = data(20)
    model = compiled(small_model(), plan(20, sensitivity=kd.FixedSensitivity(0.3)))
    whole, count, _ = neighbours(model, chunk=32)(x, y)
    for chunk in (1, 3, 20):
        parts, same_count, _ = neighbours(model, chunk)(x, y)
        assert same_count == count
        np.testing.assert_allclose(whole, parts, rtol=1e-4, atol=1e-6)


def test_xla_changes_no_result_whatever_the_size_of_the_sample():
    the_plan = plan(20, sensitivity=kd.FixedSensitivity(0.3))
    plain, compiled_by_xla = (
        neighbours(compiled(small_model(), the_plan, jit_compile=jit_compile), chunk=48)
        for jit_compile in (False, True)
    )
    for records in (3, 20, 44):
        x, y = data(records)
        (sums, count, _), (same_sums, same_count, _) = plain(x, y), compiled_by_xla(x, y)
        assert count == same_count
        np.testing.assert_allclose(sums, same_sums, rtol=1e-4, atol=1e-6)


@hypothesis.given(units=st.integers(1, 5000), limit=st.integers(1, 500), xla=st.booleans())
def test_chunks_fit_into_memory_and_xla_meets_five_sizes_where_a_sample_does(units, limit, xla):
    grain, least, most = _chunk_sizes(units, limit, xla)
    assert 1 <= grain <= least <= most <= limit
    assert least % grain == most % grain == 0
    if xla and units + 5 * math.sqrt(units) <= limit:
        assert (most - least) // grain < 6
        assert least <= units <= most


def neighbours(model, chunk=32):
    """A function of `(x, y)`: what a step would release before noise, and its cap.

    It is traced once, and layer noise is replayed: in one chunk, neighbours meet the same.
    """
    trainer = model.private_trainer
    trainer.prepare(chunk)
    states = [generator.state for generator in seed_generators(model)]
    seeds = [tf.identity(state.value) for state in states]
    cap = trainer.plan.mechanism().sensitivity(trainer.state.sensitivity)

    specs = [tf.TensorSpec((None, *SHAPE), tf.float32), tf.TensorSpec((None,), tf.int64)]

    @tf.function(input_signature=specs)
    def traced(x, y):
        present = tf.ones(tf.shape(y), tf.bool)
        weights = tf.ones(tf.shape(y)[:1])
        return trainer.step.clipped_sums(x, y, weights, present, trainer.state.sensitivity)[:2]

    def sums_of(x, y):
        for state, before in zip(states, seeds, strict=True):
            state.assign(before)
        sums, count = traced(tf.constant(x), tf.constant(y))
        return sums.numpy().astype("float64"), float(count), float(cap)

    return sums_of


@pytest.mark.parametrize(
    ("noise", "clipping", "sensitivity"),
    [
        (0.0, kd.MedianLayerClipping(), kd.DynamicSensitivity(initial=0.3)),
        (0.1, kd.MedianLayerClipping(), kd.DynamicSensitivity(initial=0.3)),
        (0.0, kd.FlatClipping(), kd.FixedSensitivity(0.3)),
    ],
)
def test_one_record_moves_the_sum_by_at_most_the_declared_sensitivity(
    clipping, sensitivity, noise, record
):
    x, y = data(20)
    model = compiled(small_model(noise), plan(20, clipping=clipping, sensitivity=sensitivity))
    sums_of = neighbours(model)
    less, less_count, cap = sums_of(x, y)
    # Two float32 sums of 20 records differ by rounding of their own.
    rounding = 1e-5 * np.linalg.norm(less)
    for kind in ("ordinary", "adversarial", "huge", "nan", "infinite", "one_nan_pixel"):
        # The record stands last: the others draw the same layer noise with and without it.
        more, more_count, same_cap = sums_of(np.concatenate([x, record(kind)]), np.append(y, 1))
        moved = np.linalg.norm(more - less)
        assert cap == same_cap
        assert moved <= cap + rounding, kind
        assert abs(more_count - less_count) <= 0.5
        if kind == "adversarial":
            assert moved > 0.9 * cap  # the bound is met, so a looser one would be seen
        if kind in ("nan", "infinite", "one_nan_pixel"):
            assert moved <= rounding, kind


def test_neighbours_through_a_whole_fit_are_apart_by_the_sensitivity_over_the_batch(record):
    """Two runs of `fit` with the same randomness, one record more."""
    x, y = data(12)
    cap = 0.01  # so small that an ordinary record's gradient meets it
    the_plan = plan(12, noise_multiplier=1.0, sensitivity=kd.FixedSensitivity(cap), seed=11)
    ends = []
    for extra in (0, 1):
        model = compiled(small_model(), the_plan)
        xs, ys = np.concatenate([x, record("ordinary")[:extra]]), np.append(y, [1][:extra])
        model.fit(xs, ys, verbose=0)
        ends.append(np.concatenate([v.numpy().ravel() for v in model.trainable_variables]))
    apart = np.linalg.norm(ends[0].astype("float64") - ends[1])
    assert apart == pytest.approx(cap / 12, rel=1e-2)


def noise_of_one_step(the_plan):
    """What a step adds to zero sums, as it reaches the weights, and the plan's claim for it."""
    model = keras.Sequential([keras.Input((200,)), keras.layers.Dense(150)])
    private = kd.make_private(model)
    private.compile(kd.DPKerasSGDOptimizer(the_plan, 1.0), "mse")
    trainer = private.private_trainer
    before = model.layers[0].kernel.numpy()
    # Records whose gradient is zero: the label is the prediction itself.
    x = np.zeros((the_plan.num_examples, 200), "float32")
    private.fit(x, np.zeros((the_plan.num_examples, 150), "float32"), verbose=0, epochs=1)
    return (before - model.layers[0].kernel.numpy()).ravel(), trainer


@pytest.mark.parametrize("sensitivity", [kd.FixedSensitivity(0.7), kd.DynamicSensitivity()])
def test_the_noise_has_the_declared_standard_deviation(sensitivity):
    the_plan = plan(40, noise_multiplier=1.5, sensitivity=sensitivity, seed=2)
    noise, _ = noise_of_one_step(the_plan)
    claimed = (
        float(the_plan.mechanism().noise_stddev(sensitivity.initial_state())) / the_plan.batch_size
    )
    assert stats.kstest(noise, "norm", args=(0, claimed)).pvalue > 1e-4
    for wrong in (2 / 3, 3 / 2):  # the test would see a wrong scale
        assert stats.kstest(noise, "norm", args=(0, wrong * claimed)).pvalue < 1e-12


def test_noise_is_never_drawn_twice():
    the_plan = plan(40, noise_multiplier=1.0, sensitivity=kd.FixedSensitivity(1.0))
    first, _ = noise_of_one_step(the_plan)
    second, _ = noise_of_one_step(the_plan)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    steps, _ = noise_of_one_step(plan(40, 20, 1.0, sensitivity=kd.FixedSensitivity(1.0)))
    # Two steps: independent draws add their variances (equal draws would double the deviation).
    assert np.std(steps) == pytest.approx(np.sqrt(2) / 20, rel=0.03)


def test_the_count_that_moves_the_sensitivity_is_noised_as_declared():
    sensitivity = kd.DynamicSensitivity(initial=1.0, learning_rate=0.05, floor=1e-6)
    the_plan = plan(1000, 50, 1.0, epochs=75, sensitivity=sensitivity, seed=4)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    private = kd.make_private(model)
    private.compile(kd.DPKerasSGDOptimizer(the_plan, 1e-6), "mse", jit_compile=False)
    states = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            states.append(float(private.private_trainer.state.sensitivity))

    # No record at all: the count is 0 and only its noise moves the tracked norm.
    none = np.zeros((0, 1), "float32")
    private.fit(none, none, epochs=75, verbose=0, callbacks=[Watch()])
    assert len(states) == the_plan.steps == 1500
    moves = -np.diff(np.log([1.0, *states])) / 0.05 * 50
    assert the_plan.mechanism().split_noise()[1] == 2.5
    assert stats.kstest(moves, "norm", args=(0, 2.5)).pvalue > 1e-4
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(moves, "norm", args=(0, wrong * 2.5)).pvalue < 1e-6


def test_an_empty_batch_is_a_step_with_noise():
    x, y = data(50)
    the_plan = plan(50, 1, 1.0, epochs=1, sensitivity=kd.FixedSensitivity(1.0), seed=0)
    model = compiled(small_model(), the_plan)
    sampler = the_plan.sampler(model.private_trainer.keys.sampling)
    sizes = [len(sampler.sample(50, step)) for step in range(the_plan.steps)]
    assert 0 in sizes
    changed = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            changed.append(model.get_layer("logits").kernel.numpy())

    model.fit(x, y, verbose=0, callbacks=[Watch()])
    assert len(changed) == the_plan.steps == 50
    assert all(np.abs(a - b).max() > 0.1 for a, b in itertools.pairwise(changed))
    assert np.isfinite(changed[-1]).all()


def test_the_tracked_norm_goes_to_the_median():
    x, y = data(400)
    sensitivity = kd.DynamicSensitivity(initial=20.0, count_noise_stddev=5.0)
    the_plan = plan(400, 200, 0.5, epochs=40, sensitivity=sensitivity)
    model = small_model()
    model.compile(kd.DPKerasSGDOptimizer(the_plan, 1e-9), LOSS)  # the weights stay put
    model.fit(x, y, epochs=40, verbose=0)
    trainer: PrivateTrainer = model.private_trainer
    norms = []
    for i in range(60):
        clipped = median_clipped_sum(model, x[i : i + 1], y[i : i + 1], np.inf)
        norms.append(np.sqrt(sum(np.sum(g**2) for g in clipped)))
    below = np.mean(np.array(norms) <= float(trainer.state.sensitivity))
    assert 0.3 < below < 0.7


def test_noise_changes_with_the_step_that_the_schedule_names():
    schedule = kd.StepNoise(boundaries=(0.25, 0.5), values=(1.0, 2.0, 3.0))
    model = kd.make_private(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    the_plan = plan(8, 1, noise_multiplier=1.5, noise_schedule=schedule)
    model.compile(kd.DPKerasSGDOptimizer(the_plan, 0.1), "mse")
    trainer = model.private_trainer
    trainer.prepare(64)
    for step in range(the_plan.steps):
        found = trainer.step._noise(tf.constant(step, tf.int64), trainer.state.sensitivity, 0.0)[0]
        expected = the_plan.mechanism(step).noise_stddev(trainer.state.sensitivity, 0.0)
        assert float(found) == pytest.approx(float(expected), rel=1e-6)
