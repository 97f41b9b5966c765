"""Averaged weights, which cost nothing, and steps added up or taken together, which are refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.privacy.ledger import PrivacyLedger
from keras_dpvit.training.step import PrivateGradients

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
OPTIMIZERS = [kd.DPKerasSGDOptimizer, kd.DPKerasAdamOptimizer]


class Scaled(keras.layers.Layer):
    """Has a variable of its own beside those of the layer in it, both of one shape."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = keras.layers.Dense(3, use_bias=False)

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1], 3), initializer="ones", name="scale")
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x) + x @ self.scale


def dense():
    return keras.layers.Dense(3)


def a_model(layer=dense):
    keras.utils.set_random_seed(1)
    layers = keras.layers
    return kd.make_private(
        keras.Sequential(
            [keras.Input((4, 4, 1)), layers.Rescaling(1 / 255), layers.Flatten(),
             layer()]
        )
    )  # fmt: skip


def a_plan(**changes):
    arguments = {
        "num_examples": 60, "batch_size": 20, "epochs": 4, "delta": 1e-4, "noise_multiplier": 1.0,
        "seed": 5,
    }  # fmt: skip
    return kd.PrivacyPlan(**{**arguments, **changes})


def compiled(make=kd.DPKerasAdamOptimizer, layer=dense, **options):
    model = a_model(layer)
    model.compile(make(a_plan(), learning_rate=0.05, **options), LOSS)
    return model


def values(variables):
    return [v.numpy() for v in variables]


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


class Recorder(keras.callbacks.Callback):
    """The trained variables after each step."""

    def __init__(self):
        super().__init__()
        self.after = []

    def on_train_batch_end(self, batch, logs=None):
        self.after.append(values(self.model.trainable_variables))


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("layer", [dense, Scaled], ids=["dense", "own_variable"])
def test_averaged_weights_are_the_average_by_hand_and_cost_nothing(make, layer, small_records):
    plain = compiled(make, layer)
    recorder = Recorder()
    plain.fit(*small_records, epochs=2, verbose=0, callbacks=[recorder])
    averaged = compiled(make, layer, use_ema=True, ema_momentum=0.7)
    watched = Recorder()
    averaged.fit(*small_records, epochs=2, verbose=0, callbacks=[watched])
    # The training itself is the same, up to its end.
    for one, other in zip(watched.after, recorder.after, strict=True):
        assert_equal(one, other)
    by_hand = recorder.after[0]
    for step in recorder.after[1:]:
        by_hand = [0.7 * a + 0.3 * b for a, b in zip(by_hand, step, strict=True)]
    for found, expected, last in zip(
        values(averaged.trainable_variables), by_hand, recorder.after[-1], strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert np.abs(found - last).max() > 1e-3
    assert averaged.privacy_ledger.epsilon(1e-4) == plain.privacy_ledger.epsilon(1e-4)


def test_weights_are_overwritten_as_often_as_asked(small_records):
    model, recorder = (
        compiled(use_ema=True, ema_momentum=0.7, ema_overwrite_frequency=3),
        Recorder(),
    )
    model.fit(*small_records, epochs=2, verbose=0, callbacks=[recorder])
    free = compiled()
    alone = Recorder()
    free.fit(*small_records, epochs=1, verbose=0, callbacks=[alone])
    assert_equal(recorder.after[1], alone.after[1])
    by_hand = alone.after[0]
    for step in alone.after[1:]:
        by_hand = [0.7 * a + 0.3 * b for a, b in zip(by_hand, step, strict=True)]
    for found, expected in zip(recorder.after[2], by_hand, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("crash_after", [2, 8, 12])
def test_averages_survive_a_crash_bit_for_bit(crash_after, small_records, tmp_path):
    class Crash(keras.callbacks.Callback):
        steps = 0

        def on_train_batch_end(self, batch, logs=None):
            self.steps += 1
            if self.steps == crash_after:
                raise KeyboardInterrupt

    arguments = {"epochs": 4, "verbose": 0, "checkpoint_steps": 3}
    options = {"use_ema": True, "ema_momentum": 0.7, "layer": Scaled}
    whole = compiled(**options)
    whole.fit(*small_records, checkpoint_dir=tmp_path / "whole", **arguments)
    with pytest.raises(KeyboardInterrupt):
        compiled(**options).fit(
            *small_records, callbacks=[Crash()], checkpoint_dir=tmp_path / "cut", **arguments
        )
    resumed = compiled(**options)
    resumed.fit(*small_records, checkpoint_dir=tmp_path / "cut", **arguments)
    assert_equal(values(resumed.variables), values(whole.variables))
    assert_equal(values(resumed.optimizer.variables), values(whole.optimizer.variables))
    assert resumed.privacy_ledger.costs() == whole.privacy_ledger.costs()


def test_an_optimizers_state_survives_a_file(small_records, tmp_path):
    """Its variables stand in the model's order, whatever order gradients come in."""
    keras.saving.get_custom_objects()["Scaled"] = Scaled
    try:
        model = compiled(layer=Scaled, use_ema=True)
        model.fit(*small_records, epochs=1, verbose=0)
        model.save(tmp_path / "model.keras")
        again = kd.load_model(tmp_path / "model.keras")
    finally:
        del keras.saving.get_custom_objects()["Scaled"]
    assert_equal(values(again.optimizer.variables), values(model.optimizer.variables))
    paths = [v.path for v in model.optimizer._trainable_variables]
    assert paths == [v.path for v in model.trainable_variables]


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_steps_are_not_added_up(make):
    with pytest.raises(InputError, match="gradient_accumulation_steps must be left out") as caught:
        make(a_plan(), gradient_accumulation_steps=4)
    assert "physical_batch_size" in str(caught.value)
    assert "\n" not in str(caught.value)
    optimizer = make(a_plan())
    optimizer.gradient_accumulation_steps = 4
    with pytest.raises(InputError, match="gradient_accumulation_steps must be left out"):
        a_model().compile(optimizer, LOSS)
    again = make.from_config(make(a_plan(), use_ema=True).get_config())
    assert again.use_ema
    assert again.gradient_accumulation_steps is None


def test_a_logical_batch_is_one_step_whatever_is_in_memory_at_once(small_records):
    def trained(size):
        model = compiled(kd.DPKerasSGDOptimizer)
        model.fit(*small_records, epochs=2, verbose=0, physical_batch_size=size)
        assert int(model.optimizer.iterations) == 6
        assert model.privacy_ledger.costs() == PrivacyLedger(a_plan().entries(6)).costs()
        return model.get_weights()

    for found, expected in zip(trained(3), trained(200), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [2, 100])
def test_several_steps_in_one_call_are_refused(steps, small_records):
    """They would pass the plan's end unseen, and the ledger counts what the plan pays for."""
    model = a_model()
    model.compile(kd.DPKerasSGDOptimizer(a_plan()), LOSS, steps_per_execution=steps)
    with pytest.raises(InputError, match="steps_per_execution must be 1"):
        model.fit(*small_records, verbose=0)
    assert model.private_trainer.state.steps_taken == 0


def test_a_step_that_the_plan_does_not_pay_for_is_not_taken(small_records):
    class GoOn(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = False

    model = a_model()
    model.compile(kd.DPKerasSGDOptimizer(a_plan(epochs=1.3)), LOSS)
    with pytest.raises(InputError, match="training continued after the plan's 4 steps"):
        model.fit(*small_records, epochs=3, verbose=0, callbacks=[GoOn()])
    assert [entry.steps for entry in model.privacy_ledger.entries] == [4]


def adam_by_hand(gradients, variance, share, rate=0.05, betas=(0.9, 0.999), epsilon=1e-7):
    """DP-AdamBC's steps on one variable, in float64."""
    x = first = second = noise = 0.0
    for step, gradient in enumerate(gradients, 1):
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        noise = betas[1] * noise + (1 - betas[1]) * variance
        first_hat = first / (1 - betas[0] ** step)
        second_hat, noise_hat = (v / (1 - betas[1] ** step) for v in (second, noise))
        left = np.maximum(second_hat - noise_hat, share * noise_hat)
        x = x - rate * first_hat / (np.sqrt(left) + epsilon)
    return x


@pytest.mark.parametrize("variance", [0.0, 0.3])
def test_adam_takes_the_noise_off_its_second_moment(variance):
    drawn = np.random.default_rng(0).normal(0.2, 1.0, (20, 5)).astype("float32")
    variable = keras.Variable(np.zeros(5, "float32"))
    optimizer = kd.DPKerasAdamOptimizer(a_plan(), learning_rate=0.05, noise_correction=0.1)
    optimizer.build([variable])
    for gradient in drawn:
        optimizer.apply(PrivateGradients([tf.constant(gradient)], variance), [variable])
    np.testing.assert_allclose(variable.numpy(), adam_by_hand(drawn, variance, 0.1), rtol=1e-3)


def test_the_step_knows_the_variance_of_its_noise():
    """Of 400 equal variables' gradients of zero the variance is the noise's, within 8 deviations.

    A variance of n normal numbers deviates by sqrt(2 / n): beyond 8 of them lies below 1e-14.
    """
    plan = a_plan(noise_multiplier=2.0, sensitivity=kd.FixedSensitivity(0.5))
    model = kd.make_private(keras.Sequential([keras.Input((400,)), keras.layers.Dense(1)]))
    step = kd.PrivateStep(model, plan, lambda model, x: 0.0 * model(x, training=True)[:, 0])
    gradients = step.gradients(next(step.batches(np.ones((60, 400), "float32"))))
    expected = (2.0 * 0.5 / 20) ** 2
    np.testing.assert_allclose(gradients.noise_variance, expected, rtol=1e-5)
    assert gradients.plus_public([None, None]).noise_variance is gradients.noise_variance
    np.testing.assert_allclose(np.var(gradients[0]), expected, rtol=8 * np.sqrt(2 / 400))


def test_a_corrected_adam_goes_on_from_its_file(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 255, (60, 4, 4, 1)).astype("float32"), rng.integers(0, 3, 60)
    model = compiled(noise_correction=0.5)
    model.fit(x, y, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = kd.load_model(tmp_path / "model.keras").optimizer
    assert loaded.noise_correction == 0.5
    moments = [o.variables[[v.name for v in o.variables].index("noise_moment")]
               for o in (model.optimizer, loaded)]  # fmt: skip
    assert moments[0].numpy() == moments[1].numpy() > 0


@pytest.mark.parametrize("options", [{"noise_correction": 0.0}, {"noise_correction": 2},
                                     {"noise_correction": 0.1, "amsgrad": True}])  # fmt: skip
def test_a_correction_out_of_range_is_refused(options):
    with pytest.raises(InputError, match="noise_correction"):
        kd.DPKerasAdamOptimizer(a_plan(), **options)
