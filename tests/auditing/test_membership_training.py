"""Attacks on trainings: one that overfits is caught, one with epsilon 1 is not, nor is none."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit import datasets
from keras_dpvit.auditing import attack_result, attack_training
from keras_dpvit.errors import InputError

RECORDS = 600
DELTA = 1e-4


@pytest.fixture(scope="module")
def digits():
    data = datasets.load("digits")
    x = data.x_train.astype("float32") / 255.0
    known, rest = slice(0, RECORDS), slice(RECORDS, None)
    return x[known], data.y_train[known], (x[rest], data.y_train[rest])


def plain(x, y):
    """Least squares on more random features than records: it knows its records by heart."""
    projection = np.random.default_rng(len(x)).normal(size=(64, 500))

    def features(x):
        return np.maximum(x.reshape(len(x), 64) @ projection, 0)

    weights = np.linalg.lstsq(features(x), 10 * np.eye(10)[y], rcond=None)[0]
    return lambda x: features(x) @ weights


class Private:
    """Softmax regression within epsilon 1, planned for half of the records whatever the coins say.

    Seeded, for the test's sake: each training has noise of its own.
    """

    def __init__(self):
        self.trained = 0
        self.plan = kd.PrivacyPlan.for_target(
            epsilon=1.0, delta=DELTA, num_examples=RECORDS // 2, batch_size=100, epochs=10
        )

    def __call__(self, x, y):
        self.trained += 1
        keras.utils.set_random_seed(self.trained)
        layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
        model = kd.make_private(keras.Sequential(layers))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        plan = dataclasses.replace(self.plan, seed=self.trained)
        model.compile(kd.DPKerasSGDOptimizer(plan, learning_rate=1.0), loss)
        model.fit(x, y, epochs=10, verbose=0)
        weights, bias = model.get_weights()[:2]
        return lambda x: x.reshape(len(x), 64) @ weights + bias


def untrained(x, y):
    """Logits that know no record and differ from model to model."""
    weights = np.random.default_rng(int(y.sum())).normal(size=(64, 10))
    return lambda x: x.reshape(len(x), 64) @ weights


def test_an_overfitted_training_is_caught(digits):
    result = attack_training(plain, *digits, seed=0)
    assert not result.contradicted  # nothing is claimed
    assert result.member_accuracy == 1.0 > result.accuracy
    assert all(found.auc > 0.6 for found in result.attacks.values())
    # Had it claimed epsilon 1, that would have been found false.
    assert dataclasses.replace(result, epsilon=1.0, delta=DELTA).contradicted


@pytest.mark.slow
def test_a_training_with_epsilon_1_is_not_caught(digits):
    train = Private()
    result = attack_training(train, *digits, num_references=4, epsilon=1.0, delta=DELTA, seed=0)
    assert train.trained == 5
    assert result.accuracy > 0.3
    assert not result.contradicted
    for scores in result.scores.values():
        found = attack_result(scores, result.members, confidence=1 - 1e-7)
        assert found.auc < kd.auditing.largest_auc(1.0, DELTA)
        assert found.auc_interval[0] < 0.5 < found.auc_interval[1]


def test_without_training_nothing_is_found(digits):
    result = attack_training(untrained, *digits, epsilon=0.0, seed=0)
    assert not result.contradicted
    assert sorted(result.attacks) == ["lira_offline", "lira_online", "loss_threshold", "rmia"]
    for found in result.attacks.values():
        assert found.auc_interval[0] < 0.5 < found.auc_interval[1]


def test_every_record_is_in_half_of_the_references_and_the_targets_coins_are_fair():
    seen = []

    def train(x, y):
        seen.append(np.isin(np.arange(400), x))
        assert (y == x % 2).all()
        return lambda x: np.stack([0.1 * x, np.ones(len(x))], axis=1)

    x = np.arange(400)
    attack_training(train, x, x % 2, (x, x % 2), num_references=6)
    members, references = seen[0], np.array(seen[1:])
    assert (references.sum(axis=0) == 3).all()
    # 400 fair coins, six standard deviations: false alarm 2e-9. The same for the agreement of the
    # target's with each reference model's.
    assert abs(members.sum() - 200) < 60
    assert (abs((references == members).sum(axis=1) - 200) < 60).all()


def test_a_seed_repeats_the_coins_and_none_does_not():
    def train(x, y):
        return lambda x: np.stack([0.1 * x, np.ones(len(x))], axis=1)

    x = np.arange(64)
    runs = [
        attack_training(train, x, x % 2, (x, x % 2), num_references=4, seed=seed).members
        for seed in (1, 1, None, None)
    ]
    assert (runs[0] == runs[1]).all()
    assert (runs[2] != runs[3]).any()  # false alarm 2^-64


def test_the_table_and_the_file_say_what_was_found(digits, tmp_path):
    result = attack_training(untrained, *digits, num_references=4, epsilon=1.0, delta=0.0, seed=0)
    text = result.text()
    assert "TPR at FPR 0.1 %" in text
    assert "allowed, epsilon 1 at delta 0  0.7311" in text
    assert "0.0027" in text
    result.write(str(tmp_path / "found.json"), what="a test")
    written = json.loads((tmp_path / "found.json").read_text())
    assert written["what"] == "a test"
    assert written["epsilon"] == 1.0
    found = written["attacks"]["lira_online"]
    assert found["auc"] == result.attacks["lira_online"].auc
    assert found["rates"][1]["most_true_positives"] == pytest.approx(math.e / 100)
    assert "nothing claimed" in dataclasses.replace(result, epsilon=math.inf).text()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_references": 5}, "num_references must be even and at least 4, got 5"),
        ({"num_references": 2}, "num_references must be even and at least 4, got 2"),
        ({"y": np.arange(7)}, "x and y, and the population's, must be of equal length"),
        ({"population": (np.ones(2), np.ones(3))}, "and the population's, must be of equal"),
        ({"population": (np.ones(0), np.ones(0))}, "population must have at least one record"),
        ({"false_positive_rates": (0.01, 1.0)}, "false_positive_rates must lie strictly between"),
        ({"epsilon": -1.0}, "epsilon must be 0 or above, got -1.0"),
        ({"delta": 1.5}, r"delta must lie in 0\.\.1, got 1.5"),
    ],
)
def test_bad_input_is_refused_before_any_training(changed, message):
    def train(x, y):
        raise AssertionError("trained")

    arguments = {"x": np.ones((8, 3)), "y": np.arange(8), "population": (np.ones(2), np.ones(2))}
    with pytest.raises(InputError, match=message):
        attack_training(train, **{**arguments, **changed})


def test_probabilities_in_place_of_logits_are_refused():
    def train(x, y):
        return lambda x: np.full((len(x), 2), 0.5)

    x, y = np.ones((8, 3)), np.arange(8) % 2
    with pytest.raises(InputError, match="logits must not be probabilities"):
        attack_training(train, x, y, (x, y))
