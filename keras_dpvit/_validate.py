"""Checks of arguments: each is named by what it demands and raises `InputError` in one line."""

import math
import numbers
from collections.abc import Collection
from typing import Any

from keras_dpvit.errors import InputError


def _the_one(arguments: dict[str, Any]) -> tuple[str, Any]:
    ((name, value),) = arguments.items()
    return name, value


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def positive(**argument: Any) -> float:
    """Returns the value as a float; it must be finite and above zero."""
    name, value = _the_one(argument)
    if not _is_number(value) or not math.isfinite(value) or value <= 0:
        raise InputError(f"{name} must be a finite number above 0, got {value!r}.")
    return float(value)


def non_negative(**argument: Any) -> float:
    """Returns the value as a float; it must be finite and not below zero."""
    name, value = _the_one(argument)
    if not _is_number(value) or not math.isfinite(value) or value < 0:
        raise InputError(f"{name} must be a finite number, 0 or above, got {value!r}.")
    return float(value)


def open_unit_interval(**argument: Any) -> float:
    """Returns the value as a float; it must lie strictly between 0 and 1."""
    name, value = _the_one(argument)
    if not _is_number(value) or not 0 < value < 1:
        raise InputError(f"{name} must lie strictly between 0 and 1, got {value!r}.")
    return float(value)


def positive_int(**argument: Any) -> int:
    """Returns the value as an int; it must be a whole number above zero."""
    name, value = _the_one(argument)
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value <= 0:
        raise InputError(f"{name} must be a whole number above 0, got {value!r}.")
    return int(value)


def one_of(allowed: Collection[str], **argument: Any) -> str:
    """Returns the value; it must be one of `allowed`."""
    name, value = _the_one(argument)
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(sorted(allowed))}, got {value!r}.")
    return value
