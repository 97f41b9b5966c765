"""`kd.private`: any Keras optimizer, which with noise 0 and no bound trains as it does plainly."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_dpvit as kd

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
optimizers = keras.optimizers

MADE = {
    "sgd": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: optimizers.Adam(1e-2, amsgrad=True),
    "adamw": lambda: optimizers.AdamW(1e-2, weight_decay=0.1),
    "lion": lambda: optimizers.Lion(1e-3),
    "lamb": lambda: optimizers.Lamb(1e-2),
    "adafactor": lambda: optimizers.Adafactor(1e-2),
    "rmsprop": lambda: optimizers.RMSprop(1e-2, centered=True),
    "muon": lambda: optimizers.Muon(1e-2),
    "nadam": lambda: optimizers.Nadam(1e-2),
    "ftrl": lambda: optimizers.Ftrl(1e-2),
    "adagrad": lambda: optimizers.Adagrad(1e-2),
    "schedule": lambda: optimizers.AdamW(optimizers.schedules.CosineDecay(1e-2, 20)),
    "clipped": lambda: optimizers.Adam(1e-2, global_clipnorm=0.1),
    "average": lambda: optimizers.Adam(1e-2, use_ema=True),
}


@pytest.fixture(scope="module")
def digits(digit_images):
    x = digit_images.x_train[:40].reshape(40, 64).astype("float32") / 255
    return x, digit_images.y_train[:40].astype("int64")


def network():
    return keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(10)]
    )


def a_plan(**changes):
    no_bound = {"clipping": kd.FlatClipping(), "sensitivity": kd.FixedSensitivity(1e6)}
    arguments = {"noise_multiplier": 0.0, **no_bound, **changes}
    return kd.PrivacyPlan(40, 40, 20, 1e-3, **arguments)


@pytest.mark.parametrize("name", MADE)
def test_twenty_steps_are_plain_keras(digits, name):
    start = network().get_weights()
    ends = []
    for private in (True, False):
        model = network()
        model.set_weights(start)
        if private:
            wrapped = kd.make_private(model)
            wrapped.compile(kd.private(MADE[name](), a_plan()), SPARSE)
            wrapped.fit(*digits, epochs=20, verbose=0)
        else:
            model.compile(MADE[name](), SPARSE, jit_compile=False)
            model.fit(*digits, batch_size=40, shuffle=False, epochs=20, verbose=0)
        ends.append(model.get_weights())
    for ours, keras_own in zip(*ends, strict=True):
        np.testing.assert_allclose(ours, keras_own, atol=1e-5)
    assert max(np.abs(a - b).max() for a, b in zip(ends[0], start, strict=True)) > 1e-3


def test_it_has_the_plans_ledger_and_refuses_plain_gradients(digits):
    plan = a_plan(noise_multiplier=1.0)
    model = kd.make_private(network())
    model.compile(kd.private(optimizers.Lion(1e-4), plan), SPARSE)
    model.fit(*digits, epochs=20, verbose=0)
    assert model.privacy_ledger.epsilon(1e-3) == plan.epsilon()
    plain = network()
    plain.compile(kd.private(optimizers.Lion(1e-4), plan), SPARSE)
    with pytest.raises(kd.InputError, match="handed plain gradients"):
        plain.fit(*digits, verbose=0)


def test_a_model_saved_with_it_loads_in_a_fresh_process(digits, tmp_path):
    model = kd.make_private(network())
    model.compile(kd.private(optimizers.Lamb(1e-3), a_plan(noise_multiplier=1.0)), SPARSE)
    model.fit(*digits, verbose=0)
    model.save(tmp_path / "model.keras")
    program = (
        "import keras_dpvit, keras\n"
        f"model = keras.saving.load_model({str(tmp_path / 'model.keras')!r})\n"
        "print(type(model.optimizer).__name__, model.optimizer.plan.batch_size)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout.split() == ["PrivateLamb", "40"], found.stderr[-2000:]


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("adam", "optimizer must be a Keras optimizer, got 'adam'"),
        (lambda: optimizers.LossScaleOptimizer(optimizers.SGD()), "LossScaleOptimizer"),
        (lambda: kd.DPKerasSGDOptimizer(a_plan()), "private already"),
        (lambda: optimizers.SGD(gradient_accumulation_steps=2), "gradient_accumulation_steps"),
    ],
)
def test_what_is_no_optimizer_for_a_plan_is_refused(optimizer, message):
    with pytest.raises(kd.InputError, match=message):
        kd.private(optimizer if isinstance(optimizer, str) else optimizer(), a_plan())


def test_arguments_of_tf_privacy_get_the_new_call():
    for kind in (kd.DPKerasSGDOptimizer, kd.DPKerasAdamOptimizer):
        with pytest.raises(kd.InputError, match="l2_norm_clip, noise_multiplier belong to a plan"):
            kind(l2_norm_clip=1.0, noise_multiplier=1.1, learning_rate=0.1)
        with pytest.raises(kd.InputError, match="num_microbatches belongs to a plan here"):
            kind(a_plan(), num_microbatches=1)
        with pytest.raises(kd.InputError, match="plan must be given"):
            kind(learning_rate=0.1)


def test_a_plan_that_is_none_is_refused():
    with pytest.raises(kd.InputError, match="plan must be a PrivacyPlan"):
        kd.private(optimizers.SGD(0.1), 1.0)
