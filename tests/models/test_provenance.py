"""The ledger belongs to the weights: whatever holds, copies or loads them has it, or says so."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.models import provenance

DELTA = 1e-5


@pytest.fixture(scope="module")
def records(digit_images):
    return digit_images.x_train[:200], digit_images.y_train[:200]


def a_plan(epochs=2, **arguments):
    return kd.PrivacyPlan(200, 50, epochs, DELTA, 1.0, **arguments)


def a_network():
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(6, "relu")]
    return keras.Sequential([*layers, keras.layers.Dense(10)])


def trained(model, records, epochs=2, plan=None, **arguments):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kd.DPKerasSGDOptimizer(plan or a_plan(epochs), 0.1), loss)
    model.fit(*records, epochs=epochs, verbose=0, **arguments)
    return model


def epsilon(model):
    return model.privacy_ledger.epsilon(DELTA)


def first_line(model):
    return model.privacy_statement().splitlines()[0]


def says_elsewhere(model):
    return first_line(model).startswith("Not covered by the epsilon below: Weights came from")


@pytest.fixture(scope="module")
def once(records):
    """Epsilon of one training of two epochs, and of two and three in a row."""
    return [kd.PrivacyPlan(200, 50, n, DELTA, 1.0).epsilon() for n in (2, 4, 6)]


@pytest.fixture(scope="module")
def first(records):
    """A model of ours, trained once; no test changes it."""
    return trained(kd.make_private(a_network()), records)


def test_a_fresh_model_has_no_history_and_one_training_is_itself(first, once):
    assert not kd.make_private(a_network()).privacy_ledger.all_entries()
    assert epsilon(first) == pytest.approx(once[0])
    assert first_line(first).startswith("Example-level differential privacy")


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_loaded_weights_bring_their_ledger(first, records, once, tmp_path, name):
    path = tmp_path / name
    (first.save if name == "model.keras" else first.save_weights)(path)
    model = kd.make_private(a_network())
    model.load_weights(path)
    assert epsilon(model) == pytest.approx(once[0])
    trained(model, records)
    assert epsilon(model) == pytest.approx(once[1])
    assert not says_elsewhere(model)


def test_weights_loaded_after_compiling_bring_it_too(first, records, once, tmp_path):
    first.save_weights(tmp_path / "first.weights.h5")
    model = kd.make_private(a_network())
    model.compile(kd.DPKerasSGDOptimizer(a_plan(), 0.1), "sparse_categorical_crossentropy")
    model.load_weights(tmp_path / "first.weights.h5")
    model.fit(*records, epochs=2, verbose=0)
    assert epsilon(model) == pytest.approx(once[1])


def test_a_weights_file_without_a_ledger_is_named(first, tmp_path):
    first.network.save_weights(tmp_path / "bare.weights.h5")  # Keras' own, without a ledger
    values = [np.array(v) + 1e-3 for v in first.network.get_weights()]
    other = a_network()
    other.set_weights(values)
    other.save_weights(tmp_path / "other.weights.h5")
    model = kd.make_private(a_network())
    model.network.load_weights(tmp_path / "other.weights.h5")
    assert says_elsewhere(model)


def test_copied_weights_bring_their_ledger(first, records, once):
    model = kd.make_private(a_network())
    model.set_weights(first.get_weights())
    assert epsilon(model) == pytest.approx(once[0])
    clone = keras.models.clone_model(first.network)
    clone.set_weights(first.network.get_weights())
    assert epsilon(kd.make_private(clone)) == pytest.approx(once[0])
    trained(model, records)
    assert epsilon(model) == pytest.approx(once[1])


def test_weights_by_hand_and_averages_of_clients_are_named(first, records):
    """Federated rounds with fresh clients: every round said epsilon of one round."""
    other = trained(kd.make_private(a_network()), records)
    pairs = zip(first.get_weights(), other.get_weights(), strict=True)
    average = [(a + b) / 2 for a, b in pairs]
    client = kd.make_private(a_network())
    client.set_weights(average)
    trained(client, records)
    assert says_elsewhere(client)
    by_hand = kd.make_private(a_network())
    by_hand.trainable_variables[0].assign(by_hand.trainable_variables[0] + 1.0)
    assert says_elsewhere(by_hand)
    through_numpy = kd.make_private(a_network())
    for variable, value in zip(through_numpy.variables, average, strict=False):
        variable.assign(value)
    assert says_elsewhere(through_numpy)


def test_two_wrappers_of_one_network_share_its_ledger(records, once):
    network = a_network()
    one = trained(kd.make_private(network), records)
    two = trained(kd.make_private(network), records)
    assert epsilon(one) == epsilon(two) == pytest.approx(once[1])
    trained(one, records)
    assert epsilon(one) == epsilon(two) == pytest.approx(once[2])


def test_plain_training_beside_the_wrapper_is_named(records):
    network = a_network()
    model = trained(kd.make_private(network), records)
    network.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(*records, verbose=0)
    assert says_elsewhere(model)


def test_a_network_trained_before_it_is_wrapped_is_named(records):
    network = a_network()
    network.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(*records, verbose=0)
    assert says_elsewhere(kd.make_private(network))
    network.compile("sgd", "mse")  # a fresh optimizer hides nothing: biases have moved
    assert says_elsewhere(kd.make_private(network))


def test_a_shared_backbone_keeps_what_it_cost(records):
    backbone = kd.DPViTBackbone((8, 8, 1), 4, 8, 2, stage_depths=(1,))
    one = trained(kd.DPViTClassifier(backbone, 10), records)
    two = kd.DPViTClassifier(one.backbone, 10)
    assert epsilon(two) == epsilon(one) > 0
    plain = keras.Sequential([backbone, keras.layers.Flatten(), keras.layers.Dense(10)])
    plain.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    plain.fit(*records, verbose=0)
    assert says_elsewhere(two)


def test_a_start_does_not_forget_what_shared_weights_have_cost(records, tmp_path):
    backbone = kd.DPViTBackbone((8, 8, 1), 4, 8, 2, stage_depths=(1,))
    one = trained(kd.DPViTClassifier(backbone, 10), records)
    two = kd.DPViTClassifier(one.backbone, 10)
    two.start_from(kd.PrivacyLedger())
    assert epsilon(two) == epsilon(one) > 0
    # A file whose head does not fit leaves what is there, and what that has cost.
    other = kd.DPViTClassifier(kd.DPViTBackbone((8, 8, 1), 4, 8, 2, stage_depths=(1,)), 3)
    other.save_weights(tmp_path / "other.weights.h5")
    three = kd.DPViTClassifier(one.backbone, 10)
    three.load_weights(tmp_path / "other.weights.h5", skip_mismatch=True)
    assert epsilon(three) >= epsilon(one)


def test_a_new_head_on_a_backbone_trained_in_public_is_fresh(records):
    layers = keras.layers
    body = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(6)])
    public = kd.make_private(keras.Sequential([body, layers.Dense(10)]))
    public.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    public.fit(*records, verbose=0, public_data=True)
    model = kd.make_private(keras.Sequential([body, layers.Dense(4)]), "head")
    assert not says_elsewhere(model)
    assert epsilon(model) == 0
    # A head that was trained where nobody looked is not.
    head = layers.Dense(4)
    network = keras.Sequential([body, head])
    head.bias.assign(np.ones(4))
    assert says_elsewhere(kd.make_private(network))


def test_a_layer_moved_to_another_network_keeps_its_origin(first, once):
    moved = keras.Sequential([keras.Input((8, 8, 1)), *first.network.layers[:2]])
    assert epsilon(kd.make_private(moved)) == pytest.approx(once[0])


def test_training_without_privacy_and_another_optimizer_stay_on_record(records):
    model = trained(kd.make_private(a_network()), records)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*records, verbose=0)
    assert np.isinf(epsilon(model))
    other = kd.make_private(a_network())
    other.set_weights(model.get_weights())
    assert np.isinf(epsilon(other))


def test_a_checkpoint_of_weights_put_back_stays_on_record(records, once, tmp_path):
    model = kd.make_private(a_network())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kd.DPKerasSGDOptimizer(a_plan(), 0.1), loss)
    saver = keras.callbacks.ModelCheckpoint(tmp_path / "best.weights.h5", save_weights_only=True)
    model.fit(*records, epochs=2, verbose=0, callbacks=[saver])
    model.load_weights(tmp_path / "best.weights.h5")
    assert epsilon(model) >= once[0] - 1e-9


def test_backup_and_h5_are_refused(records, tmp_path):
    model = kd.make_private(a_network())
    with pytest.raises(kd.InputError, match="checkpoint_dir"):
        trained(model, records, callbacks=[keras.callbacks.BackupAndRestore(tmp_path)])
    with pytest.raises(kd.InputError, match=r"\.keras"):
        model.save(tmp_path / "model.h5")


def test_a_plan_does_not_go_past_its_target_unless_told(records, tmp_path):
    def plan():
        return kd.PrivacyPlan.for_target(
            epsilon=8.0, delta=DELTA, num_examples=200, batch_size=50, epochs=2
        )

    model = trained(kd.make_private(a_network()), records, plan=plan())
    model.save(tmp_path / "spent.keras")
    again = kd.load_model(tmp_path / "spent.keras")
    assert epsilon(again) == epsilon(model)
    with pytest.raises(kd.InputError, match="past its target 8") as refused:
        again.fit(*records, epochs=2, verbose=0)
    assert "\n" not in str(refused.value)
    again.fit(*records, epochs=2, verbose=0, exceed_target=True)
    assert epsilon(again) > 8.0


def test_a_fresh_process_finds_the_ledger(first, once, tmp_path):
    first.save_weights(tmp_path / "first.weights.h5")
    first.save(tmp_path / "first.keras")
    code = (
        "import sys, keras_dpvit as kd\n"
        "model = kd.load_model(sys.argv[1])\n"
        "print(model.privacy_ledger.epsilon(1e-5))\n"
        "model.load_weights(sys.argv[2])\n"
        "print(model.privacy_ledger.epsilon(1e-5), model.privacy_statement().split()[0])\n"
    )
    paths = [str(tmp_path / name) for name in ("first.keras", "first.weights.h5")]
    found = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True
    ).stdout.split()
    assert [float(number) for number in found[:2]] == [pytest.approx(once[0])] * 2
    assert found[2] == "Example-level"


def test_without_looking_at_values_copies_would_be_free(first, monkeypatch):
    """The faulty twin: a ledger that belongs to the Python object alone."""
    monkeypatch.setattr(provenance, "observe", lambda model: None)
    model = kd.make_private(a_network())
    model.set_weights(first.get_weights())
    assert epsilon(model) == 0.0


def test_values_that_all_fresh_networks_start_from_carry_no_cost():
    """The tables and identities of a preset are equal in each of its models."""
    spent = kd.PrivacyPlan(
        num_examples=100, batch_size=10, epochs=1, delta=1e-4, noise_multiplier=1.0
    ).entries(3)
    first = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=10)
    first.start_from(kd.PrivacyLedger(spent))
    second = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=10)
    assert first.privacy_ledger.all_entries() == spent
    assert not second.privacy_ledger.all_entries()


def test_what_one_machine_has_seen_another_does_not_know():
    weights = [np.ones((4, 3), "float32") * np.arange(3), np.zeros(3, "float32")]

    def copied():
        network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        model = kd.make_private(network)
        model.set_weights(weights)
        return model

    registry = provenance.Registry()
    with provenance.on_another_machine(registry):
        trained = copied()
        trained.start_from(kd.PrivacyLedger(kd.PrivacyPlan(60, 20, 1, 1e-3, 1.0).entries(3)))
        there = copied().privacy_ledger
    assert sum(entry.steps for entry in there.all_entries()) == 3
    assert sum(entry.steps for entry in copied().privacy_ledger.all_entries()) == 0
