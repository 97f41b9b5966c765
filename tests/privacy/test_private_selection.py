"""The best of a random number of runs: how many there are, what the choice costs, what is said."""

import json
import math
import random

import dp_accounting
import numpy as np
import pytest
from dp_accounting import dp_event
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import ledger, statement
from keras_dpvit.privacy.private_selection import RandomTrials, TrialCount

SHAPES = [0.0, 0.5, 1.0, 3.0, math.inf]
COUNTS = np.arange(0, 20_000)


def a_plan(**changes):
    arguments = {
        "num_examples": 1000, "batch_size": 100, "epochs": 2, "delta": 1e-5, "noise_multiplier": 2.0
    }  # fmt: skip
    return kd.PrivacyPlan(**{**arguments, **changes})


def spent(**changes):
    plan = a_plan(**changes)
    return kd.PrivacyLedger(plan.entries(plan.steps))


def probabilities(mean, shape):
    """Of 0, 1, 2, ... runs, by SciPy's distributions."""
    if math.isinf(shape):
        return stats.poisson.pmf(COUNTS, mean)
    if shape == 0:
        going_on = optimize.brentq(lambda p: stats.logser.mean(p) - mean, 1e-9, 1 - 1e-9)
        return stats.logser.pmf(COUNTS, going_on)
    if shape == 1:
        return stats.geom.pmf(COUNTS, 1 / mean)

    def truncated(gamma):
        pmf = stats.nbinom.pmf(COUNTS, shape, gamma)
        return np.where(COUNTS > 0, pmf, 0.0) / (1 - pmf[0])

    gamma = optimize.brentq(lambda g: truncated(g) @ COUNTS - mean, 1e-3, 1 - 1e-6)
    return truncated(gamma)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mean", [1.5, 12.0])
def test_numbers_of_runs_follow_their_distribution(mean, shape, monkeypatch):
    # The system's entropy, made repeatable: eight p-values would be one false alarm in 1e5 runs.
    monkeypatch.setattr(random, "SystemRandom", lambda: generator)
    generator = random.Random(1)
    count, draws = TrialCount(mean, shape), 4000
    drawn = np.bincount([count.draw() for _ in range(draws)], minlength=len(COUNTS))
    expected = draws * probabilities(mean, shape)
    common = expected > 8
    observed = [*drawn[common], drawn[~common].sum()]
    wanted = [*expected[common], draws - expected[common].sum()]
    if wanted[-1] < 8:  # too few for the statistic: into the class before
        observed[-2:], wanted[-2:] = [sum(observed[-2:])], [sum(wanted[-2:])]
    assert stats.chisquare(observed, wanted).pvalue > 1e-6
    assert drawn[0] == 0 or math.isinf(shape)


@settings(max_examples=60, deadline=None)
@given(st.floats(1.0, 60.0), st.floats(0, 5) | st.sampled_from([0.0, 1.0, math.inf]))
@example(2.0, 5e-324)
def test_the_mean_is_the_one_that_is_paid_for(mean, shape):
    count = TrialCount(mean, shape)
    number, probability, ratio = count._first()
    numbers, masses = [], []
    while number < 100_000 and (probability > 1e-18 or number < 2 * mean):
        numbers.append(number)
        masses.append(probability)
        probability *= ratio(number)
        number += 1
    assert math.fsum(masses) == pytest.approx(1.0, abs=1e-6)
    assert np.dot(numbers, masses) == pytest.approx(mean, rel=1e-5)


def test_a_mean_of_one_is_one_run():
    assert {TrialCount(1, shape).draw() for shape in (0, 0.3, 1) for _ in range(20)} == {1}
    assert {TrialCount(1, math.inf).draw() for _ in range(60)} > {0, 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.9,), "mean must lie in 1..500"),
        ((501,), "mean must lie in 1..500"),
        ((math.nan,), "mean must"),
        ((True,), "mean must"),
        ((10, -0.1), "shape must"),
        ((10, math.nan), "shape must"),
        ((10, "poisson"), "shape must"),
    ],
)
def test_bad_counts_are_refused_in_one_line(arguments, message):
    for make in (TrialCount, kd.random_trials, spent().compose_selection):
        with pytest.raises(InputError, match=message) as caught:
            make(*arguments)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_choice_costs_what_dp_accounting_says(shape):
    """Before and after it other trainings on the same records, and a choice among choices."""
    release = dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(2.0))
    run = dp_accounting.SelfComposedDpEvent(release, 20)
    chosen = dp_event.RepeatAndSelectDpEvent(run, 10, shape)
    twice = dp_event.RepeatAndSelectDpEvent(dp_accounting.ComposedDpEvent([chosen, run]), 3, 1)
    one = spent().compose_selection(10, shape)
    both = ledger.compose([one, spent()], "shared")
    for made, events in (
        (one, [chosen]),
        (both, [chosen, run]),
        (both.compose_selection(3), [twice]),
        (ledger.compose([spent(), both.compose_selection(3)], "shared"), [run, twice]),
    ):
        accountant = dp_accounting.rdp.RdpAccountant()
        for event in events:
            accountant.compose(event)
        assert made.epsilon(1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-12)
        assert made.delta(2.0) == pytest.approx(accountant.get_delta(2.0), rel=1e-9)
    assert one.epsilon(1e-5) > spent().epsilon(1e-5)


@pytest.mark.parametrize("shape", [1.0, math.inf])
@pytest.mark.parametrize("mean", [2.0, 10.0])
def test_the_claim_bounds_the_best_of_gaussian_releases(mean, shape):
    """A run releases a number with Gaussian noise, and the highest is kept: exactly, by quadrature.

    Its distribution function is the count's generating function of one run's.
    """
    noise = 2.0
    claim = kd.PrivacyLedger((ledger.LedgerEntry(1, noise, 1.0),)).compose_selection(mean, shape)

    def density(x, centre):
        below = stats.norm.cdf(x, centre, noise)
        if math.isinf(shape):
            slope = mean * math.exp(mean * (below - 1))
        else:
            slope = mean / (mean - (mean - 1) * below) ** 2
        return slope * stats.norm.pdf(x, centre, noise)

    for centres in ((0.0, 1.0), (1.0, 0.0)):
        total = integrate.quad(lambda x, c=centres[0]: density(x, c), -25, 25, limit=400)[0]
        assert total == pytest.approx(1 - (math.exp(-mean) if math.isinf(shape) else 0), abs=1e-6)
        for epsilon in (0.1, 0.5, 1.0, 2.0):
            excess = integrate.quad(
                lambda x, c=centres, e=epsilon: max(
                    0.0, density(x, c[0]) - math.exp(e) * density(x, c[1])
                ),
                -25,
                25,
                limit=400,
            )[0]
            assert excess <= claim.delta(epsilon) + 1e-9


def test_nothing_private_costs_nothing_to_choose_and_no_noise_stays_infinite():
    assert kd.PrivacyLedger().compose_selection(10) == kd.PrivacyLedger()
    for shape in SHAPES:
        assert spent(noise_multiplier=0.0).compose_selection(10, shape).epsilon(1e-5) == math.inf
    published = kd.PrivacyPlan.as_published(
        num_examples=100, batch_size=10, epochs=1, delta=1e-5, noise_multiplier=5.0
    )
    assert kd.PrivacyLedger(published.entries(10)).compose_selection(10).epsilon(1e-5) == math.inf


@pytest.mark.parametrize("shape", SHAPES)
def test_ledgers_with_a_choice_survive_strict_json(shape):
    one = spent().compose_selection(10, shape)
    for made in (
        one,
        ledger.compose([spent(), one, spent().compose_selection(2)], "shared"),
        ledger.compose([one, spent()], "disjoint"),
        ledger.compose([one, spent()], "disjoint").compose_selection(4),
    ):
        text = json.dumps(made.to_dict(), allow_nan=False)
        again = ledger.ledger_from_dict(json.loads(text))
        assert again.to_dict() == made.to_dict()
        assert again.epsilon(1e-5) == made.epsilon(1e-5)
    damaged = one.to_dict()
    del damaged["entries"][0]["mean"]
    with pytest.raises(InputError, match="ledger is damaged"):
        ledger.ledger_from_dict(damaged)
    damaged["entries"][0]["mean"] = 0.2
    with pytest.raises(InputError, match="mean must"):
        ledger.ledger_from_dict(damaged)


def test_on_disjoint_parts_the_larger_choice_counts():
    one, other = spent(), spent(noise_multiplier=1.5)
    both = ledger.compose([one, other], "disjoint").compose_selection(5)
    assert both.epsilon(1e-5) == other.compose_selection(5).epsilon(1e-5)


def test_pld_is_not_available_for_a_choice():
    made = ledger.compose([spent(), spent().compose_selection(10)], "shared")
    for kind in (made, ledger.compose([made, spent()], "disjoint")):
        assert ledger.accountants(kind) == ("rdp",)
        assert set(statement.epsilons(kind, 1e-5)) == {"rdp"}
        for ask in (kind.epsilon, kind.delta):
            with pytest.raises(InputError, match="accountant must be rdp where a choice"):
                ask(0.1, "pld")
    assert ledger.accountants(spent()) == ("rdp", "pld")
    with pytest.raises(InputError, match="must be one of pld, rdp"):
        made.epsilon(1e-5, "gdp")


def words(made):
    text = statement.statement(made, 1e-5)
    assert max(map(len, text.splitlines())) <= 80
    return " ".join(text.split())


def test_the_statement_says_whether_the_choice_is_counted():
    plain, chosen = words(spent()), words(spent().compose_selection(10))
    assert "Hyper-parameters chosen by looking at results on these records: not counted." in plain
    assert "best of a random number" not in plain
    assert "epsilon by PLD:" in plain
    assert "not available" not in plain
    for fact in (
        "This training was chosen as the best of a random number of runs (geometric, mean 10), and "
        "epsilon counts the choice",
        "not counted, but for the choice among runs named above",
        "epsilon by PLD: not available",
        "nothing of the other runs is released",
    ):
        assert fact in chosen
    assert statement.format_epsilon(spent().compose_selection(10).epsilon(1e-5)) in chosen
    more = [spent(), *[spent(), spent().compose_selection(3, math.inf)]]
    together = ledger.compose(more, "shared")
    assert "composition of 3 trainings" in words(together)
    assert "Training 3 was chosen as the best of a random number of runs (Poisson" in words(
        together
    )
    nested = kd.PrivacyLedger(together.entries).compose_selection(2, 0.5)
    assert "Trainings 1 to 3 were" not in words(spent())
    assert "(truncated negative binomial of shape 0.5, mean 2)" in words(nested)
    assert statement.uncovered(spent())[1] != statement.uncovered(nested)[1]


class Model:
    """A model as far as trials look at one."""

    def __init__(self, made=None):
        self.privacy_ledger = spent() if made is None else made
        self.counted = []

    def count_selection(self, mean, shape):
        self.counted.append((mean, shape))


class Fixed(TrialCount):
    """A number of trials that a test knows."""

    def draw(self):
        return int(self.mean)


@pytest.mark.parametrize(
    ("scores", "best"),
    [([0.3], 0), ([0.1, 0.9, 0.5], 1), ([0.5, 0.5], 0), ([math.nan, 0.2], 1), ([math.nan] * 2, 0)],
)
def test_the_best_of_all_trials_is_given_and_counted_once(scores, best):
    trials = RandomTrials(Fixed(len(scores), 0.5))
    models = [Model() for _ in scores]
    for trial in trials:
        trials.offer(models[trial], scores[trial])
    assert trials.best() is trials.best() is models[best]
    counted = [model.counted for model in models]
    assert counted == [[(len(scores), 0.5)] if i == best else [] for i in range(len(scores))]


def test_no_trial_gives_no_model():
    class NoTrial(TrialCount):
        def draw(self):
            return 0

    trials = RandomTrials(NoTrial(3, math.inf))
    assert list(trials) == []
    assert trials.best() is None


def test_what_the_price_does_not_cover_is_refused():
    trials = RandomTrials(Fixed(3))
    with pytest.raises(InputError, match="must be offered once, within the loop"):
        trials.offer(Model(), 1.0)
    with pytest.raises(InputError, match="trial 0 must be offered before the next"):
        for _ in trials:
            pass
    trials = RandomTrials(Fixed(3))
    for trial in trials:
        if trial == 1:
            break  # good enough, one may think
        trials.offer(Model(), 1.0)
        with pytest.raises(InputError, match="must be offered once"):
            trials.offer(Model(), 2.0)
    with pytest.raises(InputError, match="best is known after the last trial"):
        trials.best()
    with pytest.raises(InputError, match="gone through once"):
        list(trials)
    trials = RandomTrials(Fixed(2))
    for trial in trials:
        if trial == 0:
            for odd, message in (
                (object(), "model must be a DPViTClassifier"),
                (Model(kd.PrivacyLedger()), "its ledger is empty"),
            ):
                with pytest.raises(InputError, match=message):
                    trials.offer(odd, 1.0)
        else:
            with pytest.raises(InputError, match="every trial must cost the same"):
                trials.offer(Model(spent(noise_multiplier=1.9)), 1.0)
        trials.offer(Model(), 0.0)


def test_the_number_of_trials_is_drawn_from_the_distribution():
    numbers = [len([trials.offer(Model(), 0) for _ in trials])
               for trials in (kd.random_trials(3) for _ in range(300))]  # fmt: skip
    assert min(numbers) == 1
    # A number's deviation is 2.45, the mean's 0.14: seven and eight deviations, below 1e-8; and
    # no 1 among them has (2/3)^300.
    assert 2 < np.mean(numbers) < 4.2
