"""Small untrained models and images for them."""

import numpy as np
import pytest

import keras_dpvit as kd


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1)).astype("float32")


@pytest.fixture(scope="session")
def small_backbone():
    """Builds a backbone for 4x4 grey images; keyword arguments replace the defaults."""

    def make(**changes):
        arguments = {"image_shape": (4, 4, 1), "patch_size": 2, "hidden_dim": 8, "num_heads": 2}
        return kd.DPViTBackbone(**{**arguments, **changes})

    return make


@pytest.fixture(scope="session")
def small_classifier(small_backbone):
    """Builds a classifier of three classes over `small_backbone`."""

    def make(num_classes=3, name=None, **changes):
        return kd.DPViTClassifier(small_backbone(**changes), num_classes, name=name)

    return make
