"""Checks of arguments: each is named by what it demands and raises `InputError` in one line.

A check returns the value as a plain Python number: a NumPy number wraps around where it is
multiplied, and no JSON file takes it.
"""

import math
import numbers
from collections.abc import Callable, Collection
from typing import Any

from keras_dpvit.errors import InputError

_LARGEST_INT = 2**53  # up to it a float64 holds every whole number
# Outside of them squares of a float32 norm vanish or overflow, and a clipped gradient with them.
_LEAST_NORM, _LARGEST_NORM = 1e-9, 1e9
# Outside of them the squares that an accountant divides by leave the floats; nobody wants them.
_LEAST_NOISE, _LARGEST_NOISE = 1e-6, 1e12
_LONGEST = 60


def _the_one(arguments: dict[str, Any]) -> tuple[str, Any]:
    ((name, value),) = arguments.items()
    return name, value


def shown(value: Any) -> str:
    """The value in one short line, for a message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def _number(value: Any) -> float:
    """The value as a float; NaN if it is not a finite number."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return math.nan
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def positive(**argument: Any) -> float:
    """Returns the value as a float; it must be finite and above zero."""
    name, value = _the_one(argument)
    number = _number(value)
    if not number > 0:
        raise InputError(f"{name} must be a finite number above 0, got {shown(value)}.")
    return number


def non_negative(**argument: Any) -> float:
    """Returns the value as a float; it must be finite and not below zero."""
    name, value = _the_one(argument)
    number = _number(value)
    if not number >= 0:
        raise InputError(f"{name} must be a finite number, 0 or above, got {shown(value)}.")
    return number


def open_unit_interval(**argument: Any) -> float:
    """Returns the value as a float; it must lie strictly between 0 and 1."""
    name, value = _the_one(argument)
    number = _number(value)
    if not 0 < number < 1:
        raise InputError(f"{name} must lie strictly between 0 and 1, got {shown(value)}.")
    return number


def probability(**argument: Any) -> float:
    """Returns the value as a float; it must lie above 0 and be at most 1."""
    name, value = _the_one(argument)
    number = _number(value)
    if not 0 < number <= 1:
        raise InputError(f"{name} must lie in (0, 1], got {shown(value)}.")
    return number


def clipping_norm(**argument: Any) -> float:
    """Returns the value as a float; it must be a norm whose square float32 can hold."""
    name, value = _the_one(argument)
    number = positive(**argument)
    if not _LEAST_NORM <= number <= _LARGEST_NORM:
        raise InputError(
            f"{name} must lie in {_LEAST_NORM:g}..{_LARGEST_NORM:g}, got {shown(value)}: float32 "
            "cannot hold the squares of such norms, scale the loss instead."
        )
    return number


def noise(**argument: Any) -> float:
    """Returns the value as a float; it must be 0 or a noise multiplier that can be accounted."""
    name, value = _the_one(argument)
    number = non_negative(**argument)
    if number and not _LEAST_NOISE <= number <= _LARGEST_NOISE:
        raise InputError(
            f"{name} must be 0 or lie in {_LEAST_NOISE:g}..{_LARGEST_NOISE:g}, got {shown(value)}."
        )
    return number


def whole(**argument: Any) -> int:
    """Returns the value as an int; it must be a whole number of any sign."""
    name, value = _the_one(argument)
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise InputError(f"{name} must be a whole number, got {shown(value)}.")
    return int(value)


def positive_int(**argument: Any) -> int:
    """Returns the value as an int; it must be a whole number above zero."""
    name, value = _the_one(argument)
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value <= 0:
        raise InputError(f"{name} must be a whole number above 0, got {shown(value)}.")
    return _not_too_large(name, int(value))


def non_negative_int(**argument: Any) -> int:
    """Returns the value as an int; it must be a whole number, zero or above."""
    name, value = _the_one(argument)
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 0:
        raise InputError(f"{name} must be a whole number, 0 or above, got {shown(value)}.")
    return _not_too_large(name, int(value))


def _not_too_large(name: str, value: int) -> int:
    if value > _LARGEST_INT:
        raise InputError(f"{name} must be at most 2**53, got a whole number above it.")
    return value


def true_or_false(**argument: Any) -> bool:
    """Returns the value as a bool; a NumPy one will do."""
    name, value = _the_one(argument)
    if type(value).__name__ not in ("bool", "bool_"):
        raise InputError(f"{name} must be True or False, got {shown(value)}.")
    return bool(value)


def one_of(allowed: Collection[str], **argument: Any) -> str:
    """Returns the value; it must be one of `allowed`."""
    name, value = _the_one(argument)
    if not isinstance(value, str) or value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(sorted(allowed))}, got {shown(value)}.")
    return str(value)


def optional(check: Callable[..., Any]) -> Callable[..., Any]:
    """The check, but None passes."""

    def check_unless_none(**argument: Any) -> Any:
        return None if _the_one(argument)[1] is None else check(**argument)

    return check_unless_none


def keep(owner: Any, **checks: Callable[..., Any]) -> None:
    """Puts what each field's check returns in place of the field; for frozen dataclasses.

    Args:
        owner: the dataclass' instance, in its `__post_init__`.
        **checks: one check of this module for each field.

    Raises:
        InputError: on the first field that breaks its rule.
    """
    for name, check in checks.items():
        object.__setattr__(owner, name, check(**{name: getattr(owner, name)}))
