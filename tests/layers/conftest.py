"""Inputs and plain NumPy arithmetic for the layers' tests."""

import math

import numpy as np
import pytest


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def numpy_attention_weights(layer, x):
    """`softmax(Q K^T / sqrt(D))` of each head by loops, `(batch, heads, tokens, tokens)`."""
    heads, width = layer.num_heads, x.shape[-1]
    size = width // heads
    divisor = math.sqrt(size) if layer.qk_scale else 1.0
    query = x @ layer.query.kernel.numpy() + layer.query.bias.numpy()
    key = x @ layer.key.kernel.numpy()
    weights = np.empty((len(x), heads, x.shape[1], x.shape[1]))
    for b in range(len(x)):
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            weights[b, h] = softmax(query[b, :, part] @ key[b, :, part].T / divisor)
    return weights


def numpy_attend(layer, x, weights):
    """`concat_h(A_h V_h) W + b` for given attention weights."""
    heads, width = layer.num_heads, x.shape[-1]
    size = width // heads
    value = x @ layer.value.kernel.numpy() + layer.value.bias.numpy()
    mixed = np.empty_like(value)
    for b in range(len(x)):
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            mixed[b, :, part] = weights[b, h] @ value[b, :, part]
    out = layer.output_projection
    return mixed @ out.kernel.numpy() + out.bias.numpy()


def numpy_place_attention(gate, coordinates):
    """`softmax_j(w_h . r_ij)` of a `PositionGate` whose tokens lie one apart, by loops."""
    weights = gate.position_weights.numpy()
    tokens = len(coordinates)
    scores = np.empty((len(weights), tokens, tokens))
    for h in range(len(weights)):
        for i in range(tokens):
            for j in range(tokens):
                dx, dy = coordinates[j] - coordinates[i]
                encoding = (dx, dy, dx * dx + dy * dy)
                if gate.relative == "1d":
                    encoding = (j - i, (j - i) ** 2)
                scores[h, i, j] = weights[h] @ encoding
    return softmax(scores)


def numpy_gated(gate, content, place):
    """Content and place, each weighted by its own gate, over the sum of their row."""
    of_place = 1 / (1 + np.exp(-gate.gate.numpy()))
    of_content = 1 - of_place
    if gate.content_gate is not None:
        of_content = 1 / (1 + np.exp(-gate.content_gate.numpy()))
    mixed = of_content[:, None, None] * content + of_place[:, None, None] * place
    return mixed / mixed.sum(axis=-1, keepdims=True)


class NumpyAttention:
    """The attention layers' arithmetic in NumPy."""

    softmax = staticmethod(softmax)
    weights = staticmethod(numpy_attention_weights)
    place = staticmethod(numpy_place_attention)
    gated = staticmethod(numpy_gated)
    attend = staticmethod(numpy_attend)


@pytest.fixture(scope="session")
def numpy_attention():
    return NumpyAttention


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shake():
    """Moves every weight of a layer off its initial value: zeros and ones hide mistakes."""

    def move(layer, seed=0, by=0.3):
        generator = np.random.default_rng(seed)
        for weight in layer.trainable_variables:
            weight.assign(weight.numpy() + by * generator.standard_normal(weight.shape))

    return move
