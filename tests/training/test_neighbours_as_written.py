"""One record more moves a step by no more than declared, for what people write beside images."""

import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.gradients import recurrent, rules

layers = keras.layers
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RECORDS = 12
rng = np.random.default_rng(0)
NUMBERS = rng.normal(size=(RECORDS, 6)).astype("float32")
STEPS = rng.normal(size=(RECORDS, 5, 3)).astype("float32")
WORDS = rng.integers(1, 9, (RECORDS, 5))
CLASSES = np.arange(RECORDS) % 3
PLAN = kd.PrivacyPlan(RECORDS, RECORDS, 1, 1e-3, noise_multiplier=1.0)


def sequential(shape, *parts, dtype=None):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *parts])


def two_of_each():
    image, age = keras.Input((6,), name="image"), keras.Input((2,), name="age")
    hidden = layers.Dense(5, "relu")(layers.Concatenate()([image, age]))
    outputs = {"site": layers.Dense(3, name="s")(hidden), "risk": layers.Dense(1, name="r")(hidden)}
    return keras.Model({"image": image, "age": age}, outputs)


def with_adapters():
    model = sequential((6,), layers.Dense(5, "tanh"), layers.Dense(3))
    for layer in model.layers:
        layer.enable_lora(2)
    return model


def recurrent_model(kind, **options):
    return lambda: sequential((5, 3), kind(4, **options), layers.Dense(3))


@keras.saving.register_keras_serializable(package="as_written")
class Block(layers.Layer):
    """A variable of its own, and dropout inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.drop = layers.Dropout(0.4)

    def build(self, shape):
        self.gain = self.add_weight(shape=shape[-1:], initializer="ones", name="gain")

    def call(self, x, training=False):
        return self.drop(self.gain * x, training=training)


CASES = {
    "several inputs and outputs": (
        two_of_each,
        {"site": SPARSE, "risk": "mse"},
        {"image": NUMBERS, "age": NUMBERS[:, :2].copy()},
        {"site": CLASSES, "risk": NUMBERS[:, 0].copy()},
    ),
    "lstm": (recurrent_model(layers.LSTM), SPARSE, STEPS, CLASSES),
    "gru": (recurrent_model(layers.GRU, activation="relu"), SPARSE, STEPS, CLASSES),
    "simple": (recurrent_model(layers.SimpleRNN, activation=None), SPARSE, STEPS, CLASSES),
    "bidirectional": (
        lambda: sequential((5, 3), layers.Bidirectional(layers.LSTM(3)), layers.Dense(3)),
        SPARSE,
        STEPS,
        CLASSES,
    ),
    "words with a mask": (
        lambda: sequential(
            (5,), layers.Embedding(9, 4, mask_zero=True), layers.GRU(4), layers.Dense(3),
            dtype="int32",
        ),
        SPARSE,
        WORDS,
        CLASSES,
    ),
    "adapters": (with_adapters, SPARSE, NUMBERS, CLASSES),
    "one output of two classes": (
        lambda: sequential((6,), layers.Dense(1, "sigmoid")),
        "binary_crossentropy",
        NUMBERS,
        (CLASSES == 1).astype("float32"),
    ),
    "a class for each step": (
        lambda: sequential((5, 3), layers.Dense(3)),
        SPARSE,
        STEPS,
        np.arange(60).reshape(12, 5) % 3,
    ),
    "a number of no class": (
        lambda: sequential((6,), layers.Dense(3)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1),
        NUMBERS,
        CLASSES,
    ),
    "counts": (
        lambda: sequential((6,), layers.Dense(1, "exponential")), "poisson", NUMBERS, CLASSES * 7,
    ),
    "gates with masks of their own": (
        recurrent_model(layers.LSTM, dropout=0.3, recurrent_dropout=0.3), SPARSE, STEPS, CLASSES,
    ),
    "dropout in a layer of one's own": (
        lambda: sequential((6,), Block(), layers.Dense(3)), SPARSE, NUMBERS, CLASSES,
    ),
    "spectral": (
        lambda: sequential(
            (6,), layers.SpectralNormalization(layers.Dense(5, "tanh")), layers.Dense(3)
        ),
        SPARSE,
        NUMBERS,
        CLASSES,
    ),
    "convolutions": (
        lambda: sequential(
            (6, 6, 1),
            layers.Conv2D(4, 3, padding="same", activation="relu"),
            layers.SeparableConv2D(3, 2),
            layers.Conv2DTranspose(2, 2, strides=2),
            layers.DepthwiseConv2D(3),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ),
        SPARSE,
        rng.normal(size=(RECORDS, 6, 6, 1)).astype("float32"),
        CLASSES,
    ),
    "penalised": (
        lambda: sequential((6,), layers.Dense(3, kernel_regularizer="l2")),
        SPARSE,
        NUMBERS,
        CLASSES,
    ),
    "frozen statistics": (
        lambda: kd.replace_batch_normalization(
            sequential((6,), layers.Dense(5), layers.BatchNormalization(), layers.Dense(3)),
            "frozen",
        ),
        SPARSE,
        NUMBERS,
        CLASSES,
    ),
}  # fmt: skip


IN_EVERY_RUN = ("several inputs and outputs", "lstm", "words with a mask", "adapters")


@pytest.mark.parametrize(
    "name",
    [n if n in IN_EVERY_RUN else pytest.param(n, marks=pytest.mark.proof) for n in CASES],
)
def test_no_record_moves_a_step_by_more_than_declared(name):
    make, loss, x, y = CASES[name]
    found = kd.auditing.neighbours(kd.make_private(make()), loss, x, y, PLAN)
    assert found.learned
    assert found.holds, found.worst
    assert len(found.ratios) >= (20 if name == "several inputs and outputs" else 3)


def test_a_rule_that_forgets_the_steps_is_found(monkeypatch):
    """The faulty twin: the states' product left out of the norm that clips it."""
    measured = recurrent.RecurrentRule.measured

    def inputs_alone(self, layer, factors):
        whole, half = measured(self, layer, factors), measured(self, layer, factors[:2])
        return rules.Measured(half.squared_norms, whole.kept)

    monkeypatch.setattr(recurrent.RecurrentRule, "measured", inputs_alone)
    make, loss, x, y = CASES["lstm"]
    plan = kd.PrivacyPlan(
        RECORDS, RECORDS, 1, 1e-3, noise_multiplier=1.0,
        clipping=kd.FlatClipping(), sensitivity=kd.FixedSensitivity(1e-3),
    )  # fmt: skip
    assert not kd.auditing.neighbours(kd.make_private(make()), loss, x, y, plan).holds
