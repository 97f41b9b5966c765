"""One release told twice counts once, and epsilon as the steps went by."""

import dataclasses
import itertools
import json
import math

import dp_accounting
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_dpvit as kd
from keras_dpvit.privacy import accounting, ledger, statement


def a_plan(**changes):
    arguments = {
        "num_examples": 1000, "batch_size": 100, "epochs": 3, "delta": 1e-5, "noise_multiplier": 1.1
    }  # fmt: skip
    return kd.PrivacyPlan(**{**arguments, **changes})


def made_by(training, steps=30, **changes):
    """A ledger as a training leaves it: entries with an identity."""
    entries = a_plan(**changes).entries(steps)
    return kd.PrivacyLedger(
        tuple(
            dataclasses.replace(entry, release_id=f"{training}-{i}" if training else "")
            for i, entry in enumerate(entries)
        )
    )


def through_json(made):
    return ledger.ledger_from_dict(json.loads(json.dumps(made.to_dict())))


STEP_NOISE = kd.StepNoise((1 / 3, 2 / 3), (1.0, 0.7, 1.0))


def test_a_start_that_members_share_counts_once():
    start = made_by("start", noise_schedule=STEP_NOISE)
    own = [made_by("one", 5), made_by("other", 5)]
    members = [ledger.compose([through_json(start), mine], "shared") for mine in own]
    fused = ledger.compose(members, "shared")
    assert fused.entries == (*members[0].entries, *own[1].entries)
    by_hand = kd.PrivacyLedger((*start.entries, *own[0].entries, *own[1].entries))
    assert fused.epsilon(1e-5) == by_hand.epsilon(1e-5)
    # Told in another order, and the start itself among the members.
    again = ledger.compose([members[1], start, members[0], members[1]], "shared")
    assert again.epsilon(1e-5) == pytest.approx(by_hand.epsilon(1e-5))
    # One choice among runs, told twice.
    chosen = start.compose_selection(5)
    twice = ledger.compose([chosen, through_json(chosen)], "shared")
    assert twice.epsilon(1e-5) == chosen.epsilon(1e-5)
    # A record in one of the disjoint parts had a share in the start all the same.
    apart = ledger.compose(members, "disjoint")
    assert apart.epsilon(1e-5) == members[0].epsilon(1e-5)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (made_by(""), made_by("")),  # nobody knows whether they are the same
        (made_by("one"), made_by("other")),
        (made_by("one", 20), made_by("one", 30)),  # the second went on
        (made_by("one"), made_by("one", noise_multiplier=1.2)),
        (made_by("one").compose_selection(5), made_by("one").compose_selection(5)),
        (made_by("one").compose_selection(5), made_by("one")),
    ],
)
def test_what_may_be_another_release_counts(one, other):
    together = ledger.compose([one, other], "shared")
    assert together.entries == (*one.entries, *other.entries)
    if ledger.accountants(together) == ("rdp", "pld"):
        both = dp_accounting.ComposedDpEvent([one.event(), other.event()])
        assert together.epsilon(1e-5) == pytest.approx(accounting.epsilon_of_event(both, 1e-5))


def test_equal_stretches_of_one_schedule_all_count():
    start = made_by("start", noise_schedule=STEP_NOISE)
    first, _, last = start.entries
    assert first.cost == last.cost
    assert ledger.compose([start, start], "shared").entries == start.entries


def test_equal_releases_without_an_id_all_count():
    plan = kd.PrivacyPlan(1000, 100, 1, 1e-5, noise_multiplier=1.0)
    unnamed = kd.PrivacyLedger(plan.entries(plan.steps))
    assert ledger.compose([unnamed, unnamed], "shared").entries == unnamed.entries * 2


COMPOSED = {
    "constant": lambda: made_by("one"),
    "schedules": lambda: ledger.compose(
        [
            made_by("one", noise_schedule=kd.LinearNoise(1.5, 0.6, 6)),
            made_by("other", 17, noise_schedule=STEP_NOISE, batch_size=50),
        ],
        "shared",
    ),
    "shuffled": lambda: ledger.compose(
        [made_by("one", sampling="shuffled", noise_multiplier=6.0), made_by("other", 7)], "shared"
    ),
    "choice": lambda: ledger.compose(
        [made_by("one", 9), made_by("other", 9).compose_selection(4), made_by("third", 9)], "shared"
    ),
}


def events_until(made, step):
    """Step by step, by hand, of `COMPOSED`."""
    for entry in made.entries:
        taken = min(step, entry.steps)
        step -= taken
        if taken == 0:
            return
        if isinstance(entry, ledger.SelectionEntry):
            yield entry.event()
        elif entry.sampling == "fixed_size":
            passes = math.ceil(taken / 10)  # 1000 records in batches of 100
            yield dp_accounting.SelfComposedDpEvent(
                dp_accounting.GaussianDpEvent(entry.noise_multiplier), passes
            )
        else:
            release = dp_accounting.GaussianDpEvent(entry.noise_multiplier)
            sampled = dp_accounting.PoissonSampledDpEvent(entry.sampling_probability, release)
            yield dp_accounting.SelfComposedDpEvent(sampled, taken)


@pytest.mark.parametrize("name", COMPOSED)
def test_each_point_of_the_curve_is_epsilon_at_its_step(name):
    made = COMPOSED[name]()
    curve = ledger.epsilon_curve(made, 1e-5, points=12)
    total = sum(entry.steps for entry in made.entries)
    assert [step for step, _ in curve] == sorted({math.ceil(total * i / 12) for i in range(13)})
    for step, epsilon in curve:
        accountant = dp_accounting.rdp.RdpAccountant()
        for event in events_until(made, step):
            accountant.compose(event)
        expected = accountant.get_epsilon(1e-5) if step else 0.0
        assert epsilon == pytest.approx(expected, rel=1e-12)
    assert curve[-1] == (total, made.epsilon(1e-5))


def test_a_long_curve_asks_the_accountant_once_for_each_kind_of_step(monkeypatch):
    asked = []
    rdp_of_event = accounting.rdp_of_event
    monkeypatch.setattr(
        accounting, "rdp_of_event", lambda event: asked.append(event) or rdp_of_event(event)
    )
    plan = a_plan(
        num_examples=50_000,
        epochs=20,
        noise_multiplier=1.2345,
        noise_schedule=kd.LinearNoise(1.0, 0.5, 10),
    )
    made = kd.PrivacyLedger(plan.entries(plan.steps))
    curve = ledger.epsilon_curve(made, 1e-5)
    assert plan.steps == 10_000
    assert len(curve) == 41
    assert len(asked) == 10


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.integers(0, 30), st.integers(1, 40), st.data())
def test_part_of_a_shuffled_stretch_never_counts_too_few_passes(batches, first, steps, data):
    plan = a_plan(num_examples=100 * batches, batch_size=100, sampling="shuffled", epochs=50)
    (entry,) = plan.entries(steps, first)
    taken = data.draw(st.integers(1, steps))
    touched = {step // batches for step in range(first, first + taken)}
    part = entry.first(taken)
    assert len(touched) <= part.passes <= min(entry.passes, len(touched) + 1)
    if first % batches == (first + steps) % batches == 0:
        assert part.passes == len(touched)
    assert entry.first(steps) == entry


def test_the_statement_as_data_has_a_curve_for_each_sequence_of_releases():
    one, other = made_by("one"), made_by("other", 12)
    for made, parts in (
        (one, [one]),
        (ledger.compose([one, other], "disjoint"), [one, other]),
        (kd.PrivacyLedger(), [kd.PrivacyLedger()]),
    ):
        curves = json.loads(json.dumps(statement.to_dict(made, 1e-5)))["epsilon_curves"]
        assert len(curves) == len(parts)
        for curve, part in zip(curves, parts, strict=True):
            assert curve == [list(point) for point in ledger.epsilon_curve(part, 1e-5)]
            assert all(a <= b for a, b in itertools.pairwise(e for _, e in curve))
            assert len(curve) <= 60
