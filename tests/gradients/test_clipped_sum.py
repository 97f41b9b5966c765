"""`kd.gradients.clipped_sum`, against records taken one at a time."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd

pytestmark = pytest.mark.usefixtures("kernels_in_use")

CAP = 0.7


def network():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)]
    )


def loss_fn(model, batch):
    outputs = model(batch["x"], training=True)
    return tf.reduce_sum(batch["scale"][:, None] * outputs**2, axis=1)


def records(count=6):
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(count, 5)).astype("float32"),
        "scale": (10.0 ** rng.uniform(-3, 2, count)).astype("float32"),
    }


def one_at_a_time(model, batch, variables):
    found = []
    for i in range(len(batch["x"])):
        one = {name: part[i : i + 1] for name, part in batch.items()}
        with tf.GradientTape() as tape:
            loss = loss_fn(model, one)
        found.append([g.numpy() for g in tape.gradient(loss, [v.value for v in variables])])
    return found


def test_each_record_is_clipped_to_the_cap():
    model, batch = network(), records()
    found = kd.gradients.clipped_sum(model, loss_fn, batch, kd.FlatClipping(), CAP)
    assert {id(v) for v in found.variables} == {id(v) for v in model.trainable_variables}
    total = [np.zeros(v.shape) for v in found.variables]
    lengths = []
    for own in one_at_a_time(model, batch, found.variables):
        lengths.append(np.sqrt(sum(np.sum(g.astype("float64") ** 2) for g in own)))
        total = [t + g * min(1.0, CAP / lengths[-1]) for t, g in zip(total, own, strict=True)]
    assert min(lengths) < CAP < max(lengths)
    assert int(found.count) == 6
    for ours, by_hand in zip(found.sums, total, strict=True):
        np.testing.assert_allclose(ours, by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_a_record_that_cannot_be_used_counts_as_zero(bad):
    model, batch = network(), records()
    batch["scale"][2] = bad
    found = kd.gradients.clipped_sum(model, loss_fn, batch, kd.FlatClipping(), CAP)
    rest = {name: np.delete(part, 2, axis=0) for name, part in batch.items()}
    without = kd.gradients.clipped_sum(model, loss_fn, rest, kd.FlatClipping(), CAP)
    assert int(found.count) == int(without.count) == 5
    for ours, other in zip(found.sums, without.sums, strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-5, atol=1e-6)


def test_it_can_be_part_of_a_function_and_clips_by_variable():
    model, batch = network(), records()
    clipping = kd.FixedLayerClipping(0.1, groups="variable")
    traced = tf.function(
        lambda part: kd.gradients.clipped_sum(model, loss_fn, part, clipping, CAP).sums
    )
    expected = kd.gradients.clipped_sum(model, loss_fn, batch, clipping, CAP).sums
    for ours, eager in zip(traced(batch), expected, strict=True):
        np.testing.assert_allclose(ours, eager, rtol=1e-5, atol=1e-6)
    assert all(np.linalg.norm(s) <= 6 * 0.1 * (1 + 1e-5) for s in expected)


@pytest.mark.parametrize(
    ("clipping", "cap", "named"),
    [("flat", 1.0, "clipping"), (kd.FlatClipping(), 0.0, "cap"), (kd.FlatClipping(), "1", "cap")],
)
def test_other_arguments_are_refused(clipping, cap, named):
    with pytest.raises(kd.InputError, match=named):
        kd.gradients.clipped_sum(network(), loss_fn, records(), clipping, cap)
