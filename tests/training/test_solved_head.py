"""Linear heads solved from noisy sums: what a record can move, the noise, and the result."""

import math

import dp_accounting
import keras
import keras_hub
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.models.linear_head import linear_head
from keras_dpvit.privacy.ledger import PrivacyLedger
from keras_dpvit.privacy.ledger_entries import mean_entry
from keras_dpvit.runs import heads
from keras_dpvit.runs.settings import RunSettings
from keras_dpvit.training import head_rows
from keras_dpvit.training import solved_head as room

CLASSES = 3
NORM = 2.0
RECORDS = {
    "huge": ([1e30, -1e30, 1e30], 1),
    "overflowing": ([3e38, 3e38, -3e38], 0),
    "nan": ([math.nan, 1.0, 1.0], 2),
    "infinite": ([math.inf, 0.0, 0.0], 1),
    "of the bound": ([2.0, 0.0, 0.0], 1),
    "long": ([0.0, 50.0, 0.0], 2),
    "ordinary": ([0.3, -0.2, 0.1], 1),
    "no class": ([1.0, 1.0, 1.0], 3),
    "no class below": ([1.0, 1.0, 1.0], -1),
    "no number": ([1.0, 1.0, 1.0], math.nan),
}
NOT_COUNTED = ("nan", "infinite", "no class", "no class below", "no number")
EXTREME = np.array([[40.0, -40.0, 0.0], [0.0, 30.0, -30.0], [9.0, 9.0, -9.0], [0.0, 5.0, -5.0]])


def noiseless(solver="feature_covariance", **arguments):
    return kd.HeadPlan(1000, 1e-5, 0.0, solver=solver, **arguments)


def rows_of(features, labels, has_bias=True, norm=NORM):
    mapped = head_rows.RowMap(norm, None, has_bias)
    rows = mapped.rows(np.asarray(features, "float32")).numpy().astype("float16")
    return room.Rows(rows, labels, CLASSES)


def released_covariance(features, labels):
    """The numbers that get equal noise: the diagonal, and the root of 2 times what is above."""
    matrix = room.noisy_covariance(rows_of(features, labels), noiseless())
    return np.concatenate([np.diag(matrix), math.sqrt(2) * matrix[np.triu_indices(4, 1)]])


def released_residuals(features, labels, weights=EXTREME):
    return room.noisy_residuals(rows_of(features, labels), weights, noiseless(), 1).ravel()


def moved(release, record, label):
    """The distance by which one record more moves a release over others."""
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(50, 3)), rng.integers(0, CLASSES, 50).astype("float64")
    with_it = np.concatenate([features, [record]]), np.append(labels, label)
    return np.linalg.norm(release(*with_it) - release(features, labels))


@pytest.mark.parametrize("name", RECORDS)
def test_one_record_moves_each_sum_by_its_sensitivity_at_most(name):
    clip = noiseless().l2_norm_clip(CLASSES)
    covariance, residuals = (
        moved(release, *RECORDS[name]) for release in (released_covariance, released_residuals)
    )
    # Sums of 50 rows in float32: rounding is below 1e-5.
    assert covariance <= 1 + 1e-5
    assert residuals <= clip + 1e-5
    assert (covariance < 1e-5) == (name in NOT_COUNTED)
    if name in NOT_COUNTED:
        assert residuals < 1e-5
    if name == "of the bound":  # both are attained: they cannot be lowered
        assert covariance > 1 - 2e-3
        assert residuals > clip - 2e-3


def test_the_first_residuals_bound_is_attained():
    plan = noiseless("least_squares")

    def release(features, labels):
        rows = rows_of(features, labels)
        return room.noisy_residuals(rows, np.zeros((4, CLASSES)), plan, 0).ravel()

    clip = plan.l2_norm_clip(CLASSES)
    assert clip == pytest.approx(math.sqrt(2 / 3))
    assert clip - 2e-3 < moved(release, *RECORDS["of the bound"]) <= clip + 1e-5


def faulty_rows(features, labels, fault):
    x = np.asarray(features, "float64") / NORM
    if fault == "by the longest of the batch":
        x = x[np.isfinite(x).all(axis=1)]
        x = x / np.linalg.norm(x, axis=1).max()
    if fault == "infinite passes":
        with np.errstate(invalid="ignore"):
            x = x / np.maximum(1, np.linalg.norm(x, axis=1, keepdims=True))
    return x


@pytest.mark.parametrize(
    "fault", ["not cut", "by the longest of the batch", "infinite passes", "triangle not scaled"]
)
def test_faulty_matrices_are_seen(fault):
    def release(features, labels):
        if fault == "triangle not scaled":  # all entries, as if they were released
            matrix = room.noisy_covariance(rows_of(features, labels), noiseless())
            return math.sqrt(2) * np.append(matrix[np.triu_indices(4, 1)], np.diag(matrix))
        x = faulty_rows(features, labels, fault)
        return (x.T @ x)[np.triu_indices(3)]

    with np.errstate(over="ignore", invalid="ignore"):
        found = [moved(release, *record) for record in RECORDS.values()]
    assert not all(distance <= 1 + 1e-5 for distance in found)


@pytest.mark.parametrize("fault", ["not clipped", "any label is a class"])
def test_faulty_residuals_are_seen(fault):
    clip = noiseless().l2_norm_clip(CLASSES)

    def release(features, labels):
        if fault == "not clipped":
            return released_residuals_unclipped(features, labels)
        labels = np.nan_to_num(labels) % CLASSES
        return released_residuals(features, labels, np.zeros((4, CLASSES)))

    def released_residuals_unclipped(features, labels):
        found = [
            x.T @ room.clipped_residuals(x, y, EXTREME, 99.0) for x, y in rows_of(features, labels)
        ]
        return np.sum(found, axis=0)

    found = {name: moved(release, *record) for name, record in RECORDS.items()}
    if fault == "not clipped":
        assert max(found.values()) > clip + 1e-2
    else:
        assert found["no class"] > 1e-2


def test_noise_has_the_scales_of_the_plan():
    # 45,150 and 24,000 numbers under a fixed seed: the test is the same every time.
    plan = kd.HeadPlan(10, 1e-5, 1.3, seed=11)
    rows = room.Rows(np.zeros((4, 300), "float16"), np.zeros(4), 80)
    matrix = room.noisy_covariance(rows, plan)
    np.testing.assert_array_equal(matrix, matrix.T)
    above = math.sqrt(2) * matrix[np.triu_indices(300, 1)]
    covariance = np.concatenate([np.diag(matrix), above]) / plan.covariance_noise_multiplier
    found = room.noisy_residuals(rows, np.zeros((300, 80)), plan, 0).ravel()
    residuals = found / (plan.residual_noise_multiplier * plan.l2_norm_clip(80))
    for standard in (covariance, residuals):
        assert scipy.stats.kstest(standard, "norm").pvalue > 1e-3
        for wrong in (0.9, 1.1):
            assert scipy.stats.kstest(standard * wrong, "norm").pvalue < 1e-6
    assert (
        scipy.stats.kstest(np.diag(matrix) / plan.covariance_noise_multiplier, "norm").pvalue > 1e-3
    )
    # Each sum has noise of its own.
    again = room.noisy_residuals(rows, np.zeros((300, 80)), plan, 1).ravel()
    assert abs(np.corrcoef(found, again)[0, 1]) < 0.05


def test_equal_noise_is_not_given_twice(monkeypatch):
    monkeypatch.setattr(kd.privacy.randomness, "_reuse_allowed", False)
    rows = room.Rows(np.zeros((4, 3), "float16"), np.zeros(4), 2)
    plan = kd.HeadPlan(10, 1e-5, 1.0, seed=43)
    room.solve(rows, plan)
    with pytest.raises(InputError, match="seed has given its noise to another training"):
        room.solve(rows, plan)


def by_hand(plan, prior=()):
    accountant = dp_accounting.pld.PLDAccountant()
    for noise_multiplier in prior:
        accountant.compose(dp_accounting.GaussianDpEvent(noise_multiplier))
    accountant.compose(dp_accounting.GaussianDpEvent(plan.covariance_noise_multiplier))
    residuals = dp_accounting.GaussianDpEvent(plan.residual_noise_multiplier)
    accountant.compose(dp_accounting.SelfComposedDpEvent(residuals, plan.steps))
    return accountant.get_epsilon(plan.delta)


@pytest.mark.parametrize("solver", kd.privacy.head_plan.SOLVERS)
@pytest.mark.parametrize("epsilon", [0.5, 3.0])
def test_epsilon_is_that_of_all_its_gaussians(solver, epsilon):
    prior = PrivacyLedger((mean_entry(20.0, 1000, 1e-5),) * 3)
    plan = kd.HeadPlan.for_target(
        epsilon=epsilon, delta=1e-5, num_examples=1000, solver=solver, prior=prior
    )
    whole = PrivacyLedger((*prior.entries, plan.entry())).epsilon(1e-5, "pld")
    assert 0.99 * epsilon < whole <= epsilon
    # Of many Gaussians PLD rounds up once each, by less than 0.5 % here.
    assert by_hand(plan, (20.0,) * 3) == pytest.approx(whole, rel=5e-3)
    # The faulty twin: a plan that forgets the means goes past the target.
    alone = kd.HeadPlan.for_target(epsilon=epsilon, delta=1e-5, num_examples=1000, solver=solver)
    assert PrivacyLedger((*prior.entries, alone.entry())).epsilon(1e-5, "pld") > epsilon


def test_members_share_a_target():
    plan = kd.HeadPlan.for_target(
        epsilon=2, delta=1e-5, num_examples=100, compositions=2, accountant="rdp"
    )
    ledger = PrivacyLedger((plan.entry(), plan.entry()))
    assert 1.98 < ledger.epsilon(1e-5) <= 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"solver": "newton"}, "solver must be one of feature_covariance, least_squares"),
        ({"solver": "least_squares", "steps": 3}, "steps must be 1 for solver='least_squares'"),
        ({"covariance_share": 1.0}, "covariance_share must lie strictly between 0 and 1"),
        ({"delta": 0.0}, "delta must lie strictly between 0 and 1"),
        ({"num_examples": 0}, "num_examples must be a whole number above 0"),
    ],
)
def test_bad_plans_are_refused(arguments, words):
    good = {"num_examples": 100, "delta": 1e-5, "noise_multiplier": 1.0}
    with pytest.raises(InputError, match=words):
        kd.HeadPlan(**{**good, **arguments})


def clusters(number=3000, width=4, classes=CLASSES, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, number)
    centres = rng.normal(size=(classes, width))
    return (centres[labels] + 0.6 * rng.normal(size=(number, width))).astype("float32"), labels


def linear_model(width=4, classes=CLASSES, **arguments):
    return keras.Sequential([keras.Input((width,)), keras.layers.Dense(classes, **arguments)])


def test_without_noise_least_squares_are_numpys():
    x, y = clusters()
    model = kd.solve_head(linear_model(), x, y, noiseless("least_squares"), l2_norm_clip=99.0)
    extended = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    fitted, *_ = np.linalg.lstsq(extended, np.eye(CLASSES)[y], rcond=None)
    expected = CLASSES * (extended @ fitted) - 1
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=0.02)  # half precision


def test_without_noise_steps_are_newtons():
    x, y = clusters(500)
    plan = noiseless(steps=2)
    model = kd.solve_head(linear_model(), x, y, plan, l2_norm_clip=99.0)
    rows = np.concatenate([x / 99, np.full((500, 1), 0.1)], axis=1) / math.sqrt(1.01)
    weights, clip = np.zeros((5, CLASSES)), plan.l2_norm_clip(CLASSES)
    for _ in range(2):
        powers = np.exp(rows @ weights)
        outer = (
            rows[:, :, None]
            * (np.eye(CLASSES)[y] - powers / powers.sum(axis=1, keepdims=True))[:, None]
        )
        lengths = np.sqrt((outer**2).sum(axis=(1, 2), keepdims=True))
        found = (outer * np.minimum(1, clip / lengths)).sum(axis=0)
        weights = weights + CLASSES * np.linalg.solve(rows.T @ rows, found)
    np.testing.assert_allclose(model.predict(x, verbose=0), rows @ weights, atol=0.05)


@pytest.mark.parametrize("solver", kd.privacy.head_plan.SOLVERS)
def test_probabilities_are_about_right(solver):
    x, y = clusters(20_000)
    plan = kd.HeadPlan.for_target(epsilon=3, delta=1e-5, num_examples=20_000, solver=solver, seed=5)
    model = kd.solve_head(linear_model(activation="softmax"), x, y, plan, l2_norm_clip=2.0)
    shares = model.predict(x, verbose=0)
    accuracy = np.mean(shares.argmax(axis=1) == y)
    assert accuracy > 0.85
    assert abs(shares.max(axis=1).mean() - accuracy) < 0.1


def test_rare_classes_do_not_make_it_diverge():
    x, y = clusters(4000, classes=2)
    plan = kd.HeadPlan(4000, 1e-5, 0.5, seed=6)
    model = kd.solve_head(linear_model(classes=50), x, y, plan, l2_norm_clip=3.0)
    logits = model.predict(x, verbose=0)
    assert np.mean(logits.argmax(axis=1) == y) > 0.85
    assert np.abs(logits).max() < 100


def test_noise_beyond_measure_stays_finite():
    x, y = clusters(10)
    model = kd.solve_head(linear_model(), x, y, kd.HeadPlan(10, 1e-5, 1e9), l2_norm_clip=3.0)
    assert np.isfinite(model.predict(x, verbose=0)).all()


def test_eigenvalues_are_freed_of_noise():
    plan = kd.HeadPlan(1, 1e-5, 1.0, covariance_share=0.5, seed=8)
    true = np.linspace(0, 60, 200)
    noise = room.noisy_covariance(room.Rows(np.zeros((1, 200), "float16"), np.zeros(1), 2), plan)
    z = plan.covariance_noise_multiplier
    turned, _ = np.linalg.qr(np.random.default_rng(9).normal(size=(200, 200)))
    exact = turned @ np.diag(true) @ turned.T
    shrunk, vectors = room._eigenvalues(exact + noise, z)
    left, raw = (
        np.linalg.norm(found - exact)
        for found in (vectors @ np.diag(shrunk) @ vectors.T, exact + noise)
    )
    assert left < 0.9 * raw


def small(head="pooled", **arguments):
    backbone = kd.DPViTBackbone(
        (8, 8, 1), patch_size=4, hidden_dim=8, num_heads=2, stage_depths=(1,), mlp_ratio=1
    )
    return kd.DPViTClassifier(backbone, 10, head=head, **arguments)


def test_a_solved_head_is_saved_with_its_ledger(digit_images, tmp_path):
    x, y = digit_images.x_train, digit_images.y_train
    plan = kd.HeadPlan.for_target(epsilon=3, delta=1e-4, num_examples=1400)
    model = small()
    model.disclose("The number of records is public.")
    assert kd.solve_head(model, x, y, plan) is model
    assert np.mean(model.predict(x, verbose=0).argmax(axis=1) == y) > 0.2
    statement = " ".join(model.privacy_statement().split())
    assert "a linear head over frozen features (feature_covariance, Mehta et al. 2023)" in statement
    assert "* The number of records is public." in statement
    assert "Weights came from elsewhere" not in statement
    model.save(tmp_path / "model.keras")
    loaded = kd.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(x[:9], verbose=0), model.predict(x[:9], verbose=0), atol=1e-5
    )
    assert loaded.privacy_ledger == model.privacy_ledger
    assert 2.97 < loaded.privacy_ledger.epsilon(1e-4, "pld") <= 3


@pytest.mark.parametrize("solver", kd.privacy.head_plan.SOLVERS)
def test_a_whitened_head_is_centred_within_the_budget(solver, digit_images, monkeypatch):
    monkeypatch.setattr(head_rows, "LARGEST_WIDTH", 16)
    monkeypatch.setattr(head_rows, "NUM_DIRECTIONS", 9)
    monkeypatch.setattr(room, "_FAMILIES", 6)
    model, settings = small("whitened", whitening_rank=2), RunSettings(center_noise=20.0)
    x, y = digit_images.x_train[:300], digit_images.y_train[:300]
    prior = PrivacyLedger((mean_entry(20.0, 300, 1e-4),))
    plan = kd.HeadPlan.for_target(
        epsilon=3, delta=1e-4, num_examples=300, prior=prior, solver=solver
    )
    heads.solved(model, x, y, plan, settings)
    kinds = [entry.details["release"] for entry in model.privacy_ledger.all_entries()]
    assert kinds == ["mean", "head"]
    assert 2.97 < model.privacy_ledger.epsilon(1e-4, "pld") <= 3
    kernel = model.get_layer("logits").kernel.numpy()
    assert np.linalg.matrix_rank(kernel) == 9  # of 10 classes, in 9 directions


def test_directions_are_the_widest_and_weights_mean_the_same(monkeypatch):
    monkeypatch.setattr(head_rows, "NUM_DIRECTIONS", 3)
    rng = np.random.default_rng(3)
    features = (rng.normal(size=(200, 8)) * [9, 8, 7, 0.1, 0.1, 0.1, 0.1, 0.1]).astype("float32")
    directions = head_rows._directions(features)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-5)
    assert np.linalg.norm(directions[:3]) ** 2 > 2.99
    mapped = head_rows.RowMap(40.0, directions, True)
    weights = rng.normal(size=(4, 5))
    kernel, bias = mapped.head_weights(weights)
    np.testing.assert_allclose(
        features @ kernel + bias, mapped.rows(features).numpy() @ weights, atol=1e-5
    )


def hub_vit():
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(8, 8, 1), patch_size=2, num_layers=1, num_heads=2, hidden_dim=32, mlp_dim=32
    )
    return keras_hub.models.ViTImageClassifier(backbone=backbone, num_classes=10)


def test_a_keras_hub_classifier_gets_a_head(digit_images):
    keras.utils.set_random_seed(2)
    network, x = hub_vit(), digit_images.x_train.astype("float32") / 255
    before = [v.numpy() for v in network.backbone.weights]
    plan = kd.HeadPlan.for_target(epsilon=8, delta=1e-4, num_examples=1400)
    public = kd.datasets.synthetic_shapes(20, 2, (8, 8, 1)).images / 255
    model = kd.solve_head(network, x, digit_images.y_train, plan, public_images=public)
    assert model.network is network
    assert np.mean(model.predict(x, verbose=0).argmax(axis=1) == digit_images.y_train) > 0.5
    for variable, value in zip(network.backbone.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert 7.9 < model.privacy_ledger.epsilon(1e-4, "pld") <= 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"l2_norm_clip": None}, "public_images must be given, images that need no protection"),
        ({"l2_norm_clip": 0.0}, "l2_norm_clip must be a finite number above 0"),
        ({"labels": np.zeros(4)}, r"images and labels must have the same length \(5 and 4\)"),
        ({"labels": np.zeros((5, 3))}, "labels must be class numbers, one for each record"),
        ({"images": np.zeros((5, 3))}, "images must be 4"),
        ({"images": np.zeros((0, 4))}, "images must hold at least one image"),
        ({"public_images": np.zeros((9, 4)), "l2_norm_clip": None}, "have length 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    good = {"images": np.zeros((5, 4)), "labels": np.zeros(5), "l2_norm_clip": 1.0}
    with pytest.raises(InputError, match=words):
        kd.solve_head(linear_model(), plan=noiseless(), **{**good, **arguments})


@pytest.mark.parametrize("kind", ["activation", "branch", "subclassed"])
def test_a_model_that_ends_otherwise_is_refused(kind):
    inputs = keras.Input((4,))
    if kind == "activation":
        model = linear_model(activation="relu")
    elif kind == "branch":
        both = [keras.layers.Dense(3)(inputs) for _ in range(2)]
        model = keras.Model(inputs, keras.layers.Add()(both))
    else:

        class Own(keras.Model):
            def call(self, x):
                return x

        model = Own()
        model(tf.zeros((1, 4)))
    with pytest.raises(InputError, match="model must have a head of one linear layer"):
        linear_head(model)


def test_a_compiled_model_is_refused():
    model = small()
    model.compile(
        kd.DPKerasSGDOptimizer(kd.PrivacyPlan(60, 20, 1, 1e-3, noise_multiplier=1.0)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    with pytest.raises(InputError, match="before it is compiled with a private optimizer"):
        kd.solve_head(model, np.zeros((5, 8, 8, 1)), np.zeros(5), noiseless())
