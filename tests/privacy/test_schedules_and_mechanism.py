"""Noise schedules, microbatches, shuffles and plans as published against accounting by hand."""

import dataclasses
import itertools
import json
import math

import dp_accounting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import ledger, statement
from keras_dpvit.privacy.noise_schedules import schedule_from_dict, schedule_to_dict
from keras_dpvit.privacy.sensitivity import PublishedSensitivity

FACTORS = st.floats(0.3, 3.0)
STEP_SCHEDULES = st.lists(st.floats(0.01, 0.99), max_size=4, unique=True).flatmap(
    lambda boundaries: st.builds(
        kd.StepNoise,
        st.just(tuple(sorted(boundaries))),
        st.lists(FACTORS, min_size=len(boundaries) + 1, max_size=len(boundaries) + 1),
    )
)
SCHEDULES = (
    st.just(kd.ConstantNoise())
    | STEP_SCHEDULES
    | st.builds(kd.LinearNoise, FACTORS, FACTORS, st.integers(2, 12))
)


def a_plan(**changes):
    arguments = {
        "num_examples": 1000,
        "batch_size": 100,
        "epochs": 2,
        "delta": 1e-5,
        "noise_multiplier": 1.1,
    }
    return kd.PrivacyPlan(**{**arguments, **changes})


def rdp_epsilon(events, delta=1e-5):
    accountant = dp_accounting.rdp.RdpAccountant()
    for event in events:
        accountant.compose(event)
    return accountant.get_epsilon(delta)


def step_by_step(pairs):
    return [value for value, count in pairs for _ in range(count)]


def merged(entries):
    """The entries' releases, equal ones in a row as one."""
    groups = itertools.groupby(entries, key=lambda entry: entry.release[:2])
    return [(*key, sum(entry.release[2] for entry in group)) for key, group in groups]


@given(SCHEDULES, st.integers(1, 300))
def test_levels_cover_the_run(schedule, steps):
    levels = schedule.segments(steps)
    assert sum(count for _, count in levels) == steps
    assert all(factor > 0 and count > 0 for factor, count in levels)


@given(SCHEDULES, st.integers(1, 120), st.data())
def test_parts_of_a_run_are_slices_of_the_list_of_its_steps(schedule, steps, data):
    first = data.draw(st.integers(0, steps))
    last = data.draw(st.integers(first, steps))
    whole = step_by_step(schedule.segments(steps))
    assert step_by_step(schedule.runs(steps, first, last)) == whole[first:last]
    assert schedule.factor(min(first, steps - 1), steps) == whole[min(first, steps - 1)]


def test_each_schedule_changes_where_it_says():
    assert kd.ConstantNoise().segments(7) == [(1.0, 7)]
    step = kd.StepNoise(boundaries=(0.25, 0.5), values=(1.0, 2.0, 3.0))
    assert step_by_step(step.segments(8)) == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0]
    assert step_by_step(step.segments(7)) == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 3.0]  # no step sooner
    linear = kd.LinearNoise(start=1.0, end=0.5, stairs=3)
    assert step_by_step(linear.segments(6)) == [1.0, 1.0, 0.75, 0.75, 0.5, 0.5]


@settings(max_examples=30, deadline=None)
@given(SCHEDULES, st.lists(st.integers(0, 20), max_size=4))
def test_parts_of_a_run_add_up_to_the_whole_in_the_ledger(schedule, cuts):
    plan = a_plan(noise_schedule=schedule)
    ends = sorted({0, *cuts, plan.steps})
    parts = [
        entry
        for first, last in itertools.pairwise(ends)
        for entry in plan.entries(last - first, first)
    ]
    assert merged(parts) == merged(plan.entries(plan.steps))


@settings(max_examples=5, deadline=None)
@given(SCHEDULES, st.floats(0.6, 4))
def test_a_scheduled_run_costs_its_steps_one_by_one(schedule, noise_multiplier):
    plan = a_plan(batch_size=200, noise_schedule=schedule, noise_multiplier=noise_multiplier)
    by_hand = [
        dp_accounting.PoissonSampledDpEvent(
            0.2, dp_accounting.GaussianDpEvent(noise_multiplier * factor)
        )
        for factor in step_by_step(schedule.segments(plan.steps))
    ]
    assert len(by_hand) == 10
    assert plan.epsilon() == pytest.approx(rdp_epsilon(by_hand), rel=1e-9)
    assert [plan.mechanism(s).noise_multiplier for s in range(10)] == [
        pytest.approx(noise_multiplier * f) for f in step_by_step(schedule.segments(10))
    ]


@pytest.mark.parametrize(
    "kind",
    [
        {"noise_schedule": kd.ConstantNoise()},
        {"noise_schedule": kd.StepNoise((0.3, 0.8), (1.5, 1.0, 0.5))},
        {"noise_schedule": kd.LinearNoise(1.0, 0.4, 5)},
        {"num_microbatches": 25},
        {"microbatch_size": 2, "noise_schedule": kd.StepNoise()},
        {"sampling": "shuffled"},
        {"sampling": "external"},
        {"sampling": "shuffled", "microbatch_size": 4},
    ],
    ids=str,
)
@pytest.mark.parametrize("epsilon", [0.7, 6.0])
def test_calibration_meets_its_target_for_every_kind_of_plan(kind, epsilon):
    plan = kd.PrivacyPlan.for_target(
        epsilon=epsilon, delta=1e-5, num_examples=20_000, batch_size=500, epochs=3, compositions=2,
        **kind,
    )  # fmt: skip
    spent = kd.PrivacyLedger(plan.entries(plan.steps) * 2).epsilon(1e-5)
    assert 0.99 * epsilon < spent <= epsilon
    assert plan.target_epsilon == epsilon


def test_microbatches_double_the_sensitivity_and_so_the_noise_for_the_same_cost():
    single = a_plan(sensitivity=kd.FixedSensitivity(0.7))
    shared = a_plan(
        sensitivity=kd.FixedSensitivity(0.7), microbatch_size=4, noise_multiplier=2 * 1.1
    )
    assert shared.epsilon() == single.epsilon()
    assert shared.num_microbatches == 25
    assert single.mechanism().sensitivity(0.7) == pytest.approx(0.7)
    assert shared.mechanism().sensitivity(0.7) == pytest.approx(1.4)
    for plan in (single, shared):
        mechanism = plan.mechanism()
        assert mechanism.noise_stddev(0.7) == mechanism.split_noise()[0] * 0.7
        ratio = mechanism.noise_stddev(0.7) / mechanism.sensitivity(0.7)
        assert ratio == pytest.approx(mechanism.event_noise_multiplier) == pytest.approx(1.1)
    halves = a_plan(microbatch_size=4).entries(5)
    assert halves[0].noise_multiplier == pytest.approx(0.55)
    assert "doubles the sensitivity" in words(kd.PrivacyLedger(halves))


@settings(max_examples=40, deadline=None)
@given(st.floats(0.2, 4), st.sampled_from([1, 2, 10]), st.sampled_from([None, 3.0, 50.0]))
def test_sum_and_count_together_are_one_gaussian(noise_multiplier, size, stddev):
    """Whitened by their own noise, both releases move by 1 over the event's multiplier."""
    plan = a_plan(
        noise_multiplier=noise_multiplier,
        microbatch_size=size,
        sensitivity=kd.DynamicSensitivity(count_noise_stddev=stddev),
    )
    mechanism = plan.mechanism()
    gradient, count = mechanism.split_noise()
    cap, moved = 0.8, mechanism.units_moved
    by_gradient = moved * cap / (gradient * cap)
    by_count = 0.5 * moved / count
    assert math.hypot(by_gradient, by_count) == pytest.approx(
        1 / plan.entries(1)[0].noise_multiplier
    )


def test_the_event_of_a_step_is_the_mechanisms():
    plan = a_plan(noise_multiplier=1.7)
    expected = dp_accounting.PoissonSampledDpEvent(
        plan.sampling_probability, dp_accounting.GaussianDpEvent(1.7)
    )
    assert plan.mechanism().event() == dp_accounting.SelfComposedDpEvent(expected, 1)
    assert plan.sampling_probability < 1
    published = dataclasses.replace(plan.mechanism(), rule=PublishedSensitivity())
    assert published.event() == dp_accounting.NonPrivateDpEvent()


def test_the_mechanism_of_a_step_is_what_the_ledger_enters():
    plan = a_plan(noise_schedule=kd.LinearNoise(2.0, 0.5, 4), microbatch_size=2)
    spent = rdp_epsilon([plan.mechanism(step).event() for step in range(plan.steps)])
    assert spent == pytest.approx(plan.epsilon(), rel=1e-9)
    for sampling in ("shuffled", "external"):  # nothing is amplified
        event = a_plan(sampling=sampling).mechanism().event()
        assert rdp_epsilon([event]) == pytest.approx(
            rdp_epsilon([dp_accounting.GaussianDpEvent(a_plan().noise_multiplier)]), rel=1e-9
        )


@pytest.mark.parametrize("sampling", ["shuffled", "external"])
@pytest.mark.parametrize(("epochs", "passes"), [(1, 1), (3, 3), (2.5, 3), (0.1, 1)])
def test_a_pass_over_batches_of_fixed_size_costs_a_release_unamplified(sampling, epochs, passes):
    plan = a_plan(sampling=sampling, epochs=epochs, noise_multiplier=3.0)
    (entry,) = plan.entries(plan.steps)
    assert entry.passes == passes
    by_hand = [dp_accounting.GaussianDpEvent(3.0)] * passes
    assert plan.epsilon() == pytest.approx(rdp_epsilon(by_hand), rel=1e-9)
    assert f"{passes} passes" in words(kd.PrivacyLedger((entry,)))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 100), st.integers(0, 100))
def test_no_pass_that_was_touched_goes_uncounted(num_examples, batch_size, first, steps):
    batch_size = min(batch_size, num_examples)
    plan = a_plan(num_examples=num_examples, batch_size=batch_size, epochs=300, sampling="shuffled")
    touched = {step // (num_examples // batch_size) for step in range(first, first + steps)}
    counted = sum(entry.passes for entry in plan.entries(steps, first))
    assert counted == len(touched)


def test_passes_made_elsewhere_count_however_many_steps_they_have():
    plan = a_plan(sampling="external", epochs=2)  # 20 steps, were the batches the plan's
    first, second = plan.entries(400, 0, passes=1), plan.entries(400, 400, passes=1)
    assert [(e.steps, e.passes) for e in (*first, *second)] == [(400, 1), (400, 1)]
    assert kd.PrivacyLedger((*first, *second)).epsilon(1e-5) == pytest.approx(plan.epsilon())


def test_adjacency_is_that_of_the_weakest_sampling():
    poisson, shuffled = a_plan().entries(5), a_plan(sampling="shuffled").entries(5)
    for entries, expected in (
        (poisson, "ADD_OR_REMOVE_ONE"),
        (shuffled, "REPLACE_SPECIAL"),
        ((*poisson, *shuffled), "REPLACE_SPECIAL"),
    ):
        made = kd.PrivacyLedger(entries)
        assert ledger.adjacency(made) == expected
        assert ledger.adjacency(ledger.compose([made, made], "disjoint")) == expected
        assert expected in words(made)
        assert hasattr(dp_accounting.NeighboringRelation, expected)


def words(made):
    return " ".join(statement.statement(made, 1e-5).split())


def published(**changes):
    arguments = {
        "num_examples": 1000, "batch_size": 100, "epochs": 2, "delta": 1e-5, "noise_multiplier": 1.1
    }  # fmt: skip
    return kd.PrivacyPlan.as_published(**{**arguments, **changes})


def test_a_plan_as_published_costs_infinity_and_says_what_others_would_print():
    plan = published()
    assert plan.epsilon(accountant="rdp") == plan.epsilon(accountant="pld") == math.inf
    spent = kd.PrivacyLedger(plan.entries(plan.steps))
    assert spent.delta(3.0) == spent.delta(3.0, "pld") == 1.0
    nominal = a_plan(sensitivity=kd.FixedSensitivity()).epsilon()
    text = words(spent)
    assert "nominal, not a guarantee" in text
    assert f"would print epsilon {statement.format_epsilon(nominal)} at" in text
    assert "What is protected" not in text
    assert "Nothing is protected" in text
    assert text.count("infinite") >= 3
    # One such training spoils whatever it is composed with.
    assert kd.PrivacyLedger((*a_plan().entries(5), *plan.entries(1))).epsilon(1e-5) == math.inf


def test_no_target_can_be_met_as_published():
    with pytest.raises(InputError, match="certified"):
        kd.PrivacyPlan.for_target(
            epsilon=3, delta=1e-5, num_examples=1000, batch_size=100, epochs=1,
            sensitivity=PublishedSensitivity(),
        )  # fmt: skip


VARIANTS = {
    "poisson": a_plan(),
    "shuffled": a_plan(sampling="shuffled", epochs=1.5),
    "external": a_plan(sampling="external"),
    "microbatches": a_plan(microbatch_size=5),
    "step": a_plan(noise_schedule=kd.StepNoise((0.2, 0.6), (1, 2, 0.5))),
    "linear": a_plan(noise_schedule=kd.LinearNoise(2.0, 1.0, 3)),
    "fixed_layer": a_plan(clipping=kd.FixedLayerClipping([0.5, 1], "block")),
    "automatic": a_plan(clipping=kd.AutomaticClipping(0.1, True, "variable")),
    "flat": a_plan(clipping=kd.FlatClipping(), sensitivity=kd.FixedSensitivity(2.0)),
    "published": published(floor=0.01),
    "target": kd.PrivacyPlan.for_target(
        epsilon=2, delta=1e-5, num_examples=1000, batch_size=100, epochs=1, num_microbatches=50
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_plan_survives_its_config(name):
    plan = VARIANTS[name]
    assert kd.PrivacyPlan.from_config(plan.get_config()) == plan
    assert kd.PrivacyPlan.from_config(json.loads(json.dumps(plan.get_config()))) == plan
    seeded = dataclasses.replace(plan, seed=3)
    assert kd.PrivacyPlan.from_config(seeded.get_config()) == plan
    described = plan.describe()
    assert json.loads(json.dumps(described, allow_nan=False))["sampling"] == plan.sampling
    made = kd.PrivacyLedger(plan.entries(plan.steps))
    again = ledger.ledger_from_dict(json.loads(json.dumps(made.to_dict())))
    assert again.to_dict() == json.loads(json.dumps(made.to_dict()))
    assert again.epsilon(1e-5) == plan.epsilon()


@given(SCHEDULES)
def test_schedules_survive_their_dictionaries(schedule):
    assert schedule_from_dict(json.loads(json.dumps(schedule_to_dict(schedule)))) == schedule


FOR_TARGET = {"epsilon": 1, "delta": 1e-5, "num_examples": 1000, "batch_size": 100, "epochs": 1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: a_plan(sampling="balls"), "sampling must be one of"),
        (lambda: a_plan(microbatch_size=0), "microbatch_size must"),
        (lambda: a_plan(microbatch_size=1.0), "microbatch_size must"),
        (lambda: a_plan(microbatch_size=3), "microbatch_size must divide"),
        (lambda: a_plan(sampling="external", microbatch_size=2), "microbatch_size must be 1"),
        (lambda: a_plan(noise_schedule="step"), "noise_schedule must be a NoiseSchedule"),
        (
            lambda: a_plan(sampling="shuffled", noise_schedule=kd.StepNoise()),
            "noise_schedule must be constant",
        ),
        (lambda: published(clipping=kd.FlatClipping()), "clipping must be median_layer"),
        (lambda: published(floor=0.0), "floor must"),
        (lambda: kd.PrivacyPlan.for_target(**FOR_TARGET, num_microbatches=7), "must divide"),
        (lambda: kd.PrivacyPlan.for_target(**FOR_TARGET, num_microbatches=0), "num_microbatches"),
        (lambda: kd.StepNoise((0.5,), (1.0,)), "values must be 2"),
        (lambda: kd.StepNoise((0.5, 0.2), (1, 1, 1)), "boundaries must rise"),
        (lambda: kd.StepNoise((0.5, 0.5), (1, 1, 1)), "boundaries must rise"),
        (lambda: kd.StepNoise((1.0,), (1, 1)), "boundaries must"),
        (lambda: kd.StepNoise(0.5, (1, 1)), "boundaries must be several"),
        (lambda: kd.StepNoise((0.5,), (1, 0)), "values must"),
        (lambda: kd.StepNoise((0.5,), (1, math.inf)), "values must"),
        (lambda: kd.LinearNoise(start=0), "start must"),
        (lambda: kd.LinearNoise(end=-1.0), "end must"),
        (lambda: kd.LinearNoise(stairs=1), "stairs must be at least 2"),
        (lambda: kd.LinearNoise(stairs=2.5), "stairs must"),
        (lambda: schedule_from_dict({"name": "cosine"}), "noise_schedule must be one of"),
        (lambda: kd.FixedLayerClipping(0.0), "l2_norm_clips must"),
        (lambda: kd.FixedLayerClipping((1.0, math.nan)), "l2_norm_clips must"),
        (lambda: kd.FixedLayerClipping(groups="head"), "groups must be one of"),
        (lambda: kd.MedianLayerClipping(groups="model"), "groups must be one of"),
        (lambda: kd.AutomaticClipping(gamma=0), "gamma must"),
        (lambda: kd.PrivacyLedger(a_plan().entries(1)).delta(-1.0), "epsilon must"),
        (lambda: ledger.LedgerEntry(1, 1.0, 0.1, sampling="balls").release, "sampling must be one"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_in_one_line(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["poisson", "shuffled", "linear", "microbatches"])
@pytest.mark.parametrize("points", [1, 7])
def test_epsilon_curve_rises_from_nothing_to_the_whole(name, points):
    plan = VARIANTS[name]
    made = kd.PrivacyLedger((*plan.entries(plan.steps), *a_plan().entries(3)))
    curve = ledger.epsilon_curve(made, 1e-5, points)
    steps, epsilons = zip(*curve, strict=True)
    assert curve[0] == (0, 0.0)
    assert list(steps) == sorted(set(steps))
    assert (np.diff(epsilons) >= 0).all()
    assert curve[-1] == (plan.steps + 3, made.epsilon(1e-5))


@pytest.mark.parametrize("name", ["poisson", "shuffled"])
@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_delta_and_epsilon_are_inverses(name, accountant):
    made = kd.PrivacyLedger(VARIANTS[name].entries(VARIANTS[name].steps))
    back = made.delta(made.epsilon(1e-5, accountant), accountant)
    assert back == pytest.approx(1e-5, rel=1e-3 if accountant == "pld" else 0.3)
    if accountant == "rdp":
        assert back <= 1e-5 * (1 + 1e-9)
    disjoint = ledger.compose([made, kd.PrivacyLedger()], "disjoint")
    assert disjoint.delta(1.0, accountant) == made.delta(1.0, accountant)
    assert kd.PrivacyLedger().delta(1.0) == 0.0
