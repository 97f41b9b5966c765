"""Losses are evaluated for one record at a time: none can mix records through labels or outputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.training.record_losses import check_loss, per_example_loss

rng = np.random.default_rng(0)
OUTPUTS = rng.uniform(0.1, 0.9, (6, 1)).astype("float32")
MANY = rng.uniform(0.1, 0.9, (6, 4)).astype("float32")
LABELS = rng.uniform(0.1, 0.9, 6).astype("float32")
CLASSES = np.array([0, 0, 1, 1, 2, 3])


def standardised(y, p):
    return tf.square((y - tf.reduce_mean(y)) / (tf.math.reduce_std(y) + 1e-3) - p)[:, 0]


def balanced(y, p):
    counts = tf.reduce_sum(tf.cast(y[:, None] == y[None], tf.float32), axis=1)
    return keras.losses.sparse_categorical_crossentropy(y, p) / counts


def hardest_triplet(y, p):
    distances = tf.norm(p[:, None] - p[None], axis=-1)
    same = tf.cast(y[:, None] == y[None], tf.float32)
    return tf.reduce_max(distances * same, 1) - tf.reduce_min(distances + 9 * same, 1) + 1.0


def contrastive(y, p):
    similar = tf.matmul(p, p, transpose_b=True)
    same = tf.cast(tf.reshape(y, (-1, 1)) == tf.reshape(y, (1, -1)), tf.float32)
    return tf.reduce_logsumexp(similar, 1) - tf.reduce_mean(similar * same, 1)


def ranked(y, p):
    return tf.square(tf.cast(tf.argsort(p[:, 0]), tf.float32) - y)


def counting(variable):
    def loss(y, p):
        variable.assign_add(1.0)
        return tf.square(y[:, None] - p)[:, 0] * variable

    return loss


MIXING = {
    "circle": (keras.losses.Circle(), CLASSES, MANY),
    "standardised": (standardised, LABELS, OUTPUTS),
    "balanced": (balanced, CLASSES, MANY),
    "hardest triplet": (hardest_triplet, CLASSES, MANY),
    "contrastive": (contrastive, CLASSES, MANY),
    "ranked": (ranked, LABELS, OUTPUTS),
    "counting": (counting(tf.Variable(0.0)), LABELS, OUTPUTS),
    "drawing": (lambda y, p: tf.square(p[:, 0] - y) * tf.random.uniform([]), LABELS, OUTPUTS),
    "batch norm of outputs": (
        lambda y, p: tf.square((p - tf.reduce_mean(p, 0))[:, 0] - y),
        LABELS,
        OUTPUTS,
    ),
}


@pytest.mark.parametrize("name", MIXING)
def test_losses_that_compare_records_are_refused(name):
    with pytest.raises(kd.InputError, match=r"^loss must be"):
        check_loss(*MIXING[name])


HONEST = {
    "poisson": ("poisson", LABELS, OUTPUTS),
    "hinge": ("hinge", LABELS, OUTPUTS),
    "mse": ("mse", LABELS, OUTPUTS),
    "plain": (lambda y, p: tf.reduce_mean((y - p) ** 2, axis=-1), LABELS, OUTPUTS),
    "one number": (lambda y, p: tf.reduce_mean((y - p) ** 2), LABELS, OUTPUTS),
    "sum": (lambda y, p: tf.reduce_sum((y - p) ** 2), LABELS, OUTPUTS),
    "sparse": ("sparse_categorical_crossentropy", CLASSES, MANY),
    "sparse in a column": ("sparse_categorical_crossentropy", CLASSES[:, None], MANY),
    "one hot": ("categorical_crossentropy", np.eye(4, dtype="float32")[CLASSES], MANY),
    "focal": (keras.losses.CategoricalFocalCrossentropy(), np.eye(4)[CLASSES], MANY),
    "huber": (keras.losses.Huber(), LABELS, OUTPUTS),
    "cosine": (keras.losses.CosineSimilarity(), MANY[::-1].copy(), MANY),
    "per class": (kd.PerClassBinaryCrossentropy(), CLASSES, MANY),
    "dice": (keras.losses.Dice(axis=-1), np.eye(4, dtype="float32")[CLASSES], MANY),
}


def traced(function, y, outputs):
    """The function in a graph, as a step has it, for any number of records."""
    specs = [tf.TensorSpec((None, *part.shape[1:]), part.dtype) for part in (y, outputs)]
    return tf.function(function, specs, autograph=False)


@pytest.mark.parametrize("name", HONEST)
def test_losses_of_single_records_pass_and_are_their_values_one_by_one(name):
    loss, y, outputs = HONEST[name]
    check_loss(loss, y, outputs)
    values = traced(per_example_loss(loss), y, outputs)
    together = values(tf.constant(y), tf.constant(outputs)).numpy()
    rows = [slice(i, i + 1) for i in range(6)]
    alone = [values(tf.constant(y[row]), tf.constant(outputs[row])).numpy()[0] for row in rows]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


@pytest.mark.parametrize("name", [*MIXING, *HONEST])
def test_no_loss_lets_one_record_touch_another(name):
    """By construction: it holds for the losses that are refused, too."""
    loss, y, outputs = {**MIXING, **HONEST}[name]
    if name == "drawing" or name == "counting":
        return  # refused for what they are, not for mixing
    values = per_example_loss(loss)

    def found(labels, predicted):
        with tf.GradientTape() as tape:
            tape.watch(predicted)
            total = tf.reduce_sum(values(labels, predicted)[1:])
        return tf.convert_to_tensor(tape.gradient(total, predicted, unconnected_gradients="zero"))

    of_batch = traced(found, y, outputs)

    def gradient(labels, predicted):
        return of_batch(tf.constant(labels), tf.constant(predicted)).numpy()[1:]

    changed_y, changed = y.copy(), outputs.copy()
    changed_y[0] = changed_y[-1] if y.dtype == CLASSES.dtype else np.nan
    changed[0] = np.nan
    np.testing.assert_array_equal(gradient(y, outputs), gradient(changed_y, changed))


def test_a_loss_of_the_whole_batch_would_mix():
    """The faulty twin: `(n,)` labels against `(n, 1)` outputs, as a bare function sees them."""
    plain = keras.losses.poisson
    together = plain(LABELS, OUTPUTS).numpy()
    assert together.shape == (6,)
    alone = [plain(LABELS[i : i + 1], OUTPUTS[i : i + 1]).numpy()[0] for i in range(6)]
    assert not np.allclose(together, alone)
    np.testing.assert_allclose(per_example_loss("poisson")(LABELS, OUTPUTS), alone, rtol=1e-5)
