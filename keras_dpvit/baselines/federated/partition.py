"""Records dealt out to clients, alike or skewed by class."""

from typing import Any

import numpy as np

from keras_dpvit import _validate
from keras_dpvit._types import Array
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import randomness
from keras_dpvit.privacy.sampling import independent_parts


def split(
    labels: Any, num_clients: int, alpha: float | None = None, seed: int | None = None
) -> list[Array]:
    """Rows of each client.

    Guarantee: each record's client is drawn for itself, from numbers that no record decides and,
    with `alpha`, from the record's own label: it depends on no other record, so that costs of
    records on different clients need not be added.

    Args:
        labels: int `(records,)`, the class of each record.
        num_clients: int above 0.
        alpha: None for clients that are alike; a float above 0 draws the clients' shares of each
            class from a symmetric Dirichlet distribution (Hsu et al. 2019, arXiv:1909.06335): the
            smaller, the more skewed. 0.1 gives a client one or two classes, 100 nearly all alike.
        seed: None for the operating system's entropy.

    Returns:
        An int array of row numbers for each client, in order; some may be empty.

    Raises:
        InputError: if an argument is out of range.

    Example:
        >>> rows = kd.baselines.federated.split(np.arange(100) % 10, num_clients=4, alpha=0.5)
        >>> sorted(np.concatenate(rows).tolist()) == list(range(100))
        True
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not len(labels):
        raise InputError(f"labels must be one class for each record, got shape {labels.shape}.")
    _validate.positive_int(num_clients=num_clients)
    if alpha is None:
        clients = independent_parts(len(labels), num_clients, seed)
    else:
        clients = _skewed(labels, num_clients, _validate.positive(alpha=alpha), seed)
    return [np.flatnonzero(clients == client) for client in range(num_clients)]


def _skewed(labels: Array, num_clients: int, alpha: float, seed: int | None) -> Array:
    key = randomness.new_key(seed, "clients")
    generator = np.random.Generator(np.random.Philox(randomness.step_key(key, 0)))
    clients = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        shares = generator.dirichlet(np.full(num_clients, alpha))
        rows = np.flatnonzero(labels == label)
        clients[rows] = generator.choice(num_clients, len(rows), p=shares)
    return clients
