"""Numbers of steps and microbatches from public sizes."""

import math

from keras_dpvit import _validate
from keras_dpvit.errors import InputError


def num_steps(num_examples: int, batch_size: int, epochs: float) -> int:
    """Steps of `epochs` expected passes, rounded up."""
    return math.ceil(epochs * num_examples / batch_size)


def rounded_down(num_records: int) -> int:
    """A number of records rounded down to two digits, at least 1, to be taken as public."""
    unit: int = 10 ** max(0, len(str(num_records)) - 2)
    return max(1, num_records // unit * unit)


def microbatch_size_of(batch_size: int, num_microbatches: int) -> int:
    """Expected records in each of equal microbatches.

    Raises:
        InputError: if they are not equal.
    """
    num_microbatches = _validate.positive_int(num_microbatches=num_microbatches)
    if batch_size % num_microbatches:
        raise InputError(
            f"num_microbatches must divide batch_size={batch_size}, got {num_microbatches}."
        )
    return batch_size // num_microbatches


def check_schedule(num_examples: int, batch_size: int, epochs: float) -> None:
    """Raises `InputError` for sizes that no training can have."""
    num_examples = _validate.positive_int(num_examples=num_examples)
    batch_size = _validate.positive_int(batch_size=batch_size)
    epochs = _validate.positive(epochs=epochs)
    if epochs * num_examples / batch_size > 1e9:
        raise InputError(f"epochs must give at most 1e9 steps, got {epochs:g}.")
    if batch_size > num_examples:
        raise InputError(
            f"batch_size must not exceed the number of examples ({num_examples}), got {batch_size}."
        )
