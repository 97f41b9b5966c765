"""How a run's settings become one plan for each member."""

import dataclasses
import types

import dp_accounting
import pytest

from keras_dpvit.runs import heads, training
from keras_dpvit.runs.settings import RunSettings


def options(**changes):
    return RunSettings(**{"epsilon": 4.0, "epochs": 3.0, "batch_size": 50, "members": 3, **changes})


def together(plans):
    accountant = dp_accounting.rdp.RdpAccountant()
    for plan in plans:
        release = dp_accounting.GaussianDpEvent(plan.noise_multiplier)
        accountant.compose(
            dp_accounting.PoissonSampledDpEvent(plan.sampling_probability, release), plan.steps
        )
    return accountant.get_epsilon(1e-5)


def test_members_on_shared_records_spend_the_budget_together():
    plans = training.plans(1000, options())
    assert [plan.num_examples for plan in plans] == [1000] * 3
    assert 3.9 < together(plans) <= 4.0


def test_members_on_disjoint_records_have_the_budget_each():
    plans = training.plans(1000, options(members_data="disjoint"))
    assert [plan.num_examples for plan in plans] == [333] * 3
    for plan in plans:
        assert 3.9 < together([plan]) <= 4.0


def test_one_member_has_the_whole_budget_whatever_its_data():
    (plan,) = training.plans(1000, options(members=1, members_data="disjoint"))
    assert plan.num_examples == 1000
    assert 3.9 < together([plan]) <= 4.0


def test_flags_reach_the_plan():
    plan, other, _ = training.plans(
        1000, options(l2_norm_clip=0.5, clipping="flat", seed=7, epochs=2.5)
    )
    assert plan.sensitivity.name == "fixed"
    assert plan.sensitivity.l2_norm_clip == 0.5
    assert plan.clipping.name == "flat"
    assert (plan.batch_size, plan.steps) == (50, 50)
    # Equal seeds would give the members equal noise.
    assert (plan.seed, other.seed) == (7, 8)


@pytest.mark.parametrize(
    ("num_examples", "expected"), [(1, 1), (12, 2), (1437, 256), (60_000, 1024), (10**7, 1024)]
)
def test_default_batch_fits_the_data(num_examples, expected):
    assert training.default_batch_size(num_examples) == expected
    (plan,) = training.plans(num_examples, options(batch_size=None, members=1, l2_norm_clip=1.0))
    assert plan.batch_size == expected


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        (1, 1),
        (9, 9),
        (10, 10),
        (99, 99),
        (101, 100),
        (1437, 1400),
        (59_999, 59_000),
        (10**6, 10**6),
    ],
)
def test_a_number_of_two_digits_is_planned_for_unless_one_is_given(records, expected):
    assert training.public_number(records, options()) == expected
    assert training.public_number(records, options(num_examples=1234)) == 1234


def test_one_record_decides_the_plan_at_a_hundredth_of_sizes_at_most():
    """The faulty twin plans for the number itself, and tells it to the last record."""
    sizes = range(1000, 2000)
    planned = [training.public_number(size, options()) for size in sizes]
    assert len(set(planned)) == 10
    assert len(set(sizes)) == 1000
    given = {training.public_number(size, options(num_examples=1500)) for size in sizes}
    assert given == {1500}


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("digits", {}, ["Training curves", "The number of records, rounded"]),
        ("digits", {"num_examples": 5}, ["Training curves"]),
        ("image_folder", {"num_examples": 5}, ["Training curves", "Class names were read"]),
        ("image_folder", {"num_examples": 5, "classes": ["a", "b"]}, ["Training curves"]),
        ("image_folder", {}, ["Training curves", "The number of", "Class names were read"]),
    ],
)
def test_limits_name_what_leaves_beside_the_sums(name, changes, told):
    lines = training.disclosures(types.SimpleNamespace(name=name), options(**changes))
    assert [line[: len(start)] for line, start in zip(lines, told, strict=True)] == told


def test_what_is_printed_before_training_has_the_public_number_alone():
    (plan,) = training.plans(1400, options(members=1))
    data = types.SimpleNamespace(
        name="digits", x_train=range(1437), x_test=range(360), class_names=("a", "b")
    )
    shown = options(members=1)
    text = training.describe(plan, data, "tiny", shown, 1400)
    assert "1400" in text
    assert "1437" not in text


@pytest.mark.parametrize(
    ("center_noise", "records", "expected"),
    [
        (None, 60_000, None),
        (5.0, 100, 5.0),
        ("auto", 29_999, None),
        ("auto", 30_000, 20.0),
        ("auto", 60_000, 20.0),
    ],
)
def test_means_are_released_where_records_are_many(center_noise, records, expected):
    settings = options(center_noise=center_noise, members=1, l2_norm_clip=0.1, accountant="pld")
    assert heads.center_noise(settings, records) == expected
    (plan,) = training.plans(records, settings, 3)
    # Three Gaussian releases take their part of the budget, or none does.
    alone = training.plans(records, dataclasses.replace(settings, center_noise=None))
    assert (plan.noise_multiplier > alone[0].noise_multiplier) == (expected is not None)


def test_members_with_few_records_each_release_no_means():
    disjoint = options(center_noise="auto", members=2, members_data="disjoint", batch_size=500)
    first, _ = training.plans(40_000, disjoint, 3)  # 20,000 each
    plain, _ = training.plans(40_000, dataclasses.replace(disjoint, center_noise=None), 3)
    assert first.noise_multiplier == plain.noise_multiplier
