"""Training a part of a model: all of it, its head, its biases."""

import warnings

import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.models.trainable import TRAINABLE

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
PLAN = kd.PrivacyPlan(num_examples=60, batch_size=20, epochs=2, delta=1e-4, noise_multiplier=1.0)


def names(variables):
    return sorted("/".join(v.path.split("/")[-2:]) for v in variables)


@pytest.mark.parametrize("trainable", TRAINABLE)
@pytest.mark.parametrize("kind", ["own", "wrapped"])
def test_frozen_variables_stay_to_the_bit_and_the_others_move(
    trainable, kind, small_records, classifier, network
):
    model = classifier()
    if kind == "own":
        kd.choose_trainable(model, trainable)
    else:
        model = kd.make_private(network(), trainable=trainable)
    before = [v.numpy() for v in model.weights]
    model.compile(kd.DPKerasAdamOptimizer(PLAN, 1e-2, weight_decay=1e-3), LOSS)
    model.fit(*small_records, verbose=0)
    moved = {id(v) for v, b in zip(model.weights, before, strict=True) if np.any(v.numpy() != b)}
    assert moved == {id(v) for v in model.trainable_variables}
    assert len(moved) < len(before) or trainable == "all"


def test_what_each_choice_trains(network):
    model = kd.make_private(network())
    assert len(model.trainable_variables) == 6
    kd.choose_trainable(model, "head")
    assert names(model.trainable_variables) == ["last/bias", "last/kernel"]
    kd.choose_trainable(model, "bias")
    head_and_biases = ["convolution/bias", "last/bias", "last/kernel", "norm/beta"]
    assert names(model.trainable_variables) == head_and_biases
    kd.choose_trainable(model, "all")
    assert len(model.trainable_variables) == 6


def test_the_head_is_what_lies_outside_of_the_backbone(classifier):
    model = classifier(final_norm=True, head_hidden_dim=5)
    kd.choose_trainable(model, "head")
    inside = {id(v) for v in model.backbone.variables}
    outside = [v for v in model.weights if id(v) not in inside]
    assert {id(v) for v in model.trainable_variables} == {id(v) for v in outside}
    assert len(outside) == 6


def test_the_head_of_a_nested_model_is_its_last_layer_with_variables(network):
    inner = network()
    model = keras.Sequential([keras.Input((4, 4, 1)), inner, keras.layers.Softmax()])
    kd.choose_trainable(model, "head")
    assert names(model.trainable_variables) == ["last/bias", "last/kernel"]


def test_what_the_user_froze_stays_frozen_and_a_choice_can_be_lifted(network):
    model = network()
    model.get_layer("convolution").trainable = False
    kd.choose_trainable(model, "bias")
    assert names(model.trainable_variables) == ["last/bias", "last/kernel", "norm/beta"]
    kd.choose_trainable(model, "all")
    assert names(model.trainable_variables) == [
        "last/bias",
        "last/kernel",
        "norm/beta",
        "norm/gamma",
    ]


@pytest.mark.parametrize("trainable", ["heads", "", None])
def test_another_word_is_refused(trainable, network):
    with pytest.raises(InputError, match="trainable must be one of all, bias, head, got"):
        kd.make_private(network(), trainable=trainable)


def test_a_choice_that_leaves_nothing_is_refused_and_the_one_before_stands(classifier):
    model = classifier()
    kd.choose_trainable(model, "bias")
    model.get_layer("logits").trainable = False
    before = names(model.trainable_variables)
    with pytest.raises(InputError, match=r"trainable='head' leaves no variable .* to train"):
        kd.choose_trainable(model, "head")
    assert names(model.trainable_variables) == before
    model.trainable = False
    with pytest.raises(InputError, match="trainable='all' leaves no variable"):
        kd.choose_trainable(model)


def test_a_model_that_is_refused_is_not_left_frozen(network):
    mixing = network()
    mixing.add(keras.layers.BatchNormalization())
    before = len(mixing.trainable_variables)
    with pytest.raises(InputError, match="mixes"):
        kd.make_private(mixing, trainable="head")
    assert len(mixing.trainable_variables) == before


def test_two_wrappers_of_one_network_train_what_each_was_told(small_records, network):
    shared = network()
    first = kd.make_private(shared, trainable="head")
    second = kd.make_private(shared, trainable="bias")
    for model in (first, second):
        model.compile(kd.DPKerasSGDOptimizer(PLAN), LOSS)
    for model, number in ((first, 2), (second, 4)):
        before = [v.numpy() for v in shared.weights]
        model.fit(*small_records, verbose=0)
        moved = [np.any(v.numpy() != b) for v, b in zip(shared.weights, before, strict=True)]
        assert sum(moved) == number


def test_a_choice_after_compile_needs_another(small_records, classifier):
    model = classifier()
    model.compile(kd.DPKerasSGDOptimizer(PLAN), LOSS)
    kd.choose_trainable(model, "head")
    with pytest.raises(InputError, match="compiled for 'all', now it is 'head'"):
        model.fit(*small_records, verbose=0)
    assert model.privacy_ledger.all_entries() == ()


@pytest.mark.parametrize("kind", ["own", "wrapped"])
def test_the_choice_travels_with_a_compiled_model(
    kind, small_records, tmp_path, classifier, network
):
    if kind == "own":
        model = classifier()
        kd.choose_trainable(model, "head")
    else:
        model = kd.make_private(network(), trainable="head")
    model.compile(kd.DPKerasAdamOptimizer(PLAN, 1e-2), LOSS)
    model.fit(*small_records, verbose=0)
    model.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = kd.load_model(tmp_path / "model.keras")
    assert loaded.trainable_part == "head"
    assert len(loaded.trainable_variables) == 2
    assert [v.shape for v in loaded.optimizer.variables] == [
        v.shape for v in model.optimizer.variables
    ]
    before = [v.numpy() for v in loaded.non_trainable_variables]
    loaded.fit(*small_records, verbose=0)
    for variable, value in zip(loaded.non_trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_the_wrapped_network_is_whole_again_in_its_own_file(tmp_path, network):
    shared = network()
    kd.make_private(shared, trainable="head")
    shared.save(tmp_path / "network.keras")
    assert len(keras.saving.load_model(tmp_path / "network.keras").trainable_variables) == 6
