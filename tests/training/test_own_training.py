"""Models that train in a way of their own are refused: make_private would pass it by in silence."""

import keras
import numpy as np
import pytest

import keras_dpvit as kd


class OwnStep(keras.Model):
    def train_step(self, data):
        return {"loss": 0.0}


class OwnLoss(keras.Model):
    def compute_loss(self, *args, **kwargs):
        return 2 * super().compute_loss(*args, **kwargs)


class OwnMetrics(keras.Model):
    def compute_metrics(self, *args, **kwargs):
        return super().compute_metrics(*args, **kwargs)


class OwnFit(keras.Model):
    def fit(self, *args, **kwargs):
        return super().fit(*args, **kwargs)


class Ordinary(keras.Model):
    """As in the guides, with a method that has nothing to do with training."""

    def evaluate(self, *args, **kwargs):
        return super().evaluate(*args, **kwargs)


def made(kind):
    inputs = keras.Input((4,))
    return kind(inputs, keras.layers.Dense(3)(inputs))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (OwnStep, "train_step"),
        (OwnLoss, "compute_loss"),
        (OwnMetrics, "compute_metrics"),
        (OwnFit, "fit"),
    ],
)
def test_it_is_named_and_refused(kind, name):
    with pytest.raises(kd.InputError, match=f"{kind.__name__} has a {name} of its own") as caught:
        kd.make_private(made(kind))
    assert "\n" not in str(caught.value)


def test_other_methods_are_nobodys_concern():
    model = kd.make_private(made(Ordinary))
    plan = kd.PrivacyPlan(60, 20, 1, 1e-3, noise_multiplier=1.0)
    model.compile(kd.DPKerasSGDOptimizer(plan, 0.1), "mse")
    model.fit(np.ones((60, 4), "float32"), np.ones((60, 3)), verbose=0)
    assert model.privacy_ledger.epsilon(1e-3) == plan.epsilon()
