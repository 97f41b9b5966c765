"""Training loss and accuracy with noise: their sensitivity, their noise, what they cost."""

import math

import dp_accounting
import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from sklearn.datasets import load_digits

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.privacy.mechanism import StepMechanism
from keras_dpvit.privacy.sensitivity import PublishedSensitivity
from keras_dpvit.training import batch_selection
from keras_dpvit.training.noise_addition import standard_normals
from keras_dpvit.training.private_metrics import MetricSums, PrivateMetrics, metric_sums

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
STEP = math.sqrt(0.5)


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return x[:200].astype("float32"), y[:200]


def a_plan(**changes):
    arguments = {
        "num_examples": 200, "batch_size": 100, "epochs": 4, "delta": 1e-4,
        "noise_multiplier": 1.0, "seed": 3, "sensitivity": kd.FixedSensitivity(1.0),
    }  # fmt: skip
    return kd.PrivacyPlan(**{**arguments, **changes})


def compiled(rate=0.01, loss=LOSS, outputs=10, jit_compile=False, **changes):
    keras.utils.set_random_seed(1)
    model = kd.make_private(keras.Sequential([keras.Input((64,)), keras.layers.Dense(outputs)]))
    optimizer = kd.DPKerasSGDOptimizer(a_plan(**changes), rate)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=jit_compile)
    return model


# The sums by themselves.


def sums(losses, right, present=None, copies=1, metrics=None):
    """Of rows with these losses, whose answers are right or not."""
    metrics = metrics or MetricSums(4.0, 10.0, "classes")
    rows = len(losses)
    outputs = np.where(np.asarray(right)[:, None], [[0.0, 1.0]], [[1.0, 0.0]]).astype("float32")
    present = np.ones(rows, bool) if present is None else present
    values = tf.constant(losses, tf.float32)
    return metrics.sums(values, outputs, np.ones(rows, "int64"), present, copies).numpy()


def test_each_record_adds_its_clipped_loss_and_its_answer():
    np.testing.assert_allclose(sums([0.0, 4.0, 2.0], [True, True, False]), [0.0, 0.5])
    np.testing.assert_allclose(sums([1.0], [True]), [-0.25, 0.5])
    np.testing.assert_allclose(sums([1.0, 9.0], [True, True], [True, False]), [-0.25, 0.5])
    np.testing.assert_allclose(sums([], np.zeros(0, bool)), [0.0, 0.0])


@pytest.mark.parametrize("loss", [0.0, 1.3, 4.0, 1e30, -1e30, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("right", [True, False])
def test_a_record_moves_the_sums_by_at_most_the_declared_sensitivity(loss, right):
    less = sums([0.3, 2.0], [True, False])
    more = sums([0.3, 2.0, loss], [True, False, right])
    moved = np.linalg.norm(more - less)
    assert moved <= STEP + 1e-6
    assert np.isfinite(more).all()
    if not np.isfinite(loss):
        assert moved == 0.0


def test_copies_count_as_their_one_record():
    copies = sums([0.0, 4.0, 4.0, 4.0], [True, False, False, False], copies=2)
    np.testing.assert_allclose(copies, [0.0 + 0.5, 0.0 - 0.5])
    assert np.linalg.norm(sums([9.0] * 3, [True] * 3, copies=3)) <= STEP + 1e-6


class Unclipped(MetricSums):
    def sums(self, losses, outputs, labels, present, copies):
        right = self._right(outputs, labels)
        return tf.stack([tf.reduce_sum(losses / self.max_loss - 0.5), tf.reduce_sum(right)])


def test_faulty_twin_without_clipping_moves_further():
    twin = Unclipped(4.0, 10.0, "classes")
    moved = sums([0.3, 9.0], [True, True], metrics=twin) - sums([0.3], [True], metrics=twin)
    assert np.linalg.norm(moved) > STEP
    assert np.isnan(sums([0.3, np.nan], [True, True], metrics=twin)).any()


KINDS = {
    "classes": ("sparse_categorical_crossentropy", 10, np.array([3]), "classes", 2 * math.log(10)),
    "a column": (LOSS, 10, np.array([[3]]), "classes", 2 * math.log(10)),
    "one hot": ("categorical_crossentropy", 3, np.eye(3)[:1], "one_hot", 2 * math.log(3)),
    "each class": (kd.PerClassBinaryCrossentropy(), 3, np.eye(3)[:1], "one_hot", 2 * math.log(3)),
    "binary": ("binary_crossentropy", 1, np.array([1]), "binary", 2 * math.log(2)),
    "regression": ("mse", 1, np.array([0.3]), "", 4.0),
    "many values": ("mse", 3, np.ones((1, 3)), "", 4.0),
    "hinge": ("hinge", 1, np.array([1]), "", 4.0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_told_where_labels_are_classes(kind):
    loss, outputs, labels, answers, max_loss = KINDS[kind]
    model = compiled(loss=loss, outputs=outputs)
    found = metric_sums(PrivateMetrics(), a_plan(), model, labels)
    assert (found.answers, found.max_loss) == (answers, pytest.approx(max_loss))
    assert set(found.shown([0.0, 0.0], 5)) == (
        {"private_loss", "private_accuracy"} if answers else {"private_loss"}
    )


def test_one_hot_and_binary_answers():
    present, losses = np.ones(3, bool), tf.zeros(3)
    outputs = tf.constant([[0.0, 2.0], [3.0, 1.0], [0.0, 1.0]])
    labels = tf.constant([[0, 1], [0, 1], [0, 1]])
    one_hot = MetricSums(1.0, 10.0, "one_hot")
    assert one_hot.sums(losses, outputs, labels, present, 1)[1] == 0.5
    binary = MetricSums(1.0, 10.0, "binary", threshold=0.5)
    outputs, labels = tf.constant([[0.9], [0.4], [0.6]]), tf.constant([[1.0], [0.0], [0.0]])
    assert binary.sums(losses, outputs, labels, present, 1)[1] == 0.5
    logits = compiled(loss=keras.losses.BinaryCrossentropy(from_logits=True), outputs=1)
    assert metric_sums(PrivateMetrics(), a_plan(), logits, np.array([1])).threshold == 0.0


# The budget.


@pytest.mark.parametrize("noise_multiplier", [0.5, 1.1, 4.0])
@pytest.mark.parametrize("ratio", [1.5, 10.0])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("rule", [kd.FixedSensitivity(), kd.DynamicSensitivity()])
def test_all_releases_of_a_step_are_one_gaussian_of_the_plans_multiplier(
    noise_multiplier, ratio, shared, rule
):
    mechanism = StepMechanism(noise_multiplier, rule, 400, shared, 0.1, ratio)
    gradient, count = mechanism.split_noise()
    moved, cap = mechanism.units_moved, 0.7
    moves = [
        moved * cap / (gradient * cap),
        moved * 0.5 / count if count else 0.0,
        mechanism.metrics_sensitivity / mechanism.metrics_noise_stddev,
    ]
    assert math.hypot(*moves) == pytest.approx(1 / mechanism.event_noise_multiplier)
    without = StepMechanism(noise_multiplier, rule, 400, shared, 0.1)
    assert mechanism.event() == without.event()
    assert gradient > without.split_noise()[0]
    # Each release as an event of its own comes to the same.
    together = dp_accounting.rdp.RdpAccountant()
    for move in moves:
        if move:
            together.compose(dp_accounting.GaussianDpEvent(1 / move))
    one = dp_accounting.rdp.RdpAccountant()
    one.compose(dp_accounting.GaussianDpEvent(mechanism.event_noise_multiplier))
    assert together.get_epsilon(1e-5) == pytest.approx(one.get_epsilon(1e-5))
    # The faulty twin: metrics for nothing, with the gradient's noise as it was.
    faulty = math.hypot(moved / without.split_noise()[0], *moves[1:])
    assert faulty > 1 / mechanism.event_noise_multiplier * (1 + 1e-3)


def test_the_gradient_pays_half_a_percent_at_the_default():
    mechanism = StepMechanism(1.0, kd.FixedSensitivity(), 100, metrics_noise_ratio=10.0)
    assert mechanism.split_noise()[0] == pytest.approx(1.00504, abs=1e-5)
    assert mechanism.metrics_noise_stddev == pytest.approx(10 * STEP)


# The step.


def released(model, metrics, x, y, trials=1):
    """Noised metric sums of many steps over the same rows, and their sums before noise."""
    trainer = model.private_trainer
    trainer.prepare(64, None, metrics)
    present = np.ones(len(x), bool)
    x, y, weights, present = (tf.constant(a) for a in (x, y, np.ones(len(x), "float32"), present))
    clipped, below_count, *_ = trainer.step.clipped_sums(
        x, y, weights, present, trainer.state.sensitivity
    )

    @tf.function(autograph=False)
    def run(steps):
        return tf.map_fn(
            lambda step: trainer.step.release_all(
                clipped, below_count, trainer.state.sensitivity, step, trainer.keys.noise
            )[2],
            steps,
            fn_output_signature=tf.float32,
        )

    return run(tf.range(trials, dtype=tf.int64)).numpy(), clipped.numpy()[-2:]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_one_record_moves_a_steps_metrics_and_none_other(digits, jit_compile):
    """Through the chunks, a record whose gradient overflows among them."""
    x, y = digits[0][:9], digits[1][:9]
    metrics = MetricSums(4.0, 10.0, "classes")
    model = compiled(num_examples=9, batch_size=9, jit_compile=jit_compile)
    _, before = released(model, metrics, x, y)
    for value in (5.0, 1e6, 3e38, np.nan, np.inf):
        extra = np.full((1, 64), value, "float32")
        _, after = released(model, metrics, np.concatenate([x, extra]), np.append(y, 1))
        assert np.linalg.norm(after - before) <= STEP + 1e-4
        assert np.isfinite(after).all()
    np.testing.assert_allclose(after, before, atol=1e-5)  # the infinite one adds nothing


@pytest.mark.parametrize("microbatch_size", [1, 2])
def test_noise_on_the_metrics_is_what_the_mechanism_says(digits, microbatch_size):
    model = compiled(noise_multiplier=1.3, microbatch_size=microbatch_size)
    rows = 2 * batch_selection.rows_per_microbatch(model.private_trainer.plan)
    metrics = MetricSums(4.0, 5.0, "classes")
    noised, clean = released(model, metrics, digits[0][:rows], digits[1][:rows], trials=3000)
    noise = (noised - clean).ravel()
    stddev = 1.3 * 5.0 * STEP
    assert stats.kstest(noise / stddev, "norm").pvalue > 0.01
    for wrong in (1.3 * 5.0 * 0.5, 1.3 * 5.0, 1.3 * STEP, 1.1 * stddev):
        assert stats.kstest(noise / wrong, "norm").pvalue < 1e-3
    assert abs(np.corrcoef(noise[::2], noise[1::2])[0, 1]) < 0.06


def test_seeded_results_without_metrics_do_not_change(digits):
    """The metrics' noise comes last of a step's: all other numbers are those of before."""
    model = compiled()
    model.fit(*digits, epochs=1, verbose=0)
    trainer = model.private_trainer
    assert trainer.step._num_metrics == 0
    seed = tf.random.experimental.stateless_fold_in(trainer.keys.noise, tf.constant(0, tf.int64))
    zeros = tf.zeros(650)
    gradients, _, metrics = trainer.step.release_all(
        zeros, tf.zeros([]), trainer.state.sensitivity, tf.constant(0, tf.int64), trainer.keys.noise
    )
    flat = np.concatenate([g.numpy().ravel() for g in gradients])
    np.testing.assert_array_equal(flat, (1.0 * standard_normals(651, seed)[1:] / 100).numpy())
    assert metrics.shape == (0,)


# Through fit.


def test_metrics_are_close_to_the_truth_and_callbacks_may_act_on_them(digits):
    rates = []

    def sets_rate(epoch, logs):
        rates.append(logs["private_loss"])

    model = compiled(rate=0.0, num_examples=200, batch_size=100, noise_multiplier=0.5)
    history = model.fit(
        *digits, epochs=4, verbose=0, private_metrics=kd.PrivateMetrics(8.0, noise_ratio=2.0),
        callbacks=[
            keras.callbacks.EarlyStopping("private_loss", patience=9),
            keras.callbacks.ReduceLROnPlateau("private_accuracy"),
            keras.callbacks.LambdaCallback(on_epoch_end=sets_rate),
        ],
    ).history  # fmt: skip
    logits = model.predict(digits[0], verbose=0)
    losses = keras.losses.sparse_categorical_crossentropy(digits[1], logits, from_logits=True)
    loss = np.minimum(losses.numpy(), 8.0).mean()
    accuracy = (logits.argmax(1) == digits[1]).mean()
    # Noise of deviation 0.71 and sampling over 4 epochs of 2 steps of 100 records.
    assert np.mean(history["private_loss"]) == pytest.approx(loss, abs=0.3)
    assert np.mean(history["private_accuracy"]) == pytest.approx(accuracy, abs=0.03)
    assert len(set(history["private_loss"])) == 4
    assert rates == history["private_loss"]
    (entry,) = model.privacy_ledger.all_entries()
    assert entry.invalidated_by == ()
    assert "Training loss and metrics as shown by fit." in entry.not_covered
    assert entry.details["metrics_noise_multiplier"] == 1.0
    assert entry.details["gradient_noise_multiplier"] == pytest.approx(0.5 / math.sqrt(0.75))
    assert model.privacy_ledger.epsilon(1e-4) == model.private_trainer.plan.epsilon()
    text = " ".join(model.privacy_statement().split())
    assert "1 on the sums of losses and right answers that each step releases too" in text
    assert "What is protected: the final model" in text


def test_steps_with_and_without_metrics_are_entries_of_their_own(digits):
    model = compiled()
    model.fit(*digits, epochs=1, verbose=0)
    model.fit(*digits, epochs=1, verbose=0, private_metrics=kd.PrivateMetrics())
    first, second = model.privacy_ledger.all_entries()
    assert (first.steps, second.steps) == (2, 2)
    assert "metrics_noise_multiplier" not in first.details
    assert second.details["metrics_noise_multiplier"] == 10.0
    assert model.privacy_ledger.epsilon(1e-4) == pytest.approx(a_plan(epochs=2).epsilon())


def test_a_resumed_run_keeps_the_metrics_and_refuses_others(digits, tmp_path):
    metrics = kd.PrivateMetrics()

    class Dies(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    arguments = {"epochs": 3, "verbose": 0, "checkpoint_dir": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        compiled().fit(*digits, **arguments, private_metrics=metrics, callbacks=[Dies()])
    with pytest.raises(InputError, match="other private_metrics"):
        compiled().fit(*digits, **arguments)
    model = compiled()
    history = model.fit(*digits, **arguments, private_metrics=metrics).history
    assert len(history["private_loss"]) == 2
    (entry,) = model.privacy_ledger.all_entries()
    assert (entry.steps, entry.details["metrics_noise_multiplier"]) == (6, 10.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PrivateMetrics(max_loss=0), "max_loss must"),
        (lambda: PrivateMetrics(max_loss=math.nan), "max_loss must"),
        (lambda: PrivateMetrics(noise_ratio=1.0), "noise_ratio must be above 1"),
        (lambda: PrivateMetrics(noise_ratio="10"), "noise_ratio must"),
        (lambda: sums_for("loss"), "must be a keras_dpvit.PrivateMetrics"),
        (lambda: sums_for(PrivateMetrics(), sampling="external"), "samples records itself"),
        (
            lambda: sums_for(PrivateMetrics(), sensitivity=PublishedSensitivity()),
            "need a certified plan",
        ),
        (
            lambda: sums_for(
                PrivateMetrics(noise_ratio=1.01),
                sensitivity=kd.DynamicSensitivity(count_noise_stddev=0.6),
            ),
            "too small",
        ),
    ],
)
def test_what_cannot_be_paid_is_refused_in_one_line(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def sums_for(metrics, **changes):
    return metric_sums(metrics, a_plan(**changes), compiled(), np.array([1]))
