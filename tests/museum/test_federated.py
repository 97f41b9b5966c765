"""Faults of federated mechanisms, shown on the wrappers that Flower itself ships.

Seen: flwr 1.27, `DifferentialPrivacyServerSideFixedClipping` and `...AdaptiveClipping`.
"""

import numpy as np
import pytest

from keras_dpvit.baselines import federated
from keras_dpvit.baselines.federated import flower

flower.require()

from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict  # noqa: E402
from flwr.serverapp import strategy as flowers  # noqa: E402

from keras_dpvit.baselines.federated import aggregation, messages, strategies  # noqa: E402

CLIENTS, SIZE = 8, 2000


class Nodes:
    """A grid of eight nodes."""

    def get_node_ids(self):
        return range(1, CLIENTS + 1)


class Rounds:
    """A strategy, asked for the mean update of rounds that start from zero."""

    def __init__(self, strategy):
        self.strategy = strategy

    def __call__(self, updates, counts=None, failed=0):
        """The mean update; one row of `updates` for each client, of whom some failed."""
        start = messages.record_of([np.zeros(SIZE)])
        sent = list(self.strategy.configure_train(1, start, ConfigRecord(), Nodes()))
        replies = []
        for index, message in enumerate(sent):
            message.metadata.__dict__["_message_id"] = str(index)
            if index < failed:
                replies.append(Message(Error(1, "it died"), reply_to=message))
                continue
            content = {messages.ARRAYS: messages.record_of([updates[index]])}
            count = 1 if counts is None else counts[index]
            content[messages.METRICS] = MetricRecord({messages.COUNT: count})
            replies.append(Message(RecordDict(content), reply_to=message))
        record, _ = self.strategy.aggregate_train(1, replies)
        return None if record is None else messages.arrays_of(record)[0]


def ours(clip=1.0, adaptive=False, noise_multiplier=1e-6):
    from keras_dpvit import DynamicSensitivity

    plan = federated.client_plan(
        num_clients=CLIENTS,
        clients_per_round=CLIENTS,
        rounds=50,
        delta=1e-3,
        noise_multiplier=noise_multiplier,
        l2_norm_clip=None if adaptive else clip,
        sensitivity=DynamicSensitivity(initial=clip, floor=1e-9) if adaptive else None,
        seed=2,
    )
    return Rounds(strategies.DPFedAvg(aggregation.ClientAggregator(plan, [(SIZE,)]), []))


def theirs(clip=1.0, adaptive=False, noise_multiplier=1e-6):
    inner = flowers.FedAvg(min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)
    if adaptive:
        kind = flowers.DifferentialPrivacyServerSideAdaptiveClipping
        return Rounds(kind(inner, noise_multiplier, CLIENTS, clip))
    kind = flowers.DifferentialPrivacyServerSideFixedClipping
    return Rounds(kind(inner, noise_multiplier, clip, CLIENTS))


def of_lengths(*lengths):
    """Updates of some lengths, each along a coordinate of its own."""
    return [length * np.eye(SIZE)[index] for index, length in enumerate(lengths)]


def lengths_of(mean):
    """The share of each client in a mean of such updates."""
    return np.abs(mean[:CLIENTS])


def check_direction(make):
    """Updates that are all longer than the bound raise it: the mean's length follows."""
    rounds = make(adaptive=True)
    means = [np.linalg.norm(rounds(of_lengths(*[10.0] * CLIENTS))) for _ in range(20)]
    assert means[-1] > 2 * means[0]


def test_bound_that_moves_the_wrong_way(museum):
    """The quantile's step with its sign turned: updates above the bound lower it, 1.0 to 0.138."""
    check_direction(ours)
    with museum.caught():
        check_direction(theirs)
    rounds = theirs(adaptive=True)
    for _ in range(20):
        rounds(of_lengths(*[10.0] * CLIENTS))
    assert rounds.strategy.clipping_norm == pytest.approx(0.138, abs=0.01)


def check_noise_is_for_the_bound_in_use(make):
    """The noise of a round is that of the bound to which its updates were clipped."""
    rounds = make(adaptive=True, noise_multiplier=0.3)
    strategy = rounds.strategy
    multiplier = getattr(strategy, "noise_multiplier", None)
    if multiplier is None:
        multiplier = strategy.aggregator.plan.mechanism().split_noise()[0]
    mean = rounds(of_lengths(*[1e-3] * CLIENTS))
    expected = multiplier * 1.0 / CLIENTS
    assert np.std(mean[CLIENTS:]) == pytest.approx(expected, rel=5 / np.sqrt(2 * SIZE))


def test_noise_for_the_next_bound(museum):
    """The bound moves before the noise is scaled by it."""

    def eager(**arguments):
        rounds = theirs(**arguments)
        rounds.strategy.clip_norm_lr = 1.0  # in one round, so that it shows
        return rounds

    check_noise_is_for_the_bound_in_use(ours)
    with museum.caught():
        check_noise_is_for_the_bound_in_use(eager)


def check_shares(make):
    """One client moves the mean by its bound over the number of clients at most."""
    mean = make()(of_lengths(*[10.0] * CLIENTS), counts=[10_000, *[1] * (CLIENTS - 1)])
    assert lengths_of(mean).max() <= 1.001 / CLIENTS


def test_noise_of_a_plain_mean_on_a_weighted_one(museum):
    """Weights by numbers of records: one client moves the mean by 0.999 of the bound."""
    check_shares(ours)
    with museum.caught():
        check_shares(theirs)
    mean = theirs()(of_lengths(*[10.0] * CLIENTS), counts=[10_000, *[1] * (CLIENTS - 1)])
    assert lengths_of(mean).max() > 0.999


def check_zero_update(make):
    """An update of zero is an update."""
    mean = make()(of_lengths(0.0, *[1.0] * (CLIENTS - 1)))
    assert lengths_of(mean) == pytest.approx([0.0, *[1 / CLIENTS] * (CLIENTS - 1)], abs=1e-4)


def test_zero_update(museum):
    """The bound over a norm of zero."""
    check_zero_update(ours)
    with np.errstate(all="ignore"), museum.caught():
        try:
            check_zero_update(theirs)
        except ZeroDivisionError as error:
            raise AssertionError from error


def check_failed_client(make):
    """A client that fails is one that adds nothing; the others' round counts."""
    mean = make()(of_lengths(*[1.0] * CLIENTS), failed=1)
    assert mean is not None
    assert lengths_of(mean) == pytest.approx([0.0, *[1 / CLIENTS] * (CLIENTS - 1)], abs=1e-4)


def test_failed_client(museum):
    """One error drops the round: whether it takes place is one client's to say, without noise."""
    check_failed_client(ours)
    with museum.caught():
        check_failed_client(theirs)
