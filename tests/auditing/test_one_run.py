"""The one-run bound against sums by hand, Clopper-Pearson and simulated trials."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from keras_dpvit.auditing.one_run import (
    Outcome,
    audit,
    epsilon_lower_bound,
    guess,
    p_value,
)
from keras_dpvit.errors import InputError

OUTCOMES = [(100, 100, 100), (500, 100, 80), (1000, 200, 140), (1000, 1000, 560), (50, 7, 7)]


def by_hand(outcome, epsilon, delta):
    """Theorem 5.2 term by term, in exact binomial coefficients."""
    m, r, v = outcome.num_canaries, outcome.guesses, outcome.correct
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    mass = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
    at_least = sum(mass[v:])
    alpha = max((2 / i * sum(mass[v - i : v]) for i in range(1, v + 1)), default=0.0)
    return min(1.0, at_least + alpha * m * delta)


@pytest.mark.parametrize(("m", "r", "v"), OUTCOMES)
@pytest.mark.parametrize("delta", [0.0, 1e-5, 4e-4])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 2.5])
def test_p_value_is_the_sum_of_the_theorem(m, r, v, delta, epsilon):
    outcome = Outcome(m, r, v)
    assert p_value(outcome, epsilon, delta) == pytest.approx(
        by_hand(outcome, epsilon, delta), rel=1e-9, abs=1e-14
    )


@pytest.mark.parametrize(("m", "r", "v"), OUTCOMES)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_without_delta_the_bound_is_clopper_pearsons(m, r, v, confidence):
    rate = stats.beta.ppf(1 - confidence, v, r - v + 1)
    expected = max(0.0, special.logit(rate))
    assert epsilon_lower_bound(Outcome(m, r, v), 0.0, confidence) == pytest.approx(expected)


def test_all_correct_without_delta_in_closed_form():
    assert epsilon_lower_bound(Outcome(100, 100, 100), 0.0) == pytest.approx(
        special.logit(0.05 ** (1 / 100))
    )


def test_an_outcome_that_chance_explains_shows_nothing():
    assert epsilon_lower_bound(Outcome(1000, 200, 105), 1e-5) == 0.0
    assert epsilon_lower_bound(Outcome(1000, 200, 0), 1e-5) == 0.0
    assert epsilon_lower_bound(Outcome(1000, 0, 0), 1e-5) == 0.0


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 300), st.data())
def test_more_correct_guesses_show_more_and_delta_and_confidence_show_less(guesses, data):
    correct = data.draw(st.integers(0, guesses - 1))
    fewer, more = Outcome(300, guesses, correct), Outcome(300, guesses, correct + 1)
    delta = data.draw(st.floats(0, 1.5e-3))
    bound = epsilon_lower_bound(fewer, delta)
    assert bound <= epsilon_lower_bound(more, delta) + 1e-9
    assert epsilon_lower_bound(fewer, delta, 0.99) <= bound <= epsilon_lower_bound(fewer, 0.0)
    low, high = sorted(data.draw(st.tuples(st.floats(0, 8), st.floats(0, 8))))
    assert p_value(fewer, low, delta) <= p_value(fewer, high, delta) + 1e-12


def randomised_response(rng, included, epsilon):
    """Each coin, told truly with probability e^epsilon / (1 + e^epsilon)."""
    truly = rng.random(len(included)) < special.expit(epsilon)
    return np.where(truly, included, ~included)


@pytest.mark.parametrize("abstain", [False, True])
@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_randomised_response_is_contradicted_in_one_trial_of_twenty_at_most(epsilon, abstain):
    rng, trials, bounds = np.random.default_rng(1), 600, []
    bound_of = functools.cache(lambda outcome: epsilon_lower_bound(outcome, 0.0))
    for _ in range(trials):
        included = rng.random(300) < 0.5
        told = randomised_response(rng, included, epsilon)
        # To abstain from the half that has the smaller confidence, which knows of no coin.
        scores = np.where(told, 1.0, -1.0) * rng.random(300)
        number = 150 if abstain else 300
        bounds.append(bound_of(guess(scores, included, number // 2, number // 2)))
    contradicted = np.sum(np.array(bounds) > epsilon)
    # So many happen with probability 1e-4 if the true rate is 5 %.
    assert contradicted <= stats.binom.ppf(1 - 1e-4, trials, 0.05)
    assert np.mean(bounds) > 0.4 * epsilon  # and it is no empty bound


def test_the_choice_among_numbers_of_guesses_is_paid_for():
    rng, trials, above = np.random.default_rng(2), 600, 0
    for _ in range(trials):
        included = rng.random(200) < 0.5
        above += audit(rng.random(200), included, [20, 50, 100, 200], 1e-5).epsilon > 0
    assert above <= stats.binom.ppf(1 - 1e-4, trials, 0.05)
    included = np.arange(200) % 2 == 0
    scores = included + rng.normal(size=200)
    bound = audit(scores, included, [20, 100], 1e-5)
    singles = [
        epsilon_lower_bound(guess(scores, included, n // 2, n // 2), 1e-5, 0.975) for n in (20, 100)
    ]
    assert bound.epsilon == pytest.approx(max(singles), abs=1e-9)
    assert bound.tried == 2


def test_the_highest_are_guessed_in_and_the_lowest_out():
    scores = np.array([0.1, 5.0, -3.0, 2.0, -1.0])
    included = np.array([True, True, False, False, True])
    assert guess(scores, included, 2, 1) == Outcome(5, 3, 2)  # 1 right, 3 wrong; 2 right
    assert guess(scores, included, 0, 2) == Outcome(5, 2, 1)
    assert guess(scores, included, 5, 0) == Outcome(5, 5, 3)
    assert guess(scores, included, 0, 0) == Outcome(5, 0, 0)


def test_equal_scores_tell_nothing():
    included = np.random.default_rng(0).random(400) < 0.5
    outcome = guess(np.zeros(400), included, 100, 100)
    assert outcome.correct == np.sum(~included[:100]) + np.sum(included[-100:])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Outcome(10, 11, 5), "guesses must lie in 0..10, got 11"),
        (lambda: Outcome(10, 5, 6), "correct must lie in 0..5, got 6"),
        (lambda: Outcome(10, 5, 2.5), "correct must be a whole number, got 2.5"),
        (lambda: Outcome(0, 0, 0), "num_canaries must be a whole number above 0"),
        (lambda: p_value(Outcome(10, 5, 5), -1.0, 0.0), "epsilon must be a finite number"),
        (lambda: p_value(Outcome(1000, 5, 5), 1.0, 5e-4), "delta must be below 1/(2 canaries)"),
        (lambda: epsilon_lower_bound(Outcome(10, 5, 5), -1e-9), "delta must be a finite number"),
        (lambda: epsilon_lower_bound(Outcome(10, 5, 5), 0.0, 1.0), "confidence must lie strictly"),
        (lambda: guess(np.zeros(3), np.zeros(4, bool), 1, 1), "scores must be one for each coin"),
        (lambda: guess(np.array([1, np.nan]), np.zeros(2, bool), 1, 1), "scores must be finite"),
        (lambda: guess(np.zeros(4), np.zeros(4, bool), 3, 2), "guesses must be 0..4 together"),
        (lambda: audit(np.zeros(4), np.zeros(4, bool), [], 0.0), "guesses must name at least one"),
        (lambda: audit(np.zeros(4), np.zeros(4, bool), [3], 0.0), "guesses must be even numbers"),
        (lambda: audit(np.zeros(4), np.zeros(4, bool), [6], 0.0), "guesses must be even numbers"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, message):
    with pytest.raises(InputError) as refused:
        call()
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
