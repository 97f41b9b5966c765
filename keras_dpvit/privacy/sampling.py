"""Samplers, which choose the records of a step."""

import functools
import itertools
from collections.abc import Iterator

import numpy as np

from keras_dpvit import _validate
from keras_dpvit._types import Array
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import randomness


class PoissonSampler:
    """Each record enters each step independently with the same probability.

    Guarantee: exactly the sampling that `dp_accounting.PoissonSampledDpEvent` describes, up to
    the generator (NumPy's Philox keyed afresh for every step from `key`; not a cryptographic
    generator) and its 53-bit uniform numbers.

    Args:
        sampling_probability: float in (0, 1].
        key: 32 bytes from `randomness.new_key`.
    """

    def __init__(self, sampling_probability: float, key: bytes) -> None:
        if not 0 < sampling_probability <= 1:
            raise InputError(
                f"sampling_probability must lie in (0, 1], got {sampling_probability!r}."
            )
        self.sampling_probability = sampling_probability
        self._key = key

    def sample(self, num_records: int, step: int) -> Array:
        """Sorted row numbers of the records that enter `step`; may be empty."""
        generator = np.random.Generator(np.random.Philox(randomness.step_key(self._key, step)))
        return np.flatnonzero(generator.random(num_records) < self.sampling_probability)

    def steps_from(self, num_records: int, first_step: int) -> Iterator[Array]:
        """Endless samples, from `first_step` on."""
        return map(functools.partial(self.sample, num_records), itertools.count(first_step))


class ShuffledSampler:
    """Batches of fixed size over a fresh shuffle in each pass; the rest of a pass is left out.

    Guarantee: in one pass a record enters one batch at most, and which one depends on the public
    number of records and on randomness alone. So a pass costs one release, without amplification,
    for a record against a blank one that adds nothing. It is not Poisson sampling, and is not
    accounted as such.

    Args:
        batch_size: int, at most the number of records.
        key: 32 bytes from `randomness.new_key`.
    """

    def __init__(self, batch_size: int, key: bytes) -> None:
        self.batch_size = _validate.positive_int(batch_size=batch_size)
        self._key = key

    def sample(self, num_records: int, step: int) -> Array:
        """Sorted row numbers of the records that enter `step`.

        Raises:
            InputError: if there are fewer records than a batch has.
        """
        if num_records < self.batch_size:
            raise InputError(
                f"batch_size must not exceed the number of records ({num_records}), got "
                f"{self.batch_size}."
            )
        batches = num_records // self.batch_size
        index, batch = divmod(step, batches)
        generator = np.random.Generator(np.random.Philox(randomness.step_key(self._key, index)))
        order = generator.permutation(num_records)
        return np.sort(order[batch * self.batch_size : (batch + 1) * self.batch_size])

    def steps_from(self, num_records: int, first_step: int) -> Iterator[Array]:
        """Endless samples, from `first_step` on."""
        return map(functools.partial(self.sample, num_records), itertools.count(first_step))


Sampler = PoissonSampler | ShuffledSampler


def independent_parts(num_records: int, num_parts: int, seed: int | None = None) -> Array:
    """A part number for each record, drawn independently for each record.

    Guarantee: a record's part depends on no other record (a cut by position would not do: one
    record removed shifts all behind it), so models of different parts compose in parallel.

    Args:
        num_records: int above 0.
        num_parts: int above 0.
        seed: None for the operating system's entropy.

    Returns:
        int array of shape `(num_records,)` with values in `range(num_parts)`.
    """
    _validate.positive_int(num_records=num_records)
    _validate.positive_int(num_parts=num_parts)
    key = randomness.new_key(seed, "parts")
    generator = np.random.Generator(np.random.Philox(randomness.step_key(key, 0)))
    return generator.integers(num_parts, size=num_records)
