"""Trainings behind the tables: kept, found again, scored as they should be."""

import dataclasses

import numpy as np
import pytest

from keras_dpvit import datasets
from keras_dpvit.errors import InputError
from keras_dpvit.reproduction.finished import Finished
from keras_dpvit.reproduction.trainings import Bench, Training
from keras_dpvit.runs.settings import RunSettings

NUMBER = 400
HEAD = RunSettings(
    epsilon=50.0,
    weights="synthetic",
    trainable="head",
    center_noise=20.0,
    optimizer="sgd",
    momentum=0.9,
    clipping="flat",
    l2_norm_clip=0.1,
    epochs=6.0,
    accountant="pld",
    delta=1e-4,
)


@pytest.fixture(scope="module")
def bench():
    data = datasets.load("fashion_mnist")
    train, score = data.x_train[:NUMBER], data.x_train[-200:]
    return Bench((train, data.y_train[:NUMBER]), (score, data.y_train[-200:]), data.num_classes)


@pytest.fixture(scope="module")
def fused(bench):
    return bench.run(Training("dpvit_scatter_28", dataclasses.replace(HEAD, members=2)))


def test_a_pair_is_within_its_budget_and_scored_every_epoch(fused):
    assert fused["epsilon"]["pld"] == pytest.approx(50, rel=1e-3)
    assert fused["epsilon"]["pld"] <= 50
    assert len(fused["steps"]) == len(fused["accuracy"]) > 1
    assert np.all(np.diff(fused["steps"]) > 0)
    assert len(fused["members_accuracy"]) == 2
    assert abs(fused["accuracy"][-1] - fused["mean_accuracy"]) < 0.1


def test_parts_of_the_features_are_those_of_a_model_of_its_own(bench, fused):
    settings = dataclasses.replace(HEAD, head_blocks=["features"], seed=3)
    training = Training("dpvit_scatter_28", settings)
    model = bench.classifier(training)
    blocks, _ = bench.blocks(training, model)
    from keras_dpvit.training.frozen_features import whitened_inputs

    (alone,) = whitened_inputs(model, bench._to_train[0])
    np.testing.assert_allclose(blocks[0], alone, atol=2e-3)
    assert len(blocks) == 1


def test_a_head_without_privacy_has_no_epsilon(bench, fused):
    settings = dataclasses.replace(HEAD, learning_rate=1e-2, batch_size=50, epochs=3.0)
    found = bench.run(Training("dpvit_scatter_28", settings, private=False))
    assert "epsilon" not in found
    assert found["accuracy"][-1] > 0.6


def test_a_whole_network_is_trained_on_a_part(bench):
    settings = RunSettings(epsilon=8.0, epochs=1.0, batch_size=50, delta=1e-4)
    training = Training(
        "dpvit_small_28", settings, examples=100, overrides={"stage_depths": (1,), "hidden_dim": 8}
    )
    found = bench.run(training)
    assert found["steps"] == [2]
    assert found["epsilon"]["rdp"] <= 8
    assert found["trained_parameters"] == found["parameters"]


KEY = {"preset": "a", "overrides": {"depths": (1, 2)}, "draw": 0}


def test_a_result_is_found_again_by_its_key_alone(tmp_path):
    finished = Finished(tmp_path / "trainings")
    assert finished.result(KEY) is None
    finished.keep(KEY, {"accuracy": [0.5]})
    assert finished.result(KEY) == {"accuracy": [0.5]}
    assert finished.result({**KEY, "draw": 1}) is None


def test_a_damaged_result_is_told(tmp_path):
    finished = Finished(tmp_path)
    finished.keep(KEY, {})
    (file,) = tmp_path.iterdir()
    file.write_text('{"key":')
    with pytest.raises(InputError, match=r"trainings_dir: .* is damaged"):
        finished.result(KEY)
