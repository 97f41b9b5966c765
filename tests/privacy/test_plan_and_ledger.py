"""Plans, ledgers and epsilons against TF Privacy, dp_accounting by hand and each other."""

import json
import math
import subprocess
import sys

import dp_accounting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import accounting, ledger, statement, tf_privacy


def a_plan(**changes):
    arguments = {
        "num_examples": 60_000,
        "batch_size": 2048,
        "epochs": 10,
        "delta": 1e-5,
        "noise_multiplier": 1.1,
    }
    return kd.PrivacyPlan(**{**arguments, **changes})


@pytest.mark.parametrize("num_examples", [1437, 60_000])
@pytest.mark.parametrize("batch_size", [64, 240])
@pytest.mark.parametrize("noise_multiplier", [0.7, 0.9, 1.1, 4.0])
@pytest.mark.parametrize("epochs", [3, 10])
def test_epsilon_is_that_of_tf_privacy(num_examples, batch_size, noise_multiplier, epochs):
    plan = a_plan(
        num_examples=num_examples,
        batch_size=batch_size,
        epochs=epochs,
        noise_multiplier=noise_multiplier,
        sensitivity=kd.FixedSensitivity(1.0),
    )
    run = (num_examples, batch_size, noise_multiplier, epochs, 1e-5)
    said = tf_privacy.compute_dp_sgd_privacy_statement(*run)
    assert f"Epsilon assuming Poisson sampling (*):               {plan.epsilon():12.3f}" in said
    release = dp_accounting.GaussianDpEvent(noise_multiplier)
    sampled = dp_accounting.PoissonSampledDpEvent(batch_size / num_examples, release)
    by_hand = dp_accounting.rdp.RdpAccountant().compose(
        sampled, math.ceil(epochs * num_examples / batch_size)
    )
    assert plan.epsilon() == pytest.approx(by_hand.get_epsilon(1e-5), rel=1e-12)
    # The older function looks at these RDP orders only: the same event, a slightly looser bound.
    orders = [1.25, 1.5, 1.75, 2, 2.25, 2.5, 3, 3.5, 4, 4.5, *range(5, 64), 128, 256, 512]
    accountant = dp_accounting.rdp.RdpAccountant(orders).compose(
        kd.PrivacyLedger(plan.entries(plan.steps)).event()
    )
    theirs = tf_privacy.compute_dp_sgd_privacy(*run)
    assert accountant.get_epsilon(1e-5) == pytest.approx(theirs, rel=1e-12)
    assert 0.95 * theirs <= plan.epsilon() <= theirs * (1 + 1e-12)


def test_epsilon_by_hand_by_both_accountants():
    plan = a_plan()
    event = dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(2048 / 60_000, dp_accounting.GaussianDpEvent(1.1)),
        math.ceil(10 * 60_000 / 2048),
    )
    rdp = dp_accounting.rdp.RdpAccountant().compose(event).get_epsilon(1e-5)
    pld = dp_accounting.pld.PLDAccountant().compose(event).get_epsilon(1e-5)
    assert plan.epsilon(accountant="rdp") == pytest.approx(rdp)
    assert plan.epsilon(accountant="pld") == pytest.approx(pld)
    assert pld < rdp


@settings(max_examples=15, deadline=None)
@given(
    epsilon=st.floats(0.1, 20),
    delta=st.sampled_from([1e-7, 1e-5, 1e-3]),
    batch_size=st.integers(200, 2000),
    epochs=st.integers(1, 30),
    compositions=st.integers(1, 3),
)
def test_calibration_never_overshoots_and_wastes_little(
    epsilon, delta, batch_size, epochs, compositions
):
    plan = kd.PrivacyPlan.for_target(
        epsilon=epsilon,
        delta=delta,
        num_examples=20_000,
        batch_size=batch_size,
        epochs=epochs,
        compositions=compositions,
    )
    together = kd.PrivacyLedger(plan.entries(plan.steps) * compositions)
    spent = together.epsilon(delta)
    assert 0.98 * epsilon <= spent <= epsilon


def test_calibration_by_pld_needs_less_noise():
    target = {
        "epsilon": 3.0, "delta": 1e-5, "num_examples": 60_000, "batch_size": 2048, "epochs": 10
    }  # fmt: skip
    by_rdp = kd.PrivacyPlan.for_target(**target)
    by_pld = kd.PrivacyPlan.for_target(accountant="pld", **target)
    assert by_pld.noise_multiplier < by_rdp.noise_multiplier
    assert by_pld.epsilon(accountant="pld") <= 3.0 < by_pld.epsilon(accountant="rdp")


@settings(max_examples=50, deadline=None)
@given(noise_multiplier=st.floats(0.1, 5), batch_size=st.integers(200, 5000))
def test_split_costs_what_the_plan_says(noise_multiplier, batch_size):
    dynamic = kd.DynamicSensitivity()
    gradient, count = dynamic.split_noise(noise_multiplier, batch_size)
    assert gradient > noise_multiplier
    # The joint release is one Gaussian: whitened, a record moves it by 1/z_g and (1/2)/s.
    assert math.hypot(1 / gradient, 0.5 / count) == pytest.approx(1 / noise_multiplier)
    assert kd.FixedSensitivity().split_noise(noise_multiplier, batch_size) == (
        noise_multiplier,
        0.0,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delta": 0.0}, "delta must"),
        ({"delta": 1.0}, "delta must"),
        ({"delta": float("nan")}, "delta must"),
        ({"batch_size": 60_001}, "batch_size must not exceed"),
        ({"batch_size": 0}, "batch_size must"),
        ({"batch_size": 2.5}, "batch_size must"),
        ({"num_examples": -1}, "num_examples must"),
        ({"epochs": 0}, "epochs must"),
        ({"epochs": float("inf")}, "epochs must"),
        ({"noise_multiplier": -1.0}, "noise_multiplier must"),
        ({"noise_multiplier": float("nan")}, "noise_multiplier must"),
        ({"clipping": "median"}, "clipping must"),
        ({"sensitivity": 1.0}, "sensitivity must"),
        ({"sensitivity": kd.DynamicSensitivity(count_noise_stddev=0.5)}, "count_noise_stddev"),
        ({"compositions": 0}, "compositions must"),
    ],
)
def test_bad_plans_are_refused_in_one_line(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        a_plan(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan"), float("inf"), "3", True])
def test_bad_targets_are_refused(epsilon):
    with pytest.raises(InputError, match="epsilon must"):
        kd.PrivacyPlan.for_target(
            epsilon=epsilon, delta=1e-5, num_examples=1000, batch_size=100, epochs=1
        )


@pytest.mark.parametrize(
    "make",
    [
        lambda: kd.DynamicSensitivity(floor=0),
        lambda: kd.DynamicSensitivity(initial=-1),
        lambda: kd.DynamicSensitivity(target_quantile=1.0),
        lambda: kd.DynamicSensitivity(combine="product"),
        lambda: kd.DynamicSensitivity(count_noise_stddev=0),
        lambda: kd.FixedSensitivity(0),
    ],
)
def test_bad_sensitivities_are_refused(make):
    with pytest.raises(InputError):
        make()


def test_plan_config_round_trip_without_the_seed():
    plan = a_plan(
        seed=5, sensitivity=kd.DynamicSensitivity(initial=0.5), clipping=kd.FlatClipping()
    )
    config = json.loads(json.dumps(plan.get_config()))
    assert "seed" not in config
    again = kd.PrivacyPlan.from_config(config)
    assert again.seed is None
    assert again.get_config() == plan.get_config()


def test_no_noise_has_infinite_epsilon_and_no_steps_none():
    assert a_plan(noise_multiplier=0.0).epsilon() == math.inf
    event = accounting.subsampled_gaussian_event(0.0, 0.1, 5)
    assert isinstance(event, dp_accounting.NonPrivateDpEvent)
    assert kd.PrivacyLedger(a_plan().entries(0)).epsilon(1e-5) == 0.0
    assert kd.PrivacyLedger().epsilon(1e-5) == 0.0


def test_full_batches_are_not_amplified():
    plan = a_plan(num_examples=100, batch_size=100, epochs=7, noise_multiplier=2.0)
    plain = dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(2.0), 7)
    expected = dp_accounting.rdp.RdpAccountant().compose(plain).get_epsilon(1e-5)
    assert plan.epsilon() == pytest.approx(expected)


def test_noise_of_sum_and_count_spends_the_multiplier_and_no_more():
    noise_multiplier, (on_sum, on_count) = (
        1.3,
        a_plan(noise_multiplier=1.3).mechanism().split_noise(),
    )
    assert on_sum**-2 + (2 * on_count) ** -2 == pytest.approx(noise_multiplier**-2)


def test_noise_as_published_is_that_of_the_thresholds_squared_sum():
    """Equation 13: the root of the sum of squares, not the sum."""
    plan = kd.PrivacyPlan.as_published(
        num_examples=600, batch_size=60, epochs=1, delta=1e-5, noise_multiplier=1.1
    )
    assert float(plan.mechanism().noise_stddev(0.0, 9.0)) == pytest.approx(1.1 * 3.0)


def test_shared_members_compose_and_disjoint_ones_cost_the_larger():
    one = kd.PrivacyLedger(a_plan().entries(100))
    other = kd.PrivacyLedger(a_plan(noise_multiplier=0.9).entries(50))
    shared = ledger.compose([one, other], "shared")
    by_hand = dp_accounting.rdp.RdpAccountant()
    for noise_multiplier, steps in ((1.1, 100), (0.9, 50)):
        release = dp_accounting.GaussianDpEvent(noise_multiplier)
        sampled = dp_accounting.PoissonSampledDpEvent(2048 / 60_000, release)
        by_hand.compose(sampled, steps)
    assert shared.epsilon(1e-5) == pytest.approx(by_hand.get_epsilon(1e-5))
    disjoint = ledger.compose([one, other], "disjoint")
    assert disjoint.epsilon(1e-5) == max(one.epsilon(1e-5), other.epsilon(1e-5))
    assert one.delta(0.5) != other.delta(0.5)
    assert disjoint.delta(0.5) == max(one.delta(0.5), other.delta(0.5))
    assert shared.epsilon(1e-5) > disjoint.epsilon(1e-5)
    with pytest.raises(InputError, match="shared or disjoint"):
        ledger.compose([one, other], "both")
    # A record of each part was in the shared training too.
    both = ledger.compose([one, disjoint, disjoint], "shared")
    assert both.epsilon(1e-5) == max(
        ledger.compose([part, one], "shared").epsilon(1e-5) for part in disjoint.parts
    )
    assert both.epsilon(1e-5) > disjoint.epsilon(1e-5)
    with pytest.raises(InputError, match="one by one"):
        ledger.compose([disjoint, ledger.compose([other, other], "disjoint")], "shared")


def test_ledgers_survive_json():
    one = kd.PrivacyLedger((*a_plan().entries(100, 0, ("seen",)), *a_plan().entries(3)))
    for made in (one, ledger.compose([one, one], "disjoint")):
        again = ledger.ledger_from_dict(json.loads(json.dumps(made.to_dict())))
        assert again.to_dict() == made.to_dict()
        assert again.epsilon(1e-5) == made.epsilon(1e-5)
    for damaged in ({}, {"kind": "other"}, {"kind": "sequential", "entries": [{"steps": 1}]}):
        with pytest.raises(InputError, match="ledger"):
            ledger.ledger_from_dict(damaged)


def test_statement_says_what_was_done_and_what_was_not():
    plan = a_plan()
    spent = kd.PrivacyLedger(plan.entries(50, 0, ("Training loss shown.",)))
    text = statement.statement(spent, 1e-5)
    for fact in ("ADD_OR_REMOVE_ONE", "delta 1e-05", "50 steps", "Poisson", "dp_accounting 0.4.3",
                 "RDP", "PLD", "Training loss shown.", "Not covered", "median_layer"):  # fmt: skip
        assert fact in text
    assert max(map(len, text.splitlines())) <= 80
    assert statement.format_epsilon(spent.epsilon(1e-5)) in text
    assert "infinite" in statement.statement(
        kd.PrivacyLedger(a_plan(noise_multiplier=0.0).entries(5)), 1e-5
    )


@given(st.floats(1e-3, 100))
def test_a_printed_epsilon_is_still_a_bound(epsilon):
    printed = float(statement.format_epsilon(epsilon))
    assert epsilon - 1e-9 <= printed <= epsilon + 1.1e-3


def test_planning_does_not_wait_for_tensorflow():
    code = (
        "import sys, keras_dpvit as kd\n"
        "plan = kd.PrivacyPlan.for_target(epsilon=3, delta=1e-5, num_examples=1000,"
        " batch_size=100, epochs=2)\n"
        "assert plan.epsilon() <= 3\n"
        "assert not {'tensorflow', 'keras', 'tensorflow_privacy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_accountants_are_refused():
    with pytest.raises(InputError, match="accountant must be one of"):
        accounting.make_accountant("gdp")


def test_tf_privacy_imports_beside_this_tensorflow():
    assert tf_privacy.version() == "0.9.0"
    estimator = tf_privacy.geometric_quantile_estimator(1.0, 0.5, 0.2, 100)
    assert float(estimator.initial_global_state().current_estimate) == 1.0


def test_the_sensitivity_follows_tf_privacys_update():
    dynamic = kd.DynamicSensitivity(learning_rate=0.3, target_quantile=0.4)
    moved = float(dynamic.next_state(np.float32(2.0), np.float32(12.0), np.float32(-2.0), 50.0))
    # (12 - 2) / 50 + 1/2 of the records lie below.
    assert moved == pytest.approx(2.0 * math.exp(-0.3 * (0.7 - 0.4)), rel=1e-6)
    lowest = float(dynamic.next_state(np.float32(1e-3), np.float32(25.0), np.float32(0), 50.0))
    assert lowest == pytest.approx(dynamic.floor)


def test_caps():
    assert float(kd.DynamicSensitivity(floor=0.5).cap(np.float32(2.0))) == 2.5
    assert float(kd.DynamicSensitivity(floor=0.5, combine="max").cap(np.float32(2.0))) == 2.0
    assert float(kd.DynamicSensitivity(floor=3.0, combine="max").cap(np.float32(2.0))) == 3.0
    assert kd.FixedSensitivity(1.5).cap(1.5) == 1.5


def test_extremes_end_in_a_line_not_in_minutes():
    for extreme in ({"epsilon": 1e9}, {"epochs": 1e300}):
        arguments = {"epsilon": 3.0, "delta": 1e-5, "num_examples": 1000, "batch_size": 100}
        with pytest.raises(InputError):
            kd.PrivacyPlan.for_target(**{**arguments, "epochs": 2, **extreme})
    hardly_any = kd.PrivacyLedger(a_plan(noise_multiplier=0.02).entries(300))
    assert set(statement.epsilons(hardly_any, 1e-5)) == {"rdp"}


def test_small_batches_still_have_a_split():
    plan = a_plan(batch_size=10, noise_multiplier=2.0)
    assert plan.mechanism().split_noise()[0] == pytest.approx(2.0 / math.sqrt(0.75))
