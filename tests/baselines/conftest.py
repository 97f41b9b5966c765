"""Digits as vectors, dealt out to clients, and networks of a layer or two."""

import keras
import pytest

import keras_dpvit as kd
from keras_dpvit.baselines import federated
from keras_dpvit.baselines.federated import flower

flower.require()  # before a test imports Flower, which would report it to its makers


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
