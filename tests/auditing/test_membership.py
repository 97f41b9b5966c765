"""Attacks and rates against sums by hand, closed forms and scikit-learn."""

import itertools
import math

import numpy as np
import pytest
import sklearn.metrics
from scipy import special, stats

from keras_dpvit.auditing import (
    attack_result,
    largest_auc,
    lira,
    loss_threshold,
    membership_scores,
    most_true_positives,
    rmia,
)
from keras_dpvit.auditing.membership import true_class_confidences
from keras_dpvit.errors import InputError

# Two checks of one test share a false alarm of 1e-6.
SURE = 1 - 5e-7
DISTANCE, SPREAD, MODELS, RECORDS = 1.5, 2.0, 256, 8000


def gaussian_world(distance=DISTANCE, models=MODELS, records=RECORDS, seed=0):
    """Logits `level + distance * included + N(0, 1)`, levels of records N(0, SPREAD^2)."""
    rng = np.random.default_rng(seed)
    level = SPREAD * rng.normal(size=records)
    halves = np.arange(models)[:, None] < models // 2
    included = rng.permuted(np.tile(halves, (1, records)), axis=0)
    members = rng.random(records) < 0.5
    said = level + distance * included + rng.normal(size=(models, records))
    target = level + distance * members + rng.normal(size=records)
    return special.expit(target), special.expit(said), included, members


@pytest.fixture(scope="module")
def world():
    return gaussian_world()


def check_closed_form(scores, members, distance, slack=0.0):
    """Scores N(distance, 1) of members and N(0, 1) of others, up to a rescaling."""
    smaller = min(members.sum(), (~members).sum())
    # Hoeffding for a two-sample U-statistic of terms in 0..1.
    most = math.sqrt(math.log(2 / (1 - SURE)) / (2 * smaller))
    result = attack_result(scores, members, (0.01,))
    assert abs(result.auc - stats.norm.cdf(distance / math.sqrt(2))) < most + slack
    (rate,) = result.rates
    count = stats.binomtest(rate.false_positives, rate.non_members)
    falsely = np.array(count.proportion_ci(SURE, method="exact"))
    expected = stats.norm.cdf(distance - stats.norm.isf(falsely))
    low, high = rate.interval(SURE)
    assert low < expected[1]
    assert high > expected[0] - slack
    assert rate.false_positives == math.floor(0.01 * rate.non_members)


def test_offline_lira_is_as_strong_as_its_closed_form(world):
    target, references, included, members = world
    scores = lira(target, references, included, online=False, fix_variance=True)
    # The mean of half of the models is known to 1 / sqrt(MODELS / 2).
    check_closed_form(scores, members, DISTANCE / math.sqrt(1 + 2 / MODELS))


def test_online_lira_is_as_strong_as_its_closed_form(world):
    target, references, included, members = world
    for fixed in (True, False):
        scores = lira(target, references, included, fix_variance=fixed)
        # Means of 128 models, and each record's own variance, are not known for certain.
        check_closed_form(scores, members, DISTANCE, slack=0.01 if fixed else 0.03)


def test_the_loss_threshold_is_as_strong_as_its_closed_form(world):
    target, _, _, members = world
    check_closed_form(loss_threshold(target), members, DISTANCE / math.sqrt(1 + SPREAD**2))


def test_faulty_twins_are_below_chance(world):
    target, references, included, members = world
    inverted = lira(target, references, ~included)
    assert attack_result(inverted, members).auc_interval[1] < 0.5
    for scores in membership_scores(target, references, included).values():
        assert attack_result(scores, ~members).auc_interval[1] < 0.5
        assert attack_result(scores, members).auc_interval[0] > 0.5


def test_where_models_tell_nothing_no_attack_finds_anything():
    target, references, included, members = gaussian_world(distance=0.0, models=16, seed=1)
    population = target[:200], references[:, :200]
    scores = membership_scores(target[200:], references[:, 200:], included[:, 200:], population)
    for of_records in scores.values():
        # Above or below by chance once in 500,000: DeLong's interval at that confidence.
        low, high = attack_result(of_records, members[200:], confidence=1 - 2e-6).auc_interval
        assert low < 0.5 < high


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("online", [True, False])
def test_lira_is_its_definition(fixed, online):
    target, references, included, _ = gaussian_world(models=12, records=30)
    logits, observed = special.logit(references), special.logit(target)
    sides = {}
    for side, chosen in (("in", included), ("out", ~included)):
        of_record = [logits[chosen[:, i], i] for i in range(30)]
        means = np.array([values.mean() for values in of_record])
        stddevs = np.array([values.std(ddof=1) for values in of_record])
        if fixed:
            rest = np.concatenate([v - m for v, m in zip(of_record, means, strict=True)])
            stddevs = np.full(30, math.sqrt((rest**2).sum() / (len(rest) - 30)))
        sides[side] = stats.norm(means, stddevs)
    if online:
        expected = sides["in"].logpdf(observed) - sides["out"].logpdf(observed)
    else:  # the paper's score is a quantile
        expected = stats.norm.ppf(sides["out"].cdf(observed))
    found = lira(target, references, included, online, fixed)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("gamma", "offline_a"), [(1.0, 0.3), (2.0, 0.0), (1.3, 1.0)])
def test_rmia_is_its_definition(gamma, offline_a):
    target, references, included, _ = gaussian_world(models=8, records=40)
    in_population, of_records = slice(0, 15), slice(15, 40)

    def ratio(i, out):
        p = 0.5 * ((1 + offline_a) * references[out, i].mean() + 1 - offline_a)
        return target[i] / p

    everybody = np.ones(8, bool)
    beaten = [ratio(i, everybody) for i in range(15)]
    expected = [
        np.mean([ratio(i, ~included[:, i]) / z >= gamma for z in beaten]) for i in range(15, 40)
    ]
    found = rmia(
        target[of_records],
        references[:, of_records],
        included[:, of_records],
        target[in_population],
        references[:, in_population],
        gamma,
        offline_a,
    )
    np.testing.assert_allclose(found, expected)


def test_a_confidence_of_one_or_zero_is_no_infinity():
    included = np.array([[True, True], [True, True], [False, False], [False, False]])
    scores = membership_scores(np.array([1.0, 0.0]), np.where(included, 1.0, 0.0), included)
    assert all(np.isfinite(of_records).all() for of_records in scores.values())
    assert scores["lira_online"][0] > 0 > scores["lira_online"][1]


def test_auc_and_interval_with_ties_pair_by_pair():
    rng = np.random.default_rng(3)
    scores, members = rng.integers(0, 12, 150).astype(float), rng.random(150) < 0.4
    scores += 2 * members
    found = attack_result(scores, members)
    assert found.auc == pytest.approx(sklearn.metrics.roc_auc_score(members, scores))
    pairs = np.sign(scores[members][:, None] - scores[~members]) / 2 + 0.5
    variance = pairs.mean(axis=1).var(ddof=1) / len(pairs)
    variance += pairs.mean(axis=0).var(ddof=1) / pairs.shape[1]
    half = stats.norm.ppf(0.975) * math.sqrt(variance)
    assert found.auc_interval == pytest.approx((found.auc - half, found.auc + half))


def test_the_rate_is_that_of_the_curve_and_its_interval_clopper_pearsons():
    rng = np.random.default_rng(4)
    scores, members = np.round(rng.normal(size=2000), 1), rng.random(2000) < 0.5
    scores += members
    curve = sklearn.metrics.roc_curve(members, scores, drop_intermediate=False)
    for rate in attack_result(scores, members, (0.001, 0.01, 0.3)).rates:
        expected = curve[1][curve[0] <= rate.at].max()
        assert rate.true_positive_rate == pytest.approx(expected)
        exact = stats.binomtest(rate.true_positives, rate.members).proportion_ci(0.9, "exact")
        assert rate.interval(0.9) == pytest.approx((exact.low, exact.high))


@pytest.mark.parametrize(("epsilon", "delta"), [(0, 0), (1, 0), (1, 0.1), (4, 1e-3), (0, 0.3)])
def test_what_is_allowed_is_the_curve_of_the_worst_mechanism(epsilon, delta):
    """That one says all with probability delta, and is else randomised response."""
    right = (1 - delta) / (1 + math.exp(-epsilon))
    with_record = np.array([delta, right, 1 - delta - right, 0.0])
    without = with_record[::-1]
    falsely, truly = np.append(0, np.cumsum(without)), np.append(0, np.cumsum(with_record))
    for rate in np.linspace(0, 1, 41):
        expected = max(  # every randomised test between two thresholds
            np.interp(rate, falsely[[i, j]], truly[[i, j]])
            for i, j in itertools.combinations(range(5), 2)
            if falsely[i] <= rate <= falsely[j]
        )
        assert most_true_positives(rate, epsilon, delta) == pytest.approx(expected, abs=1e-12)
    area = np.trapezoid(truly, falsely) if hasattr(np, "trapezoid") else np.trapz(truly, falsely)
    assert largest_auc(epsilon, delta) == pytest.approx(area)


def test_a_claim_of_infinity_allows_all_and_a_large_one_is_no_overflow():
    assert most_true_positives(0.0, math.inf, 0.0) == largest_auc(math.inf, 0.0) == 1.0
    assert most_true_positives(1e-9, 5000.0, 0.0) == largest_auc(5000.0, 0.0) == 1.0
    assert most_true_positives(0.0, 5.0, 1e-5) == pytest.approx(1e-5)


def test_a_rate_contradicts_a_claim_that_is_too_small(world):
    target, references, included, members = world
    (rate,) = attack_result(lira(target, references, included), members, (0.01,)).rates
    # A shift by 1.5: at FPR 1 % the true rate is 0.20, which needs an epsilon of 3.0.
    assert rate.contradicts(2.0, 0.0)
    assert rate.contradicts(0.0, 0.05)
    assert not rate.contradicts(3.0, 0.0)
    assert not rate.contradicts(math.inf, 0.0)


def test_confidences_are_those_of_softmax():
    logits = np.array([[1.0, 3.0], [800.0, -800.0], [-60.0, 0.0]], "float32")
    found = true_class_confidences(logits, np.array([1, 1, 0]))
    np.testing.assert_allclose(found, [special.expit(2.0), 0.0, special.expit(-60.0)], rtol=1e-6)


GOOD = np.full(3, 0.5), np.full((4, 3), 0.5), np.tile([[True], [False]], (2, 3))
FEW = np.array([[True] * 3] * 3 + [[False] * 3])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lira(GOOD[1], *GOOD[1:]), r"target must have shape \(records,\), got \(4, 3\)"),
        (lambda: lira(GOOD[0], GOOD[0], GOOD[2]), r"references must have shape \(models, records"),
        (lambda: lira(GOOD[0], GOOD[1][:, :2], GOOD[2]), r"references must have shape \(models, 3"),
        (lambda: lira(*GOOD[:2], GOOD[2][:2]), r"included must be a bool array of shape \(4, 3\)"),
        (lambda: lira(*GOOD[:2], GOOD[2] + 0), "included must be a bool array"),
        (lambda: lira(*GOOD[:2], FEW), "out of at least 2 reference models, record 0 is out of 1"),
        (lambda: lira(*GOOD[:2], ~FEW), "in at least 2 reference models, record 0 is in 1 of 4"),
        (lambda: lira(2 * GOOD[0] + 1, *GOOD[1:]), "target must be confidences from 0 to 1"),
        (lambda: loss_threshold([math.nan]), "target must be confidences from 0 to 1"),
        (lambda: rmia(*GOOD, *GOOD[:2], gamma=0), "gamma must be a finite number above 0"),
        (lambda: rmia(*GOOD, *GOOD[:2], offline_a=2), r"offline_a must lie in 0\.\.1"),
        (
            lambda: rmia(*GOOD, GOOD[0], GOOD[1][:2]),
            r"each of the 4 reference models and .* \(2, 3\)",
        ),
        (lambda: rmia(*GOOD, GOOD[0][:2], GOOD[1]), r"reference_population must have shape"),
        (lambda: rmia(*GOOD, GOOD[0][:0], GOOD[1][:, :0]), "models and at least one record"),
        (lambda: attack_result(GOOD[0], GOOD[0]), "scores and members must be one number"),
        (lambda: attack_result(GOOD[0], GOOD[0] > 0), "members must be at least 2 records and"),
        (lambda: attack_result(GOOD[0] * math.nan, GOOD[0] > 0), "scores must not be NaN"),
        (lambda: attack_result(np.arange(4.0), np.arange(4) > 1, (1.0,)), "false_positive_rates"),
        (lambda: most_true_positives(0.1, -1.0, 0.0), "epsilon must be 0 or above, got -1.0"),
        (lambda: most_true_positives(0.1, 1.0, 2.0), r"delta must lie in 0\.\.1, got 2.0"),
        (lambda: most_true_positives(1.1, 1.0, 0.0), r"false_positive_rate must lie in 0\.\.1"),
        (lambda: largest_auc(math.nan, 0.0), "epsilon must be 0 or above, got nan"),
        (lambda: true_class_confidences(GOOD[1], GOOD[0] > 9), "one label for each record"),
        (lambda: true_class_confidences(GOOD[1][:3], np.array([0, 1, 3])), r"in 0\.\.2"),
        (lambda: true_class_confidences(GOOD[1] / 1.5, [0] * 4), "logits must not be probabil"),
        (lambda: true_class_confidences(GOOD[1] * math.inf, [0] * 4), "logits must be finite"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
