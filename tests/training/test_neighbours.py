"""Neighbours through the step for every kind of plan, same randomness: the declared bound holds."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.training import batch_selection
from keras_dpvit.training.sources import ArraySource

SHAPE = (4, 4, 1)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
FIXED = {"sensitivity": kd.FixedSensitivity(0.3)}


def a_plan(num_examples, **arguments):
    the_rest = {"batch_size": num_examples, "epochs": 1, "delta": 1e-5, "noise_multiplier": 1.0}
    return kd.PrivacyPlan(num_examples=num_examples, seed=7, **{**the_rest, **arguments})


def compiled(the_plan, jit_compile=False):
    keras.utils.set_random_seed(1)
    backbone = kd.DPViTBackbone(
        SHAPE, patch_size=2, hidden_dim=8, num_heads=2, stage_depths=(1, 1), seed=5
    )
    model = kd.DPViTClassifier(backbone, num_classes=3)
    model.compile(kd.DPKerasSGDOptimizer(the_plan, 1.0), LOSS, jit_compile=jit_compile)
    return model


def data(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 255, (n, *SHAPE)).astype("float32"), rng.integers(0, 3, n)


def replay(model, augmentation=None, chunk=64):
    """From a batch `(x, y, present)` to the step's sums and below_count, traced once."""
    trainer = model.private_trainer
    trainer.prepare(chunk, augmentation)

    traced = []

    def sums(x, y, present):
        weights = tf.ones(tf.shape(present))
        if augmentation is not None:
            seed = tf.constant([3, 4], tf.int64)
            x, y, weights, present = augmentation.apply(x, y, weights, present, seed)
        return trainer.step.clipped_sums(x, y, weights, present, trainer.state.sensitivity)[:2]

    def run(x, y, present):
        batch = [tf.constant(t) for t in (x, y, present)]
        if not traced:  # once, for batches of any size
            specs = [tf.TensorSpec((None, *t.shape[1:]), t.dtype) for t in batch]
            traced.append(tf.function(sums, input_signature=specs))
        found, below_count = traced[0](*batch)
        return found.numpy().astype("float64"), float(below_count)

    return run


PLANS = {
    "median": {},
    "median_by_variable": {"clipping": kd.MedianLayerClipping(groups="variable"), **FIXED},
    "median_by_block": {"clipping": kd.MedianLayerClipping(groups="block"), **FIXED},
    "median_by_stage": {"clipping": kd.MedianLayerClipping(groups="stage")},
    "flat": {"clipping": kd.FlatClipping(), **FIXED},
    "fixed_layer": {"clipping": kd.FixedLayerClipping(0.1), **FIXED},
    "automatic": {"clipping": kd.AutomaticClipping(), "sensitivity": kd.FixedSensitivity(1.0)},
    "automatic_by_layer": {"clipping": kd.AutomaticClipping(layerwise=True), **FIXED},
}


@pytest.mark.parametrize("name", PLANS)
def test_one_record_moves_the_sum_by_at_most_the_declared_sensitivity(name, record):
    the_plan = a_plan(12, **PLANS[name])
    model = compiled(the_plan)
    run, trainer = replay(model), model.private_trainer
    declared = float(the_plan.mechanism().sensitivity(trainer.state.sensitivity))
    x, y = data(12)
    less, less_below_count = run(x, y, np.ones(12, bool))
    rounding = 1e-5 * np.linalg.norm(less)
    moves = {}
    for kind in ("ordinary", "adversarial", "huge", "nan", "infinite"):
        more, more_below_count = run(
            np.concatenate([x, record(kind)]), np.append(y, 1), np.ones(13, bool)
        )
        moves[kind] = np.linalg.norm(more - less)
        assert abs(more_below_count - less_below_count) <= 0.5
    assert max(moves.values()) <= declared + rounding
    assert moves["nan"] <= rounding
    assert moves["infinite"] <= rounding
    assert max(moves.values()) > 0.5 * declared  # a bound declared too large would show


def test_augmented_copies_count_as_their_one_record(record):
    the_plan = a_plan(12, **FIXED)
    model = compiled(the_plan)
    run = replay(model, kd.Augmentation(copies=3, shift=1))
    x, y = data(12)
    less, _ = run(x, y, np.ones(12, bool))
    for kind in ("ordinary", "adversarial", "nan"):
        # Last in the batch: the copies of the others are altered as before.
        more, _ = run(np.concatenate([x, record(kind)]), np.append(y, 1), np.ones(13, bool))
        assert np.linalg.norm(more - less) <= 0.3 + 1e-5 * np.linalg.norm(less)


def test_augmented_copies_are_averaged_before_clipping():
    """With copies that are all alike the sum is that of the records themselves."""
    # Under a bound that nothing reaches: the mean of copies is not their sum.
    the_plan = a_plan(5, clipping=kd.FlatClipping(), sensitivity=kd.FixedSensitivity(1e6))
    x, y = data(5)
    plain, _ = replay(compiled(the_plan))(x, y, np.ones(5, bool))
    copies = kd.Augmentation(copies=3, shift=0, mirror=False)
    averaged, _ = replay(compiled(the_plan), copies)(x, y, np.ones(5, bool))
    np.testing.assert_allclose(averaged, plain, rtol=1e-4, atol=1e-5 * np.abs(plain).max())


def microbatches(the_plan, x, y):
    source = ArraySource(x, y)
    found = batch_selection.microbatches(the_plan, source, np.arange(len(x)), bytes(32), step=0)
    return found.x, found.y, found.present


def test_a_microbatch_is_clipped_as_the_mean_of_its_records():
    the_plan = a_plan(12, microbatch_size=3, **FIXED)
    x, y = data(12)
    xs, ys, present = microbatches(the_plan, x, y)
    rows = batch_selection.rows_per_microbatch(the_plan)
    assert present.sum() == 12
    assert len(present) == 4 * rows
    model = compiled(the_plan)
    found, _ = replay(model)(xs, ys, present)
    expected = 0.0
    for unit in range(4):
        mine = slice(unit * rows, (unit + 1) * rows)
        here = present[mine]
        if not here.any():
            continue
        with tf.GradientTape() as tape:
            losses = keras.losses.sparse_categorical_crossentropy(
                ys[mine][here], model(xs[mine][here]), from_logits=True
            )
            loss = tf.reduce_sum(losses) / 3
        variables = [v for u in model.private_trainer.step._rules for v in u.variables]
        g = [t.numpy() for t in tape.gradient(loss, [v.value for v in variables])]
        norms = [
            np.sqrt(
                sum(np.sum(g[[w is v for w in variables].index(True)] ** 2) for v in u.variables)
            )
            for u in model.private_trainer.step._rules
        ]
        median, position, flat = np.median(norms), 0, []
        for unit_of_model, norm in zip(model.private_trainer.step._rules, norms, strict=True):
            for _ in unit_of_model.variables:
                flat.append(g[position].ravel() * min(1.0, median / norm))
                position += 1
        flat = np.concatenate(flat)
        expected = expected + flat * min(1.0, 0.3 / np.linalg.norm(flat))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-5)


def test_a_record_changes_one_microbatch_and_moves_the_sum_by_at_most_twice_the_norm(record):
    the_plan = a_plan(12, microbatch_size=3, **FIXED)
    run = replay(compiled(the_plan))
    assert float(the_plan.mechanism().sensitivity(0.3)) == pytest.approx(0.6)
    x, y = data(12)
    largest = 0.0
    for kind in ("ordinary", "adversarial", "huge", "nan"):
        for seed in range(4):
            x, y = data(12, seed)
            with_it = x.copy()
            with_it[11] = record(kind)[0]
            more, more_below_count = run(*microbatches(the_plan, with_it, y))
            batch, labels, present = microbatches(the_plan, x, y)
            at = np.flatnonzero((batch == x[11]).all(axis=(1, 2, 3)))
            present = present.copy()
            present[at] = False
            batch[at] = 0
            less, less_below_count = run(batch, labels, present)
            moved = np.linalg.norm(more - less)
            largest = max(largest, moved)
            assert moved <= 0.6 + 1e-5 * np.linalg.norm(less)
            assert abs(more_below_count - less_below_count) <= 1.0
    assert largest > 0.3  # so the doubling is needed


def test_a_plan_as_published_lets_one_record_move_the_sum_without_bound():
    the_plan = kd.PrivacyPlan.as_published(
        num_examples=12, batch_size=12, epochs=1, delta=1e-5, noise_multiplier=1.0, seed=3
    )
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    model = kd.make_private(network)
    model.compile(kd.DPKerasSGDOptimizer(the_plan, 1.0), "mse")
    run = replay(model)
    x, y = np.ones((12, 2), "float32"), np.zeros((12, 1), "float32")
    less, _ = run(x, y, np.ones(12, bool))
    moves = []
    for size in (1e1, 1e3, 1e5):
        far = np.concatenate([x, np.full((1, 2), size, "float32")])
        more, _ = run(far, np.zeros((13, 1), "float32"), np.ones(13, bool))
        moves.append(np.linalg.norm(more - less))
    assert moves[0] * 100 < moves[1]
    assert moves[1] * 100 < moves[2]
    assert np.isinf(float(the_plan.mechanism().sensitivity(0.0)))
    assert np.isinf(the_plan.epsilon())


@functools.cache
def one_by_one():
    return replay(compiled(a_plan(12, **FIXED)), chunk=1)


# XLA compiles for each size of a chunk: few sizes, one above what is taken at once.
@pytest.mark.parametrize(
    ("jit_compile", "sizes"), [(False, (0, 1, 5, 20, 21, 50)), (True, (0, 5, 21))]
)
def test_batches_of_any_size_are_summed_whole(jit_compile, sizes):
    run = replay(compiled(a_plan(12, **FIXED), jit_compile), chunk=20)
    for rows in sizes:
        x, y = data(rows)
        found, _ = run(x, y, np.ones(rows, bool))
        expected, _ = one_by_one()(x, y, np.ones(rows, bool))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
