"""From sampled records to a batch: microbatches, and padding."""

import atexit
import dataclasses
import functools
import gc
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keras_dpvit._types import Array
from keras_dpvit.privacy import randomness
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.training.records import Rows, Source

# x, y, weights, and which rows are records: `microbatches * rows_per_microbatch` rows.
Batch = tuple[Any, Any, Array, Array]


def rows_per_microbatch(plan: PrivacyPlan) -> int:
    """Rows that are clipped as one in a batch: one record, or room for a microbatch.

    Records choose their microbatch by chance, so its size varies. There is room for five standard
    deviations more than expected; what finds no room is left out, which concerns one
    microbatch only and leaves the sensitivity as it is.
    """
    size = plan.microbatch_size
    return 1 if size == 1 else size + math.ceil(5 * math.sqrt(size)) + 3


def sampled_batches(
    plan: PrivacyPlan, source: Source, key: bytes, first_step: Callable[[], int]
) -> Iterator[Batch]:
    """A batch for each step, without end.

    Args:
        plan: a plan that samples records itself, "poisson" or "shuffled".
        source: the records.
        key: 32 bytes, of the sampling.
        first_step: gives the number of the first step when the first batch is drawn.
    """
    sampler = plan.sampler(key)
    assert sampler is not None
    step = first_step()
    while True:
        rows = sampler.sample(source.num_records, step)
        if plan.microbatch_size == 1:
            yield source.take(rows).parts()
        else:
            yield microbatches(plan, source, rows, key, step).parts()
        step += 1


class Feed:
    """The batches of one `fit`, as tf.data asks for them from a thread of its own.

    TensorFlow keeps a data set's Python function for as long as the process lives, and all that the
    function holds: the records too, unless they are dropped. And as an iterator goes it waits for
    its thread, which at the process's end Python has ended already: a script would never end. So
    no batch is being made any more once `close` returns, and iterators go before the process ends
    (Keras leaves them in a circle of references).

    Args:
        *arguments: of `sampled_batches`.
    """

    def __init__(self, *arguments: Any) -> None:
        _collect_at_exit()
        self._arguments = arguments
        self._given: list[Any] = []
        self._at_work = threading.Lock()
        self._closed = False

    def __call__(self) -> Iterator[Batch]:
        batches = sampled_batches(*self._arguments)
        self._given.append(batches)
        while True:
            with self._at_work:
                if self._closed:
                    return
                batch = next(batches)
            yield batch

    def close(self) -> None:
        """Waits for a batch that is being made, and drops the records."""
        self._closed = True
        with self._at_work:
            self._arguments = ()
            for batches in self._given:
                batches.close()
            self._given.clear()


@functools.cache
def _collect_at_exit() -> None:
    atexit.register(gc.collect)


def some_records(source: Source, count: int = 8) -> Rows:
    """The first records and the last, which is likely of another class.

    A source without records gives its blank example.
    """
    if not source.num_records:
        return source.example()
    rows = np.arange(min(count, source.num_records))
    rows[-1] = source.num_records - 1
    return source.take(rows)


def microbatches(plan: PrivacyPlan, source: Source, rows: Array, key: bytes, step: int) -> Rows:
    """Each record goes to a microbatch drawn for itself, whoever else is in the sample.

    Packing by position instead would let one record shift all the others.
    """
    generator = np.random.Generator(np.random.Philox(randomness.step_key(key + b"units", step)))
    chosen = generator.integers(plan.num_microbatches, size=source.num_records)[rows]
    room = rows_per_microbatch(plan)
    places = np.full((plan.num_microbatches, room), -1)
    filled = np.zeros(plan.num_microbatches, int)
    for index, number in enumerate(chosen):
        if filled[number] < room:
            places[number, filled[number]] = index
            filled[number] += 1
    found = source.take(rows)
    present = (places >= 0) & np.append(found.present, False)[places]
    places = _filled(places, present).reshape(-1)
    spread = found.map(lambda values: _spread(values, places))
    return dataclasses.replace(spread, present=present.reshape(-1))


def _filled(places: Array, present: Array) -> Array:
    """The places, with a microbatch's first record where it has none; -1 in one without any.

    Its own first record, and no other's: what fills a place can spoil its microbatch, as a NaN
    does, and a record of the sample's that filled all of them would spoil all of them.
    """
    first = np.take_along_axis(places, present.argmax(axis=1)[:, None], axis=1)
    first = np.where(present.any(axis=1, keepdims=True), first, -1)
    return np.where(present, places, first)


def _spread(values: Array, places: Array) -> Array:
    """The rows at these places, zeros at -1."""
    blank = np.zeros((1, *values.shape[1:]), values.dtype)
    return np.asarray(np.concatenate([values, blank])[places])


def signature(source: Source) -> Any:
    """TensorFlow's description of the batches."""
    import keras
    import tensorflow as tf

    return keras.tree.map_structure(
        lambda a: tf.TensorSpec((None, *a.shape[1:]), a.dtype), source.example().parts()
    )
