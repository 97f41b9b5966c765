"""Trainings on parts of the records: what is planned tells nothing about who is in the part."""

import dataclasses

import numpy as np
import pytest

from keras_dpvit import datasets
from keras_dpvit.runs.part_trainings import PartTrainings
from keras_dpvit.runs.settings import RunSettings

SETTINGS = RunSettings(epsilon=4.0, delta=1e-3, epochs=1.0, batch_size=20, seed=3)


@pytest.fixture(scope="module")
def data():
    found = datasets.load("digits")
    train, test = slice(0, 101), slice(0, 30)
    return dataclasses.replace(
        found,
        x_train=found.x_train[train],
        y_train=found.y_train[train],
        x_test=found.x_test[test],
        y_test=found.y_test[test],
    )


def test_plans_are_for_half_of_the_records_whatever_the_part(data, monkeypatch):
    trainings, plans = PartTrainings(data, "dpvit_tiny_8", SETTINGS), []
    monkeypatch.setattr(trainings, "_fit", lambda *arguments: plans.append(arguments[-1]))
    for number in (10, 50, 101):
        trainings.train(np.arange(number), data.y_train[:number])
    assert [plan.num_examples for plan in plans] == [50, 50, 50]
    assert len({dataclasses.replace(plan, seed=None) for plan in plans}) == 1
    # Noise of its own for each training.
    assert [plan.seed for plan in plans] == [3, 4, 5]
    assert trainings.plan().seed is None
    assert trainings.plan().epsilon() <= 4.0


def test_a_part_is_what_is_trained_on(data, monkeypatch):
    trainings, seen = PartTrainings(data, "dpvit_tiny_8", SETTINGS, private=False), []
    monkeypatch.setattr(trainings, "_fit", lambda *arguments: seen.append(arguments[1:]))
    rows = np.array([7, 3, 99])
    logits = trainings.train(rows, data.y_train[rows])
    images, labels, plan = seen[0]
    np.testing.assert_array_equal(images, data.x_train[rows])
    np.testing.assert_array_equal(labels, data.y_train[rows])
    assert plan is None
    found = logits(np.array([0, 101, 130]))  # two of the test images
    assert found.shape == (3, 10)
    np.testing.assert_allclose(found, logits(np.array([0, 101, 130])))
