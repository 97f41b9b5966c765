"""A check of one model speaks for the next of equal settings, and for no other."""

import functools
import types

import keras
import pytest

import keras_dpvit as kd
from keras_dpvit.training.recipe import once_for_each_recipe, recipe_of

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def classifier(**settings):
    return kd.DPViTClassifier(kd.DPViTBackbone((4, 4, 1), 2, 8, 2, (1,), **settings), 3)


def sequential(*layers):
    return keras.Sequential([keras.Input((4,)), *layers])


def relu(x):  # Keras would write its name as that of its own
    return x[::-1]


class Own(keras.layers.Dense):
    pass


def test_equal_settings_make_one_recipe_whatever_number_a_name_has():
    classifier(), sequential(keras.layers.Dense(2))  # those without a number
    assert recipe_of(classifier(), LOSS, "int64") == recipe_of(classifier(), LOSS, "int64")
    models = [sequential(keras.layers.Dense(3), keras.layers.Dense(2)) for _ in range(2)]
    assert recipe_of(models[0]) == recipe_of(models[1])
    models[1].compile("sgd")
    assert recipe_of(models[0]) == recipe_of(models[1])


def test_what_a_trial_could_tell_apart_makes_another_recipe():
    frozen = sequential(keras.layers.Dense(2))
    frozen.layers[0].trainable = False
    found = [
        recipe_of(classifier(), LOSS, "int64 ()"),
        recipe_of(classifier(), LOSS, "float32 ()"),
        recipe_of(classifier(), None, "int64 ()"),
        recipe_of(classifier(attention_noise_stddev=0.1), LOSS, "int64 ()"),
        recipe_of(sequential(keras.layers.Dense(2))),
        recipe_of(frozen),
        recipe_of(sequential(keras.layers.Dense(2), keras.layers.Softmax(axis=0))),
        recipe_of(sequential(keras.layers.Dense(2), keras.layers.Softmax(axis=1))),
    ]
    assert None not in found
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: Own(2),
        lambda: keras.layers.Dense(2, activation=relu),
        lambda: keras.layers.Activation(lambda x: x),
        lambda: keras.layers.Lambda(lambda x: x, output_shape=(4,)),
    ],
)
def test_somebody_elses_code_has_no_recipe(layer):
    assert recipe_of(sequential(layer())) is None
    assert recipe_of(sequential(keras.layers.Dense(2)), lambda y, p: p) is None


def test_a_call_put_into_an_instance_has_no_recipe():
    model = sequential(keras.layers.Dense(2))
    original = model.layers[0].call
    model.layers[0].call = lambda x: original(x)[::-1]
    assert recipe_of(model) is None


def test_a_method_put_into_an_instance_or_a_class_has_no_recipe(monkeypatch):
    def mixing(self, x):
        return x[::-1]

    model = sequential(keras.layers.Dense(2))
    model.layers[0].own = types.MethodType(mixing, model.layers[0])
    assert recipe_of(model) is None
    model = sequential(keras.layers.Dense(2))
    model.layers[0].own = functools.partial(mixing, None)
    assert recipe_of(model) is None
    model = sequential(keras.layers.ReLU())
    assert recipe_of(model) is not None
    monkeypatch.setattr(keras.layers.ReLU, "call", mixing)
    assert recipe_of(model) is None


def test_a_check_is_made_once_and_again_where_it_failed_or_code_is_unknown():
    made = []

    def fails():
        made.append("fails")
        raise ValueError

    def passes():
        made.append("passes")

    model = sequential(keras.layers.Dense(7))
    for _ in range(2):
        with pytest.raises(ValueError):
            once_for_each_recipe(fails, model)
    for _ in range(2):
        once_for_each_recipe(passes, sequential(keras.layers.Dense(7)))
        once_for_each_recipe(passes, sequential(Own(7)))
    assert made == ["fails", "fails", "passes", "passes", "passes"]
