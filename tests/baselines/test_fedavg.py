"""Federated averaging by Flower's simulation: against central training, and what fails."""

import sys
import threading

import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.baselines import federated
from keras_dpvit.baselines.federated import flower, job, simulation
from keras_dpvit.privacy.ledger import PrivacyLedger

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def largest_difference(one, other):
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return max(np.abs(a - b).max() for a, b in pairs)


def test_ten_clients_that_are_alike_come_within_three_points_of_central_training(
    deal, digit_vectors, network
):
    (x, y), test = digit_vectors
    central, averaged = network(), network()
    central.compile(keras.optimizers.Adam(5e-3), SPARSE, metrics=["accuracy"])
    central.fit(x, y, batch_size=32, epochs=12, verbose=0)
    expected = central.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
    result = federated.train(
        averaged,
        deal(10),
        rounds=12,
        test_data=test,
        optimizer=keras.optimizers.Adam(5e-3),
        local_epochs=3,
        seed=1,
    )
    assert expected > 0.93
    assert result.accuracies[-1] >= expected - 0.03
    assert result.failures == [[]] * 12
    weights = 4 * averaged.count_params()
    assert weights * 120 <= result.bytes_from_clients < 1.5 * weights * 120
    assert result.bytes_from_clients < result.bytes_to_clients
    loss = keras.ops.argmax(averaged(test[0]), axis=1)
    assert np.mean(np.array(loss) == test[1]) == pytest.approx(result.accuracies[-1])


def test_one_client_with_one_step_a_round_is_central_sgd(digit_vectors, network):
    x, y = (part[:300] for part in digit_vectors[0])
    central, averaged = network(), network()
    central.compile(keras.optimizers.SGD(0.3), SPARSE)
    central.fit(x, y, batch_size=300, epochs=6, verbose=0)
    arguments = {"optimizer": keras.optimizers.SGD(0.3), "batch_size": 300, "local_steps": 1}
    federated.train(averaged, [(x, y)], rounds=6, **arguments)
    assert largest_difference(averaged, network()) > 0.01
    assert largest_difference(averaged, central) < 1e-5


def test_the_mean_is_by_numbers_of_records_and_failed_clients_are_left_out(network, digit_vectors):
    x, y = digit_vectors[0]
    sizes = (200, 50)
    parts = [(x[:200], y[:200]), (x[200:250], y[200:250])]
    alone = []
    for part in parts:
        alone.append(network())
        federated.train(alone[-1], [part], rounds=1, batch_size=1000)
    together = network()
    nobody = (x[:0], y[:0])
    result = federated.train(together, [*parts, nobody], rounds=1, batch_size=1000)
    assert len(result.failures[0]) == 1
    assert "the client has no records" in result.failures[0][0]
    for found, one, other in zip(*(m.get_weights() for m in (together, *alone)), strict=True):
        mean = (sizes[0] * one + sizes[1] * other) / sum(sizes)
        np.testing.assert_allclose(found, mean, atol=1e-6)


def test_models_of_this_package_and_frozen_parts(deal, digit_images):
    data = digit_images
    rows = federated.split(data.y_train[:200], 2, seed=1)
    model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=10)
    kd.choose_trainable(model, "head")
    before = [np.array(v) for v in model.weights]
    result = federated.train(
        model, [(data.x_train[r], data.y_train[r]) for r in rows], rounds=1, local_steps=2
    )
    changed = [not np.array_equal(a, v) for a, v in zip(before, model.weights, strict=True)]
    assert changed == [v.trainable for v in model.weights]
    assert 0 < sum(changed) < len(changed)
    assert result.bytes_to_clients > 5 * result.bytes_from_clients
    assert model.privacy_ledger.epsilon(1e-3) == np.inf
    assert "federated averaging without noise" in " ".join(model.privacy_statement().split())


def test_moving_statistics_are_averaged_too(deal):
    layers = keras.layers
    model = keras.Sequential([keras.Input((64,)), layers.BatchNormalization(), layers.Dense(10)])
    federated.train(model, deal(2), rounds=1, local_steps=3)
    moving = model.layers[0].moving_mean
    assert np.abs(np.array(moving)).max() > 0


def test_jobs_travel_as_json(private_network):
    privacy = federated.RecordPrivacy(3, 1e-4)
    made = job.job_of(
        private_network(),
        keras.optimizers.Adam(0.1),
        kd.PerClassBinaryCrossentropy(),
        False,
        rounds=3,
        batch_size=8,
        record_privacy=privacy,
    )
    again = job.Job.from_json(made.to_json())
    assert again.to_json() == made.to_json()
    assert float(again.build_optimizer().learning_rate) == pytest.approx(0.1)
    assert isinstance(again.build_loss(), kd.PerClassBinaryCrossentropy)
    assert [v.shape for v in again.build_model().weights] == [
        v.shape for v in private_network().weights
    ]


def trained(model, clients, **arguments):
    return federated.train(model, clients, **{"rounds": 1, **arguments})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"rounds": None}, "rounds must be given"),
        ({"rounds": 0}, "rounds must be a whole number above 0"),
        ({"clients_per_round": 3}, "clients_per_round must not exceed the number of clients"),
        ({"runtime": "cloud"}, "runtime must be one of network, simulation"),
        ({"timeout": 0}, "timeout must be a finite number above 0"),
        ({"batch_size": 0}, "batch_size must be a whole number above 0"),
        ({"local_epochs": -1}, "local_epochs must be a finite number above 0"),
        ({"server_learning_rate": 0}, "server_learning_rate must be a finite number above 0"),
        ({"secure_aggregation": True}, "secure_aggregation is not available: Flower's SecAgg+"),
        ({"record_privacy": federated.RecordPrivacy(1, 1e-3)}, "model must be private"),
        ({"test_data": (np.ones(3), np.ones(4))}, "must have inputs and labels of the same length"),
    ],
)
def test_bad_arguments(network, deal, arguments, said):
    with pytest.raises(kd.InputError, match=said):
        trained(network(), deal(2), **arguments)


def test_bad_clients_and_models(network, deal, private_network):
    for clients, said in (([], "clients must hold at least one"), ([1], "clients must be given")):
        with pytest.raises(kd.InputError, match=said):
            trained(network(), clients)
    with pytest.raises(kd.InputError, match="model must be a built Keras model"):
        trained(keras.Sequential([keras.layers.Dense(2)]), deal(2))
    plan = federated.client_plan(
        num_clients=2, clients_per_round=1, rounds=1, delta=0.1, noise_multiplier=1.0
    )
    for arguments, said in (
        ({"rounds": 3}, "rounds and clients_per_round must be left out"),
        ({"rounds": None, "record_privacy": federated.RecordPrivacy(1, 0.1)}, "exclude each other"),
    ):
        with pytest.raises(kd.InputError, match=said):
            trained(private_network(), deal(2), client_plan=plan, **arguments)


def test_secure_aggregation_is_missing_from_the_message_api():
    """The day that Flower has it there, this package can offer it."""
    import flwr.clientapp.mod
    import flwr.serverapp.strategy

    names = {*dir(flwr.clientapp.mod), *dir(flwr.serverapp.strategy)}
    assert not [name for name in names if "secagg" in name.lower()]


def test_without_flower_one_line_names_the_extra(network, deal, monkeypatch):
    monkeypatch.setitem(sys.modules, "flwr", None)
    with pytest.raises(kd.InputError, match=r"pip install 'keras_dpvit\[federated\]'\.$"):
        trained(network(), deal(2))


def test_flower_reports_to_nobody():
    import flwr.common.telemetry

    flower.require()
    assert flwr.common.telemetry.FLWR_TELEMETRY_ENABLED == "0"
    assert flwr.common.telemetry.state["source"] == "unavailable"


def test_an_error_in_the_server_is_raised_as_it_was(network, deal):
    def fail(server_round, accuracy):
        raise ZeroDivisionError("told so")

    with pytest.raises(ZeroDivisionError, match="told so"):
        trained(network(), deal(2), progress=fail)
    assert not [t for t in threading.enumerate() if "federated" in t.name]


def test_ctrl_c_stops_the_server_and_waits_for_it():
    stopped = threading.Event()

    class Thread:
        def start(self):
            pass

        def is_alive(self):
            return True

        def join(self, timeout=None):
            if timeout is not None:
                raise KeyboardInterrupt
            assert stopped.is_set()

    class Server:
        stop = staticmethod(stopped.set)

    with pytest.raises(KeyboardInterrupt):
        simulation.run_to_end(Thread(), Server())


def test_what_was_released_before_an_error_is_in_the_ledger(private_network, deal):
    plan = federated.client_plan(
        num_clients=2, clients_per_round=2, rounds=5, delta=0.1, noise_multiplier=2.0
    )
    model = private_network()

    def fail(server_round, accuracy):
        if server_round == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        federated.train(model, deal(2), client_plan=plan, local_steps=1, progress=fail)
    (entry,) = model.privacy_ledger.all_entries()
    assert (entry.steps, entry.unit) == (2, "client")
    assert largest_difference(model, private_network()) > 0
    assert model.privacy_ledger.epsilon(0.1) < plan.epsilon()
    assert isinstance(model.privacy_ledger, PrivacyLedger)
