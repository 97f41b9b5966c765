"""Numbers of any kind become plain ones, and what cannot be true is refused."""

import dataclasses
import fractions
import json
import math

import hypothesis
import keras
import numpy as np
import pytest
from dp_accounting.rdp.rdp_privacy_accountant import DEFAULT_RDP_ORDERS as RDP_ORDERS
from hypothesis import strategies as st

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import accounting, ledger
from keras_dpvit.privacy.ledger_entries import LedgerEntry, uncounted
from keras_dpvit.privacy.noise_schedules import LinearNoise, StepNoise
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.privacy.private_selection import TrialCount
from keras_dpvit.training.augmentation import Augmentation

INTS = [int, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
FLOATS = [float, np.float16, np.float32, np.float64, np.longdouble, fractions.Fraction]
KINDS = st.tuples(st.sampled_from(INTS), st.sampled_from(FLOATS))
SCHEDULE = {"num_examples": 60_000, "batch_size": 1_000, "epochs": 10.0, "delta": 1e-5}

# Each makes an object out of one kind of whole number and one of the others.
MAKERS = {
    "plan": lambda i, f: PrivacyPlan(
        i(60), i(20), f(1.5), f(0.25), f(1.5), microbatch_size=i(1), compositions=i(2), seed=i(3),
        target_epsilon=f(2.5), sensitivity=kd.FixedSensitivity(f(0.5)),
    ),
    "fixed_layer": lambda i, f: kd.FixedLayerClipping(f(0.5)),
    "fixed_layers": lambda i, f: kd.FixedLayerClipping([f(0.5), i(2)]),
    "automatic": lambda i, f: kd.AutomaticClipping(f(0.5), np.bool_(True)),
    "fixed": lambda i, f: kd.FixedSensitivity(f(0.5)),
    "dynamic": lambda i, f: kd.DynamicSensitivity(
        f(0.5), i(1), f(0.25), f(0.5), count_noise_stddev=f(8)
    ),
    "linear": lambda i, f: LinearNoise(f(1.5), i(1), i(4)),
    "steps": lambda i, f: StepNoise([f(0.5)], [i(1), f(0.5)]),
    "augmentation": lambda i, f: Augmentation(i(2), i(1), np.bool_(False)),
    "trials": lambda i, f: TrialCount(i(10), f(0.5)),
    "entry": lambda i, f: LedgerEntry(i(5), f(1.5), f(0.25), "fixed_size", i(2)),
}  # fmt: skip


def plain(value):
    """Whether a value holds Python's own numbers and nothing else."""
    if dataclasses.is_dataclass(value):
        return all(plain(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, (tuple, list)):
        return all(map(plain, value))
    return type(value) in (int, float, bool, str, dict, type(None))


@hypothesis.given(kinds=KINDS, name=st.sampled_from(sorted(MAKERS)))
@hypothesis.settings(deadline=None)
def test_every_kind_of_number_becomes_a_plain_one(kinds, name):
    made = MAKERS[name](*kinds)
    assert plain(made)
    assert made == MAKERS[name](int, float)


def test_the_check_sees_a_number_that_was_left_as_it_was():
    @dataclasses.dataclass(frozen=True)
    class Faulty:
        steps: int

    assert not plain(Faulty(np.int32(5)))


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint32])
def test_a_plan_of_numpy_numbers_costs_what_it_costs(kind):
    """Multiplied as they are, 32 bits wrap around: to steps below 0, and to an epsilon of 0."""
    with np.errstate(over="ignore"):
        faulty = np.int32(60_000) * np.int32(40_000)
    assert faulty < 0
    numbers = {"num_examples": kind(60_000), "batch_size": kind(100), "epochs": kind(40_000)}
    plan = PrivacyPlan(**numbers, delta=np.float32(1e-5), noise_multiplier=np.float32(2))
    same = PrivacyPlan(60_000, 100, 40_000, float(np.float32(1e-5)), 2.0)
    assert plan.steps == same.steps == 24_000_000
    assert plan.epsilon() == same.epsilon() > 1
    made = PrivacyPlan.for_target(
        epsilon=np.float32(3), delta=1e-5, num_examples=kind(60_000), batch_size=kind(1_000),
        epochs=kind(10), compositions=kind(2), sensitivity=kd.FixedSensitivity(),
    )  # fmt: skip
    assert plain(made)
    assert 2.9 < ledger.PrivacyLedger(2 * made.entries(made.steps)).epsilon(1e-5) <= 3
    assert PrivacyPlan.from_config(json.loads(json.dumps(made.get_config()))) == made


def test_a_model_trained_under_numpy_numbers_is_saved_and_loaded(tmp_path):
    whole = np.int64
    plan = PrivacyPlan(
        whole(40), whole(20), whole(1), np.float32(1e-4), np.float64(1), seed=whole(3)
    )
    network = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(),
                                keras.layers.Dense(3)])  # fmt: skip
    model = kd.make_private(network)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kd.DPKerasSGDOptimizer(plan, 0.1), loss)
    rng = np.random.default_rng(0)
    model.fit(rng.random((40, 4, 4, 1), "float32"), rng.integers(0, 3, 40), verbose=0)
    model.save(tmp_path / "model.keras")
    again = kd.load_model(tmp_path / "model.keras")
    assert again.privacy_ledger == model.privacy_ledger
    assert again.privacy_ledger.epsilon(1e-4) > 0
    assert again.optimizer.plan == dataclasses.replace(plan, seed=None)


NO_NUMBERS = [True, "10", None, math.nan, math.inf, -math.inf, np.array([10]), np.array(10), 1j,
              10**400, -1, [10], np.datetime64(10, "s"), np.longdouble("1e4000")]  # fmt: skip


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: repr(value)[:20])
def test_what_is_no_number_is_refused_in_one_line(value):
    one = {**SCHEDULE, "noise_multiplier": 1.0}
    makers = [
        lambda name=name: PrivacyPlan(**{**one, name: value})
        for name in (*one, "microbatch_size", "compositions")
    ]
    makers += [
        lambda: kd.FixedSensitivity(value),
        lambda: kd.DynamicSensitivity(floor=value),
        lambda: kd.DynamicSensitivity(initial=value),
        lambda: kd.DynamicSensitivity(learning_rate=value),
        lambda: kd.AutomaticClipping(value),
        lambda: LinearNoise(start=value),
        lambda: LinearNoise(stairs=value),
        lambda: StepNoise(values=(1.0, value)),
        lambda: Augmentation(copies=value),
        lambda: Augmentation(shift=value),
        lambda: Augmentation(mirror=10 if value is True else value),
        lambda: TrialCount(value),
        lambda: kd.PrivacyBudget(value),
        lambda: PrivacyPlan.for_target(epsilon=value, **SCHEDULE),
        lambda: LedgerEntry(value, 1.0, 0.1),
        lambda: LedgerEntry(5, value, 0.1),
        lambda: LedgerEntry(5, 1.0, value),
        lambda: LedgerEntry(5, 1.0, 0.1, passes=value),
        lambda: ledger.PrivacyLedger((LedgerEntry(5, 1.0, 0.1),)).epsilon(value),
    ]
    for make in makers:
        with pytest.raises(InputError) as caught:
            make()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    "changes",
    [{"epochs": 1e300}, {"noise_multiplier": 1e-200},
     {"noise_multiplier": 1e300}, {"delta": 1.0}, {"delta": 0.0}, {"num_examples": 2**60},
     {"noise_schedule": StepNoise(values=(1.0, 1e-300))}, {"seed": 1.5}, {"seed": True}],
)  # fmt: skip
def test_numbers_out_of_all_proportion_are_refused(changes):
    with pytest.raises(InputError) as caught:
        PrivacyPlan(**{**SCHEDULE, "noise_multiplier": 1.0, **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("norm", [1e-10, 1e-200, 1e10, 1e300])
def test_norms_whose_squares_float32_cannot_hold_are_refused(norm):
    for make in (kd.FixedSensitivity, kd.FixedLayerClipping,
                 lambda x: kd.FixedLayerClipping((1.0, x)), lambda x: kd.DynamicSensitivity(x),
                 lambda x: kd.DynamicSensitivity(initial=x)):  # fmt: skip
        with pytest.raises(InputError, match="scale the loss instead"):
            make(norm)
    with np.errstate(under="ignore", over="ignore"):
        square = [float(np.square(np.float32(x))) for x in (1e-30, 1e30)]
    assert square == [0.0, math.inf]  # what the limits keep away
    for least in (1e-9, 1e9):
        assert kd.FixedSensitivity(least).l2_norm_clip == least
        assert 0 < np.float32(least) ** 2 < math.inf


WRONG = [
    {"steps": -5_058_466}, {"steps": 1.5}, {"steps": True}, {"noise_multiplier": math.nan},
    {"noise_multiplier": -1.0}, {"noise_multiplier": math.inf}, {"noise_multiplier": "1"},
    {"sampling_probability": 0.0}, {"sampling_probability": 1.5}, {"passes": -1},
    {"sampling": "fixed_size", "passes": 6}, {"sampling": "fixed_size", "passes": 0},
    {"sampling": "balls"}, {"certified": 1}, {"certified": "yes"}, {"details": "none"},
    {"details": {"delta": 2}}, {"not_covered": "text"}, {"invalidated_by": [3]},
    {"release_id": None}, {"surplus": 1},
]  # fmt: skip


@pytest.mark.parametrize("changes", WRONG, ids=str)
def test_a_ledger_with_what_cannot_be_is_damaged(changes):
    good = LedgerEntry(5, 1.0, 0.1).to_dict()
    data = {"kind": "sequential", "entries": [{**good, **changes}]}
    for told in (data, {"kind": "parallel", "parts": [data]}):
        with pytest.raises(InputError, match=r"^The ledger is damaged: ") as caught:
            ledger.ledger_from_dict(told)
        assert str(caught.value).count("damaged") == 1
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [{}, [], None, {"kind": "sequential"}, {"kind": "sequential", "entries": [3]},
             {"kind": "sequential", "entries": [{"kind": "selection"}]}],
)  # fmt: skip
def test_what_is_no_ledger_at_all_is_damaged(data):
    with pytest.raises(InputError, match="The ledger is damaged"):
        ledger.ledger_from_dict(data)


def test_what_was_released_never_costs_nothing():
    """So much noise costs an epsilon of 0 by the accountants, and 0 reads as 'not trained'."""
    entry = LedgerEntry(1, 1e9, 1e-3)
    assert accounting.epsilon_of_event(entry.event(), 1e-5) == 0.0
    spent = ledger.PrivacyLedger((entry,))
    for name in accounting.ACCOUNTANTS:
        assert 0 < spent.epsilon(1e-5, name) < 1e-6
    assert ledger.PrivacyLedger((uncounted("Nobody knows."),)).epsilon(1e-5) == 0.0
    assert spent.compose_selection(10).epsilon(1e-5) > 0


@pytest.mark.parametrize("result", [math.nan, -0.1])
def test_an_accountant_that_fails_is_not_believed(result, monkeypatch):
    class Failing:
        rdp = np.zeros(len(RDP_ORDERS))  # by which PLD chooses how fine it counts

        def compose(self, event):
            return self

        def get_epsilon(self, delta):
            return result

        def get_delta(self, epsilon):
            return result

    monkeypatch.setattr(accounting, "make_accountant", lambda name, about=0.0: Failing())
    for count in (accounting.epsilon_of_event, accounting.delta_of_event):
        with pytest.raises(InputError, match="cannot be counted"):
            count(None, 0.5, "pld")
    with pytest.raises(InputError, match="cannot be counted"):
        accounting.epsilon_of_rdp(np.full(len(RDP_ORDERS), np.nan), 0.5)
