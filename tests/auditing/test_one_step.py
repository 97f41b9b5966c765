"""Telling two data sets apart: the bound by hand and by simulation, one step of each mechanism."""

import dataclasses
import math

import keras
import numpy as np
import pytest
from scipy import special, stats

import keras_dpvit as kd
from keras_dpvit.auditing.one_step import attack_step
from keras_dpvit.auditing.threshold_test import (
    TestResult,
    apply_threshold,
    best_threshold,
    epsilon_from_test,
)
from keras_dpvit.errors import InputError

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SHAPE = (28, 28, 1)


def test_the_bound_by_hand():
    hit = stats.beta.ppf(0.025, 900, 101)  # Clopper-Pearson's lower limit of 900 in 1000
    alarm = stats.beta.ppf(0.975, 101, 900)  # and its upper limit of 100 in 1000
    expected = max(math.log((hit - 1e-3) / alarm), math.log((1 - alarm - 1e-3) / (1 - hit)))
    assert epsilon_from_test(TestResult(1000, 900, 100), 1e-3) == pytest.approx(expected)


def test_a_test_that_never_errs_in_closed_form():
    wrong = 1 - 0.025 ** (1 / 500)
    assert epsilon_from_test(TestResult(500, 500, 0), 0.0) == pytest.approx(
        math.log((1 - wrong) / wrong)
    )


def test_a_test_that_says_the_same_of_both_shows_nothing():
    for says in (0, 250, 500):
        assert epsilon_from_test(TestResult(500, says, says), 0.0) == 0.0
    assert epsilon_from_test(TestResult(500, 100, 400), 0.0) == 0.0  # worse than chance


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 3.0])
def test_randomised_response_is_contradicted_in_one_trial_of_twenty_at_most(epsilon):
    rng, true = np.random.default_rng(3), special.expit(epsilon)
    hits, alarms = rng.binomial(300, true, 800), rng.binomial(300, 1 - true, 800)
    bounds = [
        epsilon_from_test(TestResult(300, int(h), int(a)), 0.0)
        for h, a in zip(hits, alarms, strict=True)
    ]
    assert np.sum(np.array(bounds) > epsilon) <= stats.binom.ppf(1 - 1e-4, 800, 0.05)
    assert np.mean(bounds) >= 0.6 * epsilon


def test_the_best_threshold_is_the_one_between_the_sides():
    rng = np.random.default_rng(0)
    without, with_record = rng.normal(0, 1, 500), rng.normal(8, 1, 500)
    threshold, shown = best_threshold(without, with_record, 0.0)
    assert 2 < threshold < 7
    assert shown == pytest.approx(epsilon_from_test(TestResult(500, 500, 0), 0.0, 0.999), abs=0.4)
    assert apply_threshold(np.array([1.0, 4.0]), np.array([4.0, 5.0]), 4.0) == TestResult(2, 2, 1)
    with pytest.raises(InputError, match="must be equal in number"):
        apply_threshold(without, with_record[:10], 0.0)


@pytest.fixture(scope="module")
def attacked():
    """The bound for one step over 20 random images, and the model; `spoil` edits its step."""

    def attack(plan, trials=3000, spoil=lambda trainer: None):
        keras.utils.set_random_seed(1)
        layers = [keras.layers.Rescaling(1 / 127.5, -1.0), keras.layers.Flatten()]
        network = keras.Sequential([keras.Input(SHAPE), *layers, keras.layers.Dense(10)])
        model = kd.make_private(network)
        model.compile(kd.DPKerasSGDOptimizer(plan, 0.1), LOSS)
        spoil(model.private_trainer)
        rng = np.random.default_rng(0)
        x, y = rng.integers(0, 256, (21, *SHAPE)).astype("uint8"), rng.integers(0, 10, 21)
        seen = []
        bound = attack_step(model, (x[1:], y[1:]), (x[:1], y[:1]), trials, progress=seen.append)
        assert seen[-1] == 2 * trials
        assert seen == sorted(seen)
        return bound

    return attack


# Seeded: one true claim in twenty is contradicted by chance.
SCHEDULE = {"num_examples": 20, "batch_size": 20, "epochs": 1, "delta": 1e-5, "seed": 3}


@pytest.mark.parametrize("sensitivity", [kd.FixedSensitivity(), kd.DynamicSensitivity()])
def test_a_certified_step_keeps_within_its_epsilon(attacked, sensitivity):
    plan = kd.PrivacyPlan.for_target(epsilon=2.0, sensitivity=sensitivity, **SCHEDULE)
    assert plan.steps == 1
    # Three quarters of the trials' power are far below the claim: chance does not reach it.
    assert attacked(plan).epsilon <= 2.0


def test_a_step_that_cuts_its_noise_is_contradicted(attacked):
    """The attack sees a mechanism that adds a sixth of the noise that it is charged for."""
    plan = kd.PrivacyPlan.for_target(epsilon=2.0, sensitivity=kd.FixedSensitivity(), **SCHEDULE)

    def spoil(trainer):
        cut = dataclasses.replace(plan, noise_multiplier=plan.noise_multiplier / 6)
        trainer.plan = cut

    bound = attacked(plan, spoil=spoil)
    assert bound.epsilon > 2.0
    assert bound.statistic == "direction"


def test_the_published_formulas_leak_more_than_their_nominal_epsilon(attacked):
    nominal = kd.PrivacyPlan.for_target(epsilon=2.0, sensitivity=kd.FixedSensitivity(), **SCHEDULE)
    assert nominal.epsilon() <= 2.0
    published = kd.PrivacyPlan.as_published(noise_multiplier=nominal.noise_multiplier, **SCHEDULE)
    bound = attacked(published)
    assert bound.epsilon > 2.0
    assert bound.statistic == "spread"  # it is the noise's scale that tells


def test_what_the_attack_cannot_take_is_refused(attacked):
    sampled = kd.PrivacyPlan(noise_multiplier=1.0, **{**SCHEDULE, "batch_size": 10})
    with pytest.raises(InputError, match="the plan must take every record in every step"):
        attacked(sampled)
    whole = kd.PrivacyPlan(noise_multiplier=1.0, **SCHEDULE)
    with pytest.raises(InputError, match="trials must be even"):
        attacked(whole, trials=5)
    with pytest.raises(InputError, match="hits must lie in"):
        TestResult(10, 11, 0)
