"""Fusion of classifiers: its outputs, refusals, files and what it costs."""

import json
import math

import dp_accounting
import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.privacy.ledger import ParallelLedger, PrivacyLedger


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def accountant_epsilon(accountant, events, delta):
    for event in events:
        accountant.compose(event)
    return accountant.get_epsilon(delta)


def sampled_gaussian(noise_multiplier, probability, steps):
    release = dp_accounting.PoissonSampledDpEvent(
        probability, dp_accounting.GaussianDpEvent(noise_multiplier)
    )
    return dp_accounting.SelfComposedDpEvent(release, steps)


# What the shared fixture trains: 256 of 1437 digits in a step, ceil(4 * 1437 / 256) steps.
EVENTS = [sampled_gaussian(z, 256 / 1437, 23) for z in (2.0, 2.5)]
ACCOUNTANTS = {"rdp": dp_accounting.rdp.RdpAccountant, "pld": dp_accounting.pld.PLDAccountant}


@pytest.mark.parametrize("number", [2, 3])
def test_outputs_are_the_equations_over_the_members(small_classifier, images, number):
    members = [small_classifier() for _ in range(number)]
    for i, member in enumerate(members):  # surer ones among the members
        member.get_layer("logits").kernel.assign(
            (2.0 + i) * member.get_layer("logits").kernel.numpy()
        )
    outputs = kd.FusedClassifier(members).predict(images, verbose=0)
    each = np.stack([softmax(member(images).numpy()) for member in members], axis=1)
    variances = each.var(axis=-1)
    weights = variances / variances.sum(axis=-1, keepdims=True)
    fused = np.einsum("bm,bmc->bc", weights, each)
    assert set(outputs) == {"probabilities", "weights", "member_probabilities"}
    np.testing.assert_allclose(outputs["member_probabilities"], each, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(outputs["weights"], weights, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(outputs["probabilities"], fused, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(outputs["probabilities"].sum(axis=-1), 1.0, rtol=1e-5)


def test_fusing_adds_no_weights(small_classifier):
    members = [small_classifier() for _ in range(2)]
    fused = kd.FusedClassifier(members)
    assert fused.count_params() == sum(member.count_params() for member in members)
    assert fused.input_shape == (None, 4, 4, 1)
    assert fused.output_shape == (None, 3)


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (lambda make: [], "members must be at least two models, got 0"),
        (lambda make: [make()], "members must be at least two models, got 1"),
        (lambda make: [make()] * 2, "members must be different models, got one of them twice"),
        (lambda make: [make(), make(4)], r"members must agree in output_shape, got .*3.*4"),
        (
            lambda make: [make(), make(image_shape=(4, 6, 1))],
            r"members must agree in input_shape, got .*4, 4, 1.*4, 6, 1",
        ),
        (
            lambda make: [
                make(),
                keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()]),
            ],
            "members must be DPViTClassifier or make_private models .* got Sequential",
        ),
    ],
)
def test_members_that_do_not_fit_are_refused(small_classifier, choose, message):
    with pytest.raises(InputError, match=message) as caught:
        kd.FusedClassifier(choose(small_classifier))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("members_data", ["both", "", None])
def test_members_data_is_shared_or_disjoint(small_classifier, members_data):
    with pytest.raises(InputError, match="members_data must be shared or disjoint, got"):
        kd.FusedClassifier([small_classifier(), small_classifier()], members_data)


def test_fused_model_is_not_trained(small_classifier, images):
    fused = kd.FusedClassifier([small_classifier(), small_classifier()])
    fused.compile("adam", {"probabilities": "sparse_categorical_crossentropy"})
    before = fused.get_weights()
    labels = {"probabilities": np.zeros(6, int)}
    for train in (fused.fit, fused.train_on_batch):
        with pytest.raises(InputError, match="not trained: train its members, then fuse them"):
            train(images, labels)
    for weight, old in zip(fused.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_ledgers_of_the_members_are_what_was_trained(trained_members):
    for member, event in zip(trained_members, EVENTS, strict=True):
        for name, accountant in ACCOUNTANTS.items():
            expected = accountant_epsilon(accountant(), [event], 1e-4)
            assert member.privacy_ledger.epsilon(1e-4, name) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_shared_records_compose(trained_fusion, accountant):
    ledger = trained_fusion.privacy_ledger
    assert type(ledger) is PrivacyLedger
    expected = accountant_epsilon(ACCOUNTANTS[accountant](), EVENTS, 1e-4)
    assert ledger.epsilon(1e-4, accountant) == pytest.approx(expected, rel=1e-6)
    alone = accountant_epsilon(ACCOUNTANTS[accountant](), EVENTS[:1], 1e-4)
    assert expected > 1.1 * alone


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_disjoint_records_cost_the_larger(trained_members, accountant):
    ledger = kd.FusedClassifier(trained_members, members_data="disjoint").privacy_ledger
    assert type(ledger) is ParallelLedger
    apart = [accountant_epsilon(ACCOUNTANTS[accountant](), [event], 1e-4) for event in EVENTS]
    assert ledger.epsilon(1e-4, accountant) == pytest.approx(max(apart), rel=1e-6)
    assert apart[0] > apart[1]


@pytest.mark.parametrize(
    ("members_data", "said"),
    [("shared", "composition of 2 trainings"), ("disjoint", "trained on disjoint parts")],
)
def test_statement_says_how_the_costs_add(trained_members, members_data, said):
    fused = kd.FusedClassifier(trained_members, members_data)
    text = " ".join(fused.privacy_statement().split())
    assert said in text
    rdp = fused.privacy_ledger.epsilon(1e-4)
    assert f"epsilon by RDP: {math.ceil(rdp * 1000) / 1000:.3f}" in text


def test_delta_is_the_largest_planned_for(trained_members, trained_fusion):
    assert trained_fusion.privacy_delta() == 1e-4
    assert trained_fusion.privacy_delta(1e-6) == 1e-6
    assert "delta 1e-06" in trained_fusion.privacy_statement(1e-6)


def test_fusions_of_disjoint_parts_do_not_compose_by_the_sum(trained_members):
    # Two such ledgers have no single sequence of releases.
    from keras_dpvit.privacy.ledger import compose

    parallel = kd.FusedClassifier(trained_members, members_data="disjoint").privacy_ledger
    other = compose([PrivacyLedger(), *parallel.parts], "disjoint")
    with pytest.raises(InputError, match="members_data=shared needs members trained one by one"):
        compose([parallel, other], "shared")
    assert compose([parallel, PrivacyLedger()], "shared") == parallel


@pytest.mark.parametrize("members_data", ["shared", "disjoint"])
def test_config_round_trip(trained_members, members_data):
    fused = kd.FusedClassifier(trained_members, members_data, name="pair")
    config = json.loads(json.dumps(fused.get_config()))
    again = kd.FusedClassifier.from_config(config)
    assert again.get_config() == fused.get_config()
    assert (again.name, again.members_data) == ("pair", members_data)


@pytest.mark.parametrize("members_data", ["shared", "disjoint"])
def test_saved_file_keeps_outputs_and_ledger(trained_members, digit_images, members_data, tmp_path):
    fused = kd.FusedClassifier(trained_members, members_data)
    fused.save(tmp_path / "fused.keras")
    again = keras.saving.load_model(tmp_path / "fused.keras")
    assert type(again) is kd.FusedClassifier
    x = digit_images.x_test[:32].astype("float32")
    expected, found = fused(x), again(x)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    assert again.privacy_ledger == fused.privacy_ledger
    assert len(again.privacy_ledger.all_entries()) == 2
    assert again.privacy_statement() == fused.privacy_statement()


def test_members_of_one_name_from_two_files_fuse(trained_members, digit_images, tmp_path):
    x = digit_images.x_test[:32].astype("float32")
    loaded = []
    for i, member in enumerate(trained_members):
        config = {**member.get_config(), "name": "classifier"}
        config["backbone"]["config"]["name"] = "backbone"
        twin = kd.DPViTClassifier.from_config(config)
        twin.set_weights(member.get_weights())
        twin.past_ledger = member.privacy_ledger
        twin.save(tmp_path / f"{i}.keras")
        loaded.append(keras.saving.load_model(tmp_path / f"{i}.keras"))
    assert [model.name for model in loaded] == ["classifier", "classifier"]
    assert loaded[0].backbone.name == loaded[1].backbone.name
    fused = kd.FusedClassifier(loaded)
    expected = kd.FusedClassifier(trained_members)(x)["probabilities"].numpy()
    np.testing.assert_allclose(fused(x)["probabilities"], expected, rtol=1e-5, atol=1e-7)
    fused.save(tmp_path / "fused.keras")
    again = keras.saving.load_model(tmp_path / "fused.keras")
    np.testing.assert_array_equal(again(x)["probabilities"], fused(x)["probabilities"])
    assert again.privacy_ledger == fused.privacy_ledger
    noises = [entry.noise_multiplier for entry in again.privacy_ledger.all_entries()]
    assert noises == [2.0, 2.5]
