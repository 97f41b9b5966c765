"""The records in which server and clients exchange arrays, and their names."""

from typing import Any

import numpy as np
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, Message

from keras_dpvit._types import Array

ARRAYS, FROZEN, CONFIG, METRICS = "arrays", "frozen", "config", "metrics"
JOB, ROUND, LEDGER, COUNT = "job", "server-round", "ledger", "num-examples"


def record_of(arrays: list[Array]) -> ArrayRecord:
    """Arrays as Flower sends them, named by their numbers."""
    return ArrayRecord({str(i): FlowerArray(np.asarray(a)) for i, a in enumerate(arrays)})


def arrays_of(record: ArrayRecord) -> list[Array]:
    """The inverse of `record_of`."""
    return [record[str(index)].numpy() for index in range(len(record))]


def bytes_of(message: Message) -> int:
    """The size of a message's records; 0 for one that only says what went wrong."""
    if message.has_error():
        return 0
    records: list[Any] = list(message.content.values())
    return sum(record.count_bytes() for record in records)
