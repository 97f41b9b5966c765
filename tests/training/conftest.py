"""Small models and records that several tests train on."""

import keras
import numpy as np
import pytest

import keras_dpvit as kd


@pytest.fixture(scope="session")
def classifier():
    """Builds a small classifier of this package."""

    def build(num_classes=3, hidden_dim=8, stage_depths=(1,), **head):
        backbone = kd.DPViTBackbone((4, 4, 1), 2, hidden_dim, 2, stage_depths=stage_depths)
        return kd.DPViTClassifier(backbone, num_classes, **head)

    return build


@pytest.fixture(scope="session")
def network():
    """Builds somebody else's model, without a backbone."""

    def build(num_classes=3):
        layers = keras.layers
        return keras.Sequential(
            [
                keras.Input((4, 4, 1)),
                layers.Conv2D(4, 2, activation="relu", name="convolution"),
                layers.LayerNormalization(name="norm"),
                layers.Flatten(),
                layers.Dense(num_classes, name="last"),
            ]
        )

    return build


@pytest.fixture(scope="session")
def small_records():
    """Sixty images of 4x4 in three classes, at random; nobody may write to them."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 4, 4, 1)).astype("uint8"), rng.integers(0, 3, 60)
    for array in (x, y):
        array.flags.writeable = False
    return x, y


@pytest.fixture(scope="session")
def record():
    """One 4x4 image of a kind that a mechanism has to stand."""
    shape = (4, 4, 1)
    places = np.indices(shape).sum(0)
    kinds = {
        "ordinary": np.full(shape, 100.0),
        "adversarial": np.where(places % 2, 1e6, -1e6),
        "huge": np.full(shape, 3e38),
        "nan": np.full(shape, np.nan),
        "infinite": np.full(shape, np.inf),
        "one_nan_pixel": np.where(places == 0, np.nan, 50.0),
    }
    return lambda kind: kinds[kind].astype("float32")[None]
