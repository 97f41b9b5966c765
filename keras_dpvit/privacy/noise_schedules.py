"""Schedules of noise over a run: factors on the plan's noise multiplier, known beforehand."""

import abc
import dataclasses
import itertools
import math
from typing import Any

from keras_dpvit import _validate
from keras_dpvit.errors import InputError

_MOST_STAIRS = 10_000


class NoiseSchedule(abc.ABC):
    """A factor on the noise multiplier for each step of a run.

    Guarantee: the factors are constants of the plan, so the event is the composition of the
    steps' own events, each with its own multiplier, and is exact.
    """

    name: str

    @abc.abstractmethod
    def segments(self, steps: int) -> list[tuple[float, int]]:
        """The whole run as pairs (factor above 0, number of steps in a row)."""

    def runs(self, steps: int, first: int, last: int) -> list[tuple[float, int]]:
        """The same for the steps from `first` to before `last` of a run of `steps`."""
        runs, begin = [], 0
        for factor, count in self.segments(steps):
            inside = min(begin + count, last) - max(begin, first)
            if inside > 0:
                runs.append((factor, inside))
            begin += count
        return runs

    def factor(self, step: int, steps: int) -> float:
        """The factor of one step of a run of `steps`."""
        return self.runs(steps, step, step + 1)[0][0]


@dataclasses.dataclass(frozen=True)
class ConstantNoise(NoiseSchedule):
    """The same noise in every step.

    Example:
        >>> kd.ConstantNoise().segments(100)
        [(1.0, 100)]
    """

    name = "constant"

    def segments(self, steps: int) -> list[tuple[float, int]]:
        return [(1.0, steps)]


@dataclasses.dataclass(frozen=True)
class StepNoise(NoiseSchedule):
    """Factors that change at given parts of the run.

    Args:
        boundaries: rising floats in (0, 1), parts of the run at which the factor changes.
        values: floats above 0, one more than the boundaries.

    Example:
        >>> kd.StepNoise(boundaries=(0.5,), values=(1.0, 0.5)).segments(100)
        [(1.0, 50), (0.5, 50)]
    """

    boundaries: tuple[float, ...] = (0.5,)
    values: tuple[float, ...] = (1.0, 0.7)
    name = "step"

    def __post_init__(self) -> None:
        for name in ("boundaries", "values"):
            if not isinstance(getattr(self, name), (list, tuple)):
                raise InputError(
                    f"{name} must be several, got {_validate.shown(getattr(self, name))}."
                )
        each = {"boundaries": _validate.open_unit_interval, "values": _validate.positive}
        for name, check in each.items():
            numbers = tuple(check(**{name: number}) for number in getattr(self, name))
            object.__setattr__(self, name, numbers)
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise InputError(f"boundaries must rise, got {self.boundaries}.")
        if len(self.values) != len(self.boundaries) + 1:
            raise InputError(
                f"values must be {len(self.boundaries) + 1}, one more than the boundaries, got "
                f"{len(self.values)}."
            )

    def segments(self, steps: int) -> list[tuple[float, int]]:
        ends = [math.ceil(boundary * steps) for boundary in self.boundaries] + [steps]
        return _pairs(list(self.values), ends)


@dataclasses.dataclass(frozen=True)
class LinearNoise(NoiseSchedule):
    """Factors that go linearly from one value to another, in equal stairs.

    Args:
        start: float above 0.
        end: float above 0.
        stairs: int from 2 to 10000; each is one more event for the accountant.

    Example:
        >>> kd.LinearNoise(1.0, 0.5, 3).segments(6)
        [(1.0, 2), (0.75, 2), (0.5, 2)]
    """

    start: float = 1.0
    end: float = 0.5
    stairs: int = 10
    name = "linear"

    def __post_init__(self) -> None:
        _validate.keep(
            self, start=_validate.positive, end=_validate.positive, stairs=_validate.positive_int
        )
        if not 2 <= self.stairs <= _MOST_STAIRS:
            raise InputError(
                f"stairs must be at least 2, at most {_MOST_STAIRS}, got {self.stairs}."
            )

    def segments(self, steps: int) -> list[tuple[float, int]]:
        stairs = self.stairs
        slope = (self.end - self.start) / (stairs - 1)
        values = [self.start + slope * stair for stair in range(stairs)]
        return _pairs(values, [(stair + 1) * steps // stairs for stair in range(stairs)])


def _pairs(values: list[float], ends: list[int]) -> list[tuple[float, int]]:
    counts = [end - begin for begin, end in itertools.pairwise([0, *ends])]
    return [(value, count) for value, count in zip(values, counts, strict=True) if count]


_BY_NAME: dict[str, type[Any]] = {cls.name: cls for cls in (ConstantNoise, StepNoise, LinearNoise)}


def schedule_to_dict(schedule: Any) -> dict[str, Any]:
    """JSON-able form."""
    return {"name": schedule.name, **dataclasses.asdict(schedule)}


def schedule_from_dict(data: dict[str, Any]) -> NoiseSchedule:
    """The inverse of `schedule_to_dict`.

    Raises:
        InputError: on an unknown name.
    """
    arguments = dict(data)
    name = arguments.pop("name", None)
    if name not in _BY_NAME:
        raise InputError(f"noise_schedule must be one of {', '.join(_BY_NAME)}, got {name!r}.")
    schedule: NoiseSchedule = _BY_NAME[name](**arguments)
    return schedule
