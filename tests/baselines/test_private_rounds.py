"""Both kinds of privacy through whole simulated trainings."""

import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.baselines import federated
from keras_dpvit.baselines.federated import aggregation, job, local_training
from keras_dpvit.privacy import ledger, statement
from keras_dpvit.privacy.ledger import ParallelLedger, PrivacyLedger


def a_plan(**changes):
    arguments = {"num_clients": 3, "clients_per_round": 3, "rounds": 1, "delta": 0.1}
    arguments |= {"noise_multiplier": 1.0, "l2_norm_clip": 0.2, "seed": 3}
    return federated.client_plan(**{**arguments, **changes})


def after_training(private_network, clients, plan):
    """All weights after the plan's rounds, as one vector."""
    model = private_network()
    start = np.concatenate([np.ravel(w) for w in model.get_weights()])  # a copy
    result = federated.train(
        model, clients, client_plan=plan, batch_size=50, local_epochs=2, seed=2
    )
    ends = [np.ravel(w) for w in model.get_weights()]
    return np.concatenate(ends) - start, model, result


@pytest.fixture(scope="module")
def neighbours(digit_vectors):
    """Two clients of unequal sizes, and clients that may be added to them."""
    x, y = digit_vectors[0]
    base = [(x[:10], y[:10]), (x[10:400], y[10:400])]
    odd = {
        "large": (np.tile(x[:700], (2, 1)), np.tile(y[:700], 2)),
        "no update": (np.zeros((5, 64), "float32"), np.zeros(5, "int64")),
        "dead": (x[:0], y[:0]),
        "nan": (np.full((4, 64), np.nan, "float32"), y[:4]),
        "far": (1e6 * x[:9], 9 - y[:9]),
    }
    return base, odd


def no_bias():
    keras.utils.set_random_seed(5)
    layer = keras.layers.Dense(10, use_bias=False)  # zero inputs have no gradient
    return kd.make_private(keras.Sequential([keras.Input((64,)), layer]))


def check_neighbours(base, odd, kinds):
    """A client more, whatever it holds, moves the sum by the bound at most; noise is the same."""
    plan = a_plan()
    without, _, _ = after_training(no_bias, base, plan)
    for kind in kinds:
        with_it, _, result = after_training(no_bias, [*base, odd[kind]], plan)
        moved = 3 * np.linalg.norm(with_it - without)
        assert moved <= 0.2 * (1 + 1e-4), kind  # weights are rounded to float32
        assert (moved > 0.19) == (kind in ("large", "far")), kind
        assert len(result.failures[0]) == (kind == "dead")


def test_a_client_more_moves_the_weights_by_the_bound_at_most(neighbours):
    base, odd = neighbours
    check_neighbours(base, odd, odd)


def test_a_mean_over_those_who_came_is_caught(neighbours, monkeypatch):
    release = aggregation.ClientAggregator.release

    def faulty(self, updates):
        return [3 * part / max(1, len(updates)) for part in release(self, updates)]

    monkeypatch.setattr(aggregation.ClientAggregator, "release", faulty)
    with pytest.raises(AssertionError):
        check_neighbours(*neighbours, ["large"])


def test_the_ledger_has_the_plans_cost_for_one_client(neighbours, private_network):
    plan = a_plan(rounds=2, l2_norm_clip=None, clients_per_round=2)
    _, model, _ = after_training(private_network, neighbours[0], plan)
    assert model.privacy_ledger.epsilon(0.1) == pytest.approx(plan.epsilon())
    assert {entry.unit for entry in model.privacy_ledger.all_entries()} == {"client"}
    assert model.privacy_delta() == 0.1
    # More training adds to it.
    after = federated.train(
        model, neighbours[0], client_plan=a_plan(seed=8), local_steps=1
    ).model.privacy_ledger
    assert sum(entry.steps for entry in after.all_entries()) == 3
    assert after.epsilon(0.1) > plan.epsilon()


PRIVACY = federated.RecordPrivacy(epsilon=6, delta=1e-3)


@pytest.fixture(scope="module")
def by_record(digit_vectors):
    """A model that two clients trained privately on 90 and 200 records, and its plans."""
    x, y = digit_vectors[0]
    clients = [(x[:97], y[:97]), (x[97:297], y[97:297])]
    keras.utils.set_random_seed(5)
    model = kd.make_private(keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)]))
    before = [np.array(w) for w in model.weights]
    result = federated.train(
        model, clients, rounds=2, record_privacy=PRIVACY, batch_size=30, local_epochs=1
    )
    moved = [np.abs(a - w).max() for a, w in zip(before, model.weights, strict=True)]
    return model, result, moved


def test_ledgers_come_with_the_clients_weights_and_compose_over_rounds(by_record):
    model, result, moved = by_record
    assert result.failures == [[], []]
    assert min(moved) > 0
    assert isinstance(model.privacy_ledger, ParallelLedger)
    expected = [PRIVACY.plan(97, 30, 8).epsilon(), PRIVACY.plan(200, 30, 14).epsilon()]
    found = [part.epsilon(1e-3) for part in model.privacy_ledger.parts]
    assert sorted(found) == pytest.approx(sorted(expected))
    assert model.privacy_ledger.epsilon(1e-3) == max(found) <= 6
    taken = [sum(e.steps for e in part.entries) for part in model.privacy_ledger.parts]
    assert sorted(taken) == [8, 14]
    numbers = {e.details["num_examples"] for e in model.privacy_ledger.all_entries()}
    assert numbers == {97, 200}
    assert ledger.units(model.privacy_ledger) == ("record",)
    assert local_training.ROUNDED in statement.uncovered(model.privacy_ledger)


def test_what_follows_parts_is_refused(by_record, deal):
    with pytest.raises(kd.InputError, match="model must not come from a training over disjoint"):
        federated.train(by_record[0], deal(2), rounds=1)


def a_job(private_network, rounds=2):
    return job.job_of(
        private_network(),
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        False,
        rounds=rounds,
        batch_size=30,
        local_steps=2,
        record_privacy=PRIVACY,
    )


def test_a_client_takes_no_more_rounds_than_its_plan_pays_for(private_network, digit_vectors):
    x, y = (part[:60] for part in digit_vectors[0])
    made = a_job(private_network)
    first = local_training.PrivateTraining(made, 60, PrivacyLedger())
    assert isinstance(first._step, kd.PrivateStep)  # whose guarantee has tests of its own
    assert first._step.plan.sensitivity == kd.FixedSensitivity(1.0)
    assert first._step.plan.noise_multiplier == PRIVACY.plan(60, 30, 4).noise_multiplier
    start = job.get_arrays(first.model, made.exchanged)
    first.round(start, (x, y), None)
    assert sum(e.steps for e in first.ledger.entries) == 2
    # Another process goes on from the ledger that the node has kept, and no further.
    second = local_training.PrivateTraining(made, 60, first.ledger)
    second.round(start, (x, y), None)
    assert sum(e.steps for e in second.ledger.entries) == 4
    assert second.ledger.epsilon(1e-3) == pytest.approx(PRIVACY.plan(60, 30, 4).epsilon())
    assert not any(e.invalidated_by for e in second.ledger.entries)
    for more in (
        lambda: second.round(start, (x, y), None),
        lambda: local_training.PrivateTraining(made, 60, second.ledger),
    ):
        with pytest.raises(kd.InputError, match="privacy budget is spent"):
            more()


def test_parts_are_added_to_what_the_weights_have_cost_before(neighbours, digit_vectors):
    """A model that was trained over clients first, and whose base is frozen then."""
    keras.utils.set_random_seed(6)
    layers = [keras.layers.Dense(8, "relu", name="base"), keras.layers.Dense(10, name="last")]
    model = kd.make_private(keras.Sequential([keras.Input((64,)), *layers]))
    federated.train(model, neighbours[0], client_plan=a_plan(), local_steps=1)
    past = model.privacy_ledger.entries
    kd.choose_trainable(model, "head")

    def fail(server_round, accuracy):
        if server_round == 1:
            raise ZeroDivisionError

    x, y = digit_vectors[0]
    clients = [(x[:60], y[:60]), (x[60:120], y[60:120])]
    with pytest.raises(ZeroDivisionError):  # what was sent by then is in the ledger all the same
        federated.train(
            model, clients, rounds=2, record_privacy=PRIVACY, local_steps=1, progress=fail
        )
    found = model.privacy_ledger
    assert isinstance(found, ParallelLedger)
    assert [part.entries[: len(past)] for part in found.parts] == [past, past]
    assert [[e.steps for e in part.entries[len(past) :]] for part in found.parts] == [[1], [1]]
    assert not any(e.invalidated_by for e in found.all_entries())
    assert ledger.units(found) == ("record", "client")
