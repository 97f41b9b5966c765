"""DP-FedAvg: what one client moves, the noise, the samples, the ledger."""

import math

import dp_accounting
import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict

import keras_dpvit as kd
from keras_dpvit.baselines import federated
from keras_dpvit.baselines.federated import aggregation, messages, plans, strategies
from keras_dpvit.privacy import ledger
from keras_dpvit.privacy.ledger import ledger_from_dict

SHAPES = [(3, 4), (5,)]


def a_plan(**changes):
    arguments = {
        "num_clients": 8,
        "clients_per_round": 8,
        "rounds": 3,
        "delta": 1e-3,
        "noise_multiplier": 1.0,
        "l2_norm_clip": 0.5,
        "seed": 4,
    }
    return federated.client_plan(**{**arguments, **changes})


def an_update(scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return [(scale * rng.normal(size=shape)).astype("float32") for shape in SHAPES]


def length(arrays):
    return np.sqrt(sum(np.sum(np.square(a)) for a in arrays))


ODD = {
    "ordinary": an_update(),
    "huge": an_update(1e30),
    "infinite": [np.full(shape, np.inf, "float32") for shape in SHAPES],
    "nan": [np.full(shape, np.nan, "float32") for shape in SHAPES],
    "zero": [np.zeros(shape, "float32") for shape in SHAPES],
    "another shape": [np.ones((9, 9), "float32")],
    "dead": None,
}


def check_one_client_moves_the_release(aggregator_of, odd):
    """With the same noise, one client more moves the released sum by the bound at most."""
    others = [an_update(s, i) for i, s in enumerate((0.01, 1.0, 1e6))]
    ends = []
    for updates in ([*others, odd], others):
        aggregator = aggregator_of(a_plan())
        bound, expected = aggregator.bound, aggregator.plan.num_microbatches
        ends.append([expected * part for part in aggregator.release(updates)])
    moved = length([a - b for a, b in zip(*ends, strict=True)])
    assert moved <= bound * (1 + 1e-9)
    return moved


def an_aggregator(plan):
    return aggregation.ClientAggregator(plan, SHAPES)


@pytest.mark.parametrize("kind", ODD)
def test_one_client_moves_the_sum_by_the_bound_at_most(kind):
    moved = check_one_client_moves_the_release(an_aggregator, ODD[kind])
    assert (moved > 0.49) == (kind in ("ordinary", "huge"))


class Averaging(aggregation.ClientAggregator):
    """Divides by the number of updates that came."""

    def release(self, updates):
        factor = self.plan.num_microbatches / len(updates)
        return [factor * part for part in super().release(updates)]


class Weighting(aggregation.ClientAggregator):
    """Weighs an update by its client's number of records, 1000 for the first."""

    def _weights(self, parts):
        weights, norm = super()._weights(parts)
        return [1000 * weight for weight in weights], norm


class ByLayer(aggregation.ClientAggregator):
    """Clips each array for itself, and counts on one bound for all."""

    def _weights(self, parts):
        found = [min(1.0, self.bound / max(np.linalg.norm(part), 1e-9)) for part in parts]
        return found, 0.0


@pytest.mark.parametrize("twin", [Averaging, Weighting, ByLayer])
def test_faulty_twins_are_caught(twin):
    with pytest.raises(AssertionError):
        check_one_client_moves_the_release(lambda plan: twin(plan, SHAPES), ODD["ordinary"])


def check_noise(aggregator_of):
    """Of one round without clients, by 20,000 coordinates: 5 deviations of their deviation."""
    plan = a_plan(noise_multiplier=1.3, clients_per_round=4)
    aggregator = aggregator_of(plan, [(20_000,)])
    (found,) = aggregator.release([])
    expected = 1.3 * 0.5 / 4
    assert abs(np.std(found) / expected - 1) < 5 / math.sqrt(2 * 20_000)
    assert aggregator.rounds == 1


def test_noise_is_the_plans_whoever_came():
    check_noise(aggregation.ClientAggregator)

    class OnTheMean(aggregation.ClientAggregator):
        def release(self, updates):
            return [part / 4 for part in super().release(updates)]

    with pytest.raises(AssertionError):
        check_noise(OnTheMean)


def test_no_two_rounds_or_trainings_have_the_same_noise():
    aggregators = [aggregation.ClientAggregator(a_plan(seed=seed), [(100,)]) for seed in (1, 2)]
    found = [np.ravel(a.release([])) for a in aggregators for _ in range(2)]
    for i, one in enumerate(found):
        for other in found[:i]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.6  # six deviations


def test_clients_enter_by_draws_of_their_own():
    plan = a_plan(clients_per_round=2, rounds=4000)
    aggregator = an_aggregator(plan)
    counts, sizes = np.zeros(8), []
    for aggregator.rounds in range(4000):
        found = aggregator.sample(range(8))
        counts[found] += 1
        sizes.append(len(found))
    assert np.abs(counts / 4000 - 0.25).max() < 6 * math.sqrt(0.25 * 0.75 / 4000)
    assert np.var(sizes) == pytest.approx(8 * 0.25 * 0.75, rel=0.15)
    assert 0 in sizes


@pytest.mark.parametrize("clip", [0.5, None])
def test_epsilon_is_that_of_dp_accounting_by_hand(clip):
    plan = a_plan(
        num_clients=100, clients_per_round=10, rounds=7, noise_multiplier=0.8, l2_norm_clip=clip
    )
    made = ledger.PrivacyLedger(plans.client_entries(plan, 7, "id"))
    gradient, count = plan.mechanism().split_noise()
    together = gradient if clip else (gradient**-2 + (2 * count) ** -2) ** -0.5
    assert together == pytest.approx(0.8)
    accountant = dp_accounting.rdp.RdpAccountant()
    release = dp_accounting.GaussianDpEvent(together)
    accountant.compose(dp_accounting.PoissonSampledDpEvent(0.1, release), 7)
    assert made.epsilon(1e-3) == pytest.approx(accountant.get_epsilon(1e-3), rel=1e-9)
    assert made.epsilon(1e-3) == pytest.approx(plan.epsilon(), rel=1e-9)


def test_a_target_is_kept():
    plan = a_plan(
        num_clients=500, clients_per_round=25, rounds=40, noise_multiplier=None, epsilon=3
    )
    assert plan.steps == 40
    assert 2.9 < plan.epsilon() <= 3


@pytest.mark.parametrize("rounds", [1, 3, 7, 10, 49])
@pytest.mark.parametrize("drawn", [1, 3, 7])
def test_rounds_are_the_plans_steps(rounds, drawn):
    assert a_plan(num_clients=7, clients_per_round=drawn, rounds=rounds).steps == rounds


def test_rounds_beyond_the_plan_are_refused():
    aggregator = an_aggregator(a_plan(rounds=1))
    aggregator.release([])
    for more in (lambda: aggregator.release([]), lambda: aggregator.sample([1])):
        with pytest.raises(kd.InputError, match="1 rounds are spent"):
            more()


def test_the_bound_follows_the_updates_both_ways():
    for size, expected in ((10.0, 1), (1e-4, -1)):
        plan = a_plan(
            rounds=20,
            noise_multiplier=0.01,
            l2_norm_clip=None,
            sensitivity=kd.DynamicSensitivity(initial=1.0),
        )
        aggregator = an_aggregator(plan)
        before = aggregator.bound
        for _ in range(20):
            aggregator.release([an_update(size, i) for i in range(8)])
        assert np.sign(aggregator.bound - before) == expected


def test_statement_and_ledger_say_that_the_unit_is_a_client():
    plan = a_plan(noise_multiplier=2.0)
    made = ledger.PrivacyLedger(plans.client_entries(plan, 3, "id"))
    text = " ".join(kd.privacy.statement.statement(made, 1e-3).split())
    assert text.startswith(
        "Client-level differential privacy, ADD_OR_REMOVE_ONE adjacency of one client with all"
    )
    assert "DP-FedAvg, 3 rounds" in text
    assert "The server, which sees the update of each client" in text
    assert "the guarantee is for one client." in text
    assert "the guarantee is for one record." not in text
    assert "one client" in kd.privacy.statement.headline(made, 1e-3)
    assert ledger_from_dict(made.to_dict()) == made
    assert made.to_dict()["entries"][0]["unit"] == "client"
    assert "unit" not in kd.PrivacyLedger(plan.entries(3)).to_dict()["entries"][0]
    damaged = made.to_dict()
    damaged["entries"][0]["unit"] = "hospital"
    with pytest.raises(kd.InputError, match="unit must be one of client, record"):
        ledger_from_dict(damaged)


def test_clients_and_records_together_are_one_persons():
    entries = [*a_plan().entries(1), *plans.client_entries(a_plan(), 2, "id")]
    mixed = ledger.PrivacyLedger(tuple(entries))
    text = " ".join(kd.privacy.statement.statement(mixed, 1e-3).split())
    assert text.startswith("Mixed-level differential privacy, ADD_OR_REMOVE_ONE adjacency of one")
    assert "the guarantee is for one client." in text
    assert "the guarantee is for one record." in text


class Nodes:
    """A grid of eight nodes that sends nothing."""

    def get_node_ids(self):
        return range(10, 18)


@pytest.fixture
def strategy():
    plan = a_plan(rounds=2)
    return strategies.DPFedAvg(an_aggregator(plan), [])


def asked(strategy):
    arrays = messages.record_of(an_update(seed=9))
    found = strategy.configure_train(1, arrays, ConfigRecord({messages.JOB: "{}"}), Nodes())
    for message in found:
        message.metadata.__dict__["_message_id"] = str(message.metadata.dst_node_id)
    return found


def replied(message, arrays, count=1):
    content = {messages.ARRAYS: messages.record_of(arrays)}
    content[messages.METRICS] = MetricRecord({messages.COUNT: count})
    return Message(RecordDict(content), reply_to=message)


def moved_by(strategy, replies):
    record, _ = strategy.aggregate_train(1, replies)
    return [a - b for a, b in zip(messages.arrays_of(record), an_update(seed=9), strict=True)]


def test_failures_of_every_kind_are_zero_and_drop_no_round(strategy):
    sent = asked(strategy)
    assert len(sent) == 8
    start = an_update(seed=9)
    replies = [
        Message(Error(1, "it died"), reply_to=sent[0]),
        replied(sent[1], [start[0].astype("float64"), start[1]]),
        replied(sent[2], [start[0]]),
        Message(RecordDict({}), reply_to=sent[3]),
        replied(sent[4], start),  # a zero update
        replied(sent[5], [np.full_like(a, np.nan) for a in start]),
    ]
    base = strategies.DPFedAvg(an_aggregator(a_plan()), [])
    asked(base)
    nothing = moved_by(base, [])
    for one, other in zip(moved_by(strategy, replies), nothing, strict=True):
        np.testing.assert_array_equal(one, other)
    assert strategy.aggregator.rounds == 1


def test_one_reply_of_a_node_counts_and_none_of_a_stranger(strategy):
    sent = asked(strategy)
    far = [a + 100 for a in an_update(seed=9)]
    stranger = replied(sent[1], far)
    stranger.metadata.__dict__["_src_node_id"] = 99
    once = moved_by(strategy, [replied(sent[0], far)])
    again = strategies.DPFedAvg(an_aggregator(a_plan()), [])
    asked(again)
    thrice = moved_by(again, [replied(sent[0], far), replied(sent[0], far), stranger])
    for one, other in zip(once, thrice, strict=True):
        np.testing.assert_array_equal(one, other)


def test_numbers_of_records_change_nothing(strategy):
    ends = []
    for count in (1, 10**9):
        each = strategies.DPFedAvg(an_aggregator(a_plan()), [])
        sent = asked(each)
        replies = [
            replied(m, an_update(seed=i), count if i == 0 else 1) for i, m in enumerate(sent)
        ]
        ends.append(moved_by(each, replies))
    for one, other in zip(*ends, strict=True):
        np.testing.assert_array_equal(one, other)
    assert strategy.configure_evaluate(1, None, None, None) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epsilon": 2}, "either epsilon or noise_multiplier"),
        ({"noise_multiplier": None}, "either epsilon or noise_multiplier"),
        ({"clients_per_round": 9}, "clients_per_round must not exceed num_clients=8, got 9"),
        ({"rounds": 0}, "rounds must be a whole number above 0"),
        ({"l2_norm_clip": -1}, "l2_norm_clip must be a finite number above 0"),
    ],
)
def test_bad_plans(changes, said):
    with pytest.raises(kd.InputError, match=said):
        a_plan(**changes)


@pytest.mark.parametrize(
    "plan",
    [
        "a plan",
        kd.PrivacyPlan(8, 4, 1, 1e-3, 1.0, sampling="shuffled"),
        kd.PrivacyPlan(8, 4, 1, 1e-3, 1.0, microbatch_size=2),
        kd.PrivacyPlan.as_published(
            num_examples=8, batch_size=4, epochs=1, delta=1e-3, noise_multiplier=1.0
        ),
    ],
)
def test_plans_of_another_kind_are_refused(plan):
    with pytest.raises(kd.InputError, match="client_plan must"):
        aggregation.ClientAggregator(plan, SHAPES)
