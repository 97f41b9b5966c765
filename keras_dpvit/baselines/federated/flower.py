"""The one door to Flower: it is an extra, and reports to nobody what it is used for."""

import contextlib
import importlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from typing import Any

from keras_dpvit.errors import InputError

# Flower sends usage events to its makers unless told not to, and reads this once.
_TELEMETRY = "FLWR_TELEMETRY_ENABLED"


def require() -> None:
    """Makes Flower ready to import.

    Raises:
        InputError: if it is not installed; the message names the extra.
    """
    os.environ.setdefault(_TELEMETRY, "0")
    try:
        found = importlib.util.find_spec("flwr")
    except ValueError:  # of a module without a specification
        found = None
    if found is None:
        raise InputError(
            "Federated training needs the package flwr: pip install 'keras_dpvit[federated]'."
        )
    telemetry: Any = importlib.import_module("flwr.common.telemetry")
    telemetry.FLWR_TELEMETRY_ENABLED = os.environ[_TELEMETRY]  # it may have been imported before
    if os.environ[_TELEMETRY] == "0":  # else it writes an id for events into the home directory
        telemetry.state["source"] = "unavailable"


def refuse_secure_aggregation() -> None:
    """Says that the server sees each client's update.

    Raises:
        InputError: always. Flower 1.27 has SecAgg+ as a workflow of its older strategies, and
            nothing of it where strategies exchange messages, as those here do.
    """
    raise InputError(
        "secure_aggregation is not available: Flower's SecAgg+ belongs to its older strategy API, "
        "and its message API, which is used here, has none; the server sees each client's update."
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within the context Flower logs nothing: failures of clients are counted and returned."""
    importlib.import_module("flwr.common.logger")  # which sets the level as it is imported
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
