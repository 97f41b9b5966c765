"""Tries private trainings under strategies of two devices and of one; prints each end as JSON.

In a process of its own: a processor is split into devices before TensorFlow has used it.
"""

import json

import keras
import numpy as np
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.errors import InputError

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
X, Y = np.random.default_rng(0).random((60, 4), "float32"), np.arange(60) % 3
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def plan():
    return kd.PrivacyPlan(60, 20, 1, 1e-3, noise_multiplier=1.0)


def network():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])


def private():
    return kd.make_private(network())


def compiled(model):
    model.compile(kd.DPKerasSGDOptimizer(plan(), 0.1), LOSS)
    return model


def fit(model):
    model.fit(X, Y, epochs=1, verbose=0)
    return model.privacy_ledger.epsilon(1e-3)


def loss_fn(model, batch):
    inputs, labels = batch
    return keras.losses.sparse_categorical_crossentropy(
        labels, model(inputs, training=True), from_logits=True
    )


def all_in_scope(strategy):
    with strategy.scope():
        return fit(compiled(private()))


def fit_outside(strategy):
    with strategy.scope():
        model = compiled(private())
    return fit(model)


def network_in_scope(strategy):
    with strategy.scope():
        inner = network()
    return fit(compiled(kd.make_private(inner)))


def fit_alone_in_scope(strategy):
    model = compiled(private())
    with strategy.scope():
        return fit(model)


def classifier_in_scope(strategy):
    with strategy.scope():
        model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=3)
    return fit(compiled(model))


def part_in_scope(strategy):
    with strategy.scope():
        backbone = network()
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3)(backbone(inputs)))
    return fit(compiled(kd.make_private(model)))


def own_loop(strategy):
    step = kd.PrivateStep(private(), plan(), loss_fn)
    for batch in step.batches(X, Y):
        strategy.run(lambda batch=batch: step.gradients(batch))
    return step.ledger.epsilon(1e-3)


def own_apply(strategy):
    step, optimizer = kd.PrivateStep(private(), plan(), loss_fn), keras.optimizers.SGD(0.1)
    (batch,) = (batch for batch, _ in zip(step.batches(X, Y), range(1), strict=False))
    gradients = step.gradients(batch)
    with strategy.scope():
        step.apply(optimizer, gradients)
    return 0.0


WAYS = (
    all_in_scope,
    fit_outside,
    network_in_scope,
    fit_alone_in_scope,
    classifier_in_scope,
    part_in_scope,
    own_loop,
    own_apply,
)


def ended(way, strategy):
    try:
        return way(strategy)
    except InputError as error:
        return str(error)


if __name__ == "__main__":
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    one = tf.distribute.OneDeviceStrategy("CPU:1")
    found = {
        name: {way.__name__: ended(way, strategy) for way in WAYS}
        for name, strategy in (("two", two), ("one", one))
    }
    model = compiled(private())
    print(json.dumps({**found, "none": fit(model), "plan": plan().epsilon()}))
