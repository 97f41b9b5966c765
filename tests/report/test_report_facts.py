"""Figures of a report, against the ledgers and predictions that they come from."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit import _files
from keras_dpvit.errors import InputError
from keras_dpvit.report.facts import facts
from keras_dpvit.report.predictions import choose_samples, predict, spread
from keras_dpvit.report.privacy_facts import budget, curves, privacy_facts, trainings
from keras_dpvit.report.run_files import Run


def run_of(model, **flags):
    """A run that is in no directory: enough for what ledgers say."""
    return Run(None, {"flags": flags, "histories": []}, {"delta": 1e-4}, {}, model)


def with_ledger(*entries):
    model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=10)
    model.start_from(kd.PrivacyLedger(tuple(entries)))
    return model


def plan_entries(**changes):
    arguments = {"num_examples": 1437, "batch_size": 256, "epochs": 3, "delta": 1e-4}
    plan = kd.PrivacyPlan(**{**arguments, "noise_multiplier": 1.5, **changes})
    return plan.entries(plan.steps)


def test_curves_end_at_what_the_ledgers_say(fused_run):
    found = privacy_facts(fused_run)
    a, b, together = found["curves"]
    assert [curve["name"] for curve in (a, b, together)] == ["member A", "member B", "together"]
    for curve, model in zip((a, b, together), [*fused_run.members, fused_run.model], strict=True):
        steps = sum(entry.steps for entry in model.privacy_ledger.all_entries())
        assert curve["points"][-1] == [steps, model.privacy_ledger.epsilon(1e-4)]
        epsilons = [epsilon for _, epsilon in curve["points"]]
        assert epsilons == sorted(epsilons)
    assert together["points"][-1][1] > max(a["points"][-1][1], b["points"][-1][1])
    for member, model in zip(found["members"], fused_run.members, strict=True):
        assert member["epsilon"]["pld"] == model.privacy_ledger.epsilon(1e-4, "pld")
    assert found["statement"] == fused_run.model.privacy_statement()


def test_members_that_cost_the_same_share_a_curve_and_a_mechanism():
    models = [with_ledger(*plan_entries()) for _ in range(3)]
    run = run_of(kd.FusedClassifier(models))
    assert [curve["name"] for curve in curves(run)] == ["each member", "together"]
    (training,) = trainings(run)
    assert training["members"] == ["member A", "member B", "member C"]
    other = with_ledger(*plan_entries(noise_multiplier=2.0))
    run = run_of(kd.FusedClassifier([*models, other]))
    names = [curve["name"] for curve in curves(run)]
    assert names == ["members A, B, C", "member D", "together"]
    assert [training["members"][-1] for training in trainings(run)] == ["member C", "member D"]


def test_members_on_disjoint_records_have_no_curve_together():
    models = [with_ledger(*plan_entries(noise_multiplier=noise)) for noise in (1.0, 2.0)]
    found = privacy_facts(run_of(kd.FusedClassifier(models, members_data="disjoint")))
    assert [curve["name"] for curve in found["curves"]] == ["member A", "member B"]
    assert found["epsilon"] == found["members"][0]["epsilon"]  # the larger counts


def test_a_noise_schedule_is_one_training():
    entries = plan_entries(noise_schedule=kd.LinearNoise(1.0, 0.5))
    assert len(entries) > 2
    (training,) = trainings(run_of(with_ledger(*entries)))
    assert training["entry"]["steps"] == sum(entry.steps for entry in entries)
    assert training["entry"]["noise_multiplier"] == entries[0].noise_multiplier
    assert training["last"]["noise_multiplier"] == entries[-1].noise_multiplier
    one_by_one = with_ledger(*plan_entries(), *plan_entries(), *entries)
    assert len(trainings(run_of(one_by_one))) == 3


def test_budget_is_the_flags_where_delta_is_the_cards():
    model = with_ledger(*plan_entries())
    run = run_of(model, epsilon=3.0, delta=1e-4, accountant="pld")
    assert budget(run) == {"epsilon": 3.0, "accountant": "pld"}
    assert budget(run_of(model, epsilon=3.0, delta=1e-5)) is None
    assert budget(run_of(model)) is None


def test_scores_are_those_of_the_predictions(fused_run, fused_predictions, digit_images):
    found = facts(fused_run, fused_predictions)
    outputs = fused_run.model.predict(digit_images.x_test, verbose=0)
    guesses = {
        "member A": outputs["member_probabilities"][:, 0],
        "member B": outputs["member_probabilities"][:, 1],
        "fused": outputs["probabilities"],
    }
    truth = digit_images.y_test
    assert [score["name"] for score in found["accuracy"]] == list(guesses)
    for score in found["accuracy"]:
        right = guesses[score["name"]].argmax(axis=1) == truth
        assert score["right"] == right.sum()
        assert score["low"] < score["accuracy"] == np.mean(right) < score["high"]
    for number, score in enumerate(found["classes"]):
        own = truth == number
        recalls = [np.mean(guesses[n].argmax(axis=1)[own] == number) for n in guesses]
        assert [*score["member_recall"], score["recall"]] == pytest.approx(recalls)
    assert np.trace(found["confusion"]) == found["accuracy"][-1]["right"]
    assert np.sum(found["confusion"]) == len(truth) == found["data"]["num_scored"]


def test_a_single_models_logits_become_probabilities(published_run, digit_images):
    held_out = predict(published_run, digit_images, 50)
    logits = published_run.model.predict(held_out.images, verbose=0)
    expected = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    assert np.allclose(held_out.probabilities, expected, atol=1e-6)
    assert held_out.member_probabilities.shape == (50, 1, 10)
    names = [score["name"] for score in facts(published_run, held_out)["accuracy"]]
    assert names == ["model"]


def test_json_is_strict(published_run, digit_images):
    found = facts(published_run, predict(published_run, digit_images, 20))
    assert math.isinf(found["privacy"]["epsilon"]["rdp"])
    read = json.loads(json.dumps(_files.jsonable(found), allow_nan=False))
    assert read["privacy"]["epsilon"] == {"rdp": "infinite", "pld": "infinite"}
    assert read["histories"][0]["epsilon"] == ["infinite", "infinite"]
    assert _files.jsonable([math.nan, 1.0, -math.inf]) == [None, 1.0, "-infinite"]


def test_part_of_the_images_is_spread_over_all(fused_run, digit_images):
    """Folders come in the order of their classes: the first images would be one class alone."""
    held_out = predict(fused_run, digit_images, 36)
    assert np.array_equal(held_out.images, digit_images.x_test[::10])
    assert np.array_equal(held_out.truth, digit_images.y_test[::10])
    assert held_out.total == 360
    assert spread(np.arange(7), 3).tolist() == [0, 2, 4]
    assert spread(np.arange(2), 3).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("num_wrong", "num_right", "count", "expected"),
    [(10, 10, 8, (4, 4)), (10, 10, 3, (2, 1)), (1, 10, 8, (1, 7)), (10, 1, 8, (7, 1))],
)
def test_samples_are_half_mistakes(fused_predictions, num_wrong, num_right, count, expected):
    right = np.array([False] * num_wrong + [True] * num_right)
    held_out = dataclasses.replace(
        fused_predictions,
        truth=np.where(right, 0, 1),
        probabilities=np.tile([1.0, 0.0], (len(right), 1)),
    )
    rows = choose_samples(held_out, count)
    assert len(set(rows)) == len(rows) == sum(expected)
    assert [int(np.sum(right[rows] == kind)) for kind in (False, True)] == list(expected)
    assert not right[rows[0]]
    assert len(choose_samples(held_out, 0)) == 0


def test_other_classes_are_refused(fused_run, digit_images):
    names = tuple(f"class {i}" for i in range(10))
    other = dataclasses.replace(digit_images, class_names=names)
    with pytest.raises(InputError, match="must hold the classes that the run was trained on"):
        predict(fused_run, other)
