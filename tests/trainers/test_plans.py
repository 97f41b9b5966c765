"""How `train` turns flags into one plan for each member."""

import types

import dp_accounting
import pytest

from trainers import _members


def options(**changes):
    values = {
        "epsilon": 4.0,
        "delta": 1e-5,
        "epochs": 3.0,
        "batch_size": 50,
        "members": 3,
        "members_data": "shared",
        "accountant": "rdp",
        "clipping": "median_layer",
        "l2_norm_clip": None,
        "seed": None,
    }
    return types.SimpleNamespace(**{**values, **changes})


def together(plans):
    accountant = dp_accounting.rdp.RdpAccountant()
    for plan in plans:
        release = dp_accounting.GaussianDpEvent(plan.noise_multiplier)
        accountant.compose(
            dp_accounting.PoissonSampledDpEvent(plan.sampling_probability, release), plan.steps
        )
    return accountant.get_epsilon(1e-5)


def test_members_on_shared_records_spend_the_budget_together():
    plans = _members.plans(1000, options())
    assert [plan.num_examples for plan in plans] == [1000] * 3
    assert 3.9 < together(plans) <= 4.0


def test_members_on_disjoint_records_have_the_budget_each():
    plans = _members.plans(1000, options(members_data="disjoint"))
    assert [plan.num_examples for plan in plans] == [333] * 3
    for plan in plans:
        assert 3.9 < together([plan]) <= 4.0


def test_one_member_has_the_whole_budget_whatever_its_data():
    (plan,) = _members.plans(1000, options(members=1, members_data="disjoint"))
    assert plan.num_examples == 1000
    assert 3.9 < together([plan]) <= 4.0


def test_flags_reach_the_plan():
    plan, other, _ = _members.plans(
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
    assert _members.default_batch_size(num_examples) == expected
    (plan,) = _members.plans(num_examples, options(batch_size=None, members=1, l2_norm_clip=1.0))
    assert plan.batch_size == expected
