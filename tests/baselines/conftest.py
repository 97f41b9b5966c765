"""A trained pair and JAX beside it; digits as vectors, dealt out to clients, and small networks."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.baselines import federated
from keras_dpvit.baselines.federated import flower

ROOT = pathlib.Path(__file__).parents[2]

flower.require()  # before a test imports Flower, which would report it to its makers


@pytest.fixture(scope="session")
def pair(trained_fusion, tmp_path_factory):
    """A .keras file of two members that private optimizers trained."""
    path = tmp_path_factory.mktemp("pair") / "model.keras"
    trained_fusion.save(path)
    return path


@pytest.fixture(scope="session")
def few_digits(digit_images):
    """Six images, which fill no two batches of four."""
    return digit_images.x_test[:6]


@pytest.fixture(scope="session")
def jax_side(pair, few_digits, tmp_path_factory):
    """See jax_side.py."""
    folder = tmp_path_factory.mktemp("jax_side")
    np.save(folder / "images.npy", few_digits)
    side = pathlib.Path(__file__).with_name("jax_side.py")
    result = subprocess.run(
        [sys.executable, side, pair, folder / "images.npy", folder],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=900,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def digit_vectors(digit_images):
    """Training and held-out digits: two pairs of (inputs, labels)."""
    data = digit_images
    parts = ((data.x_train, data.y_train), (data.x_test, data.y_test))
    return [(x.reshape(-1, 64).astype("float32") / 255, y) for x, y in parts]


@pytest.fixture(scope="session")
def deal(digit_vectors):
    """Deals the training digits out to clients."""

    def to(num_clients, alpha=None, seed=0):
        x, y = digit_vectors[0]
        return [(x[rows], y[rows]) for rows in federated.split(y, num_clients, alpha, seed)]

    return to


@pytest.fixture(scope="session")
def network():
    """Builds a small classifier of digits, the same weights every time."""

    def build(hidden=(32,)):
        keras.utils.set_random_seed(5)
        layers = [keras.layers.Dense(width, "relu") for width in hidden]
        return keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(10)])

    return build


@pytest.fixture(scope="session")
def private_network(network):
    """As `network`, wrapped."""
    return lambda hidden=(): kd.make_private(network(hidden))
