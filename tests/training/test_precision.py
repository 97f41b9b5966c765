"""What a step computes with: float32, on a GPU too."""

import keras
import tensorflow as tf

import keras_dpvit as kd


class Look(keras.callbacks.Callback):
    """Notes whether TensorFloat-32 is on while batches are trained on."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(tf.config.experimental.tensor_float_32_execution_enabled())


def test_tensor_float_32_is_off_while_a_private_fit_runs_and_then_as_it_was(digit_images):
    network = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    model, look = kd.make_private(network), Look()
    plan = kd.PrivacyPlan(60, 30, 1, 1e-5, 1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kd.DPKerasSGDOptimizer(plan, 0.1), loss)
    assert tf.config.experimental.tensor_float_32_execution_enabled()
    model.fit(digit_images.x_train[:60], digit_images.y_train[:60], verbose=0, callbacks=[look])
    assert look.seen
    assert not any(look.seen)
    assert tf.config.experimental.tensor_float_32_execution_enabled()
