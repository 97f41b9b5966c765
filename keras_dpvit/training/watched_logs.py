"""Logs that note what is read of them, and are a dict in all else."""

from collections.abc import Callable, Iterable
from typing import Any

_NOTHING = object()


class WatchedLogs(dict[str, Any]):
    """A view of Keras' logs for one callback.

    Reads come from the logs themselves and are noted; writes go to them. Names, their number and
    iteration over them are not reads. Holds the values as well, for C code that looks at a dict's
    inside: what that code reads, past every method, is not seen.

    Args:
        logs: dict, Keras' own.
        note: called with the name of each value that is read.
    """

    def __init__(self, logs: dict[str, Any], note: Callable[[str], None]) -> None:
        super().__init__(logs)
        self._logs = logs
        self._note = note

    def _all(self) -> dict[str, Any]:
        """The logs, all of them read."""
        for key in self._logs:
            self._note(key)
        return self._logs

    def _synchronized(self) -> None:
        super().clear()
        super().update(self._logs)

    # Reads.

    def __getitem__(self, key: Any) -> Any:
        value = self._logs[key]
        self._note(key)
        return value

    def get(self, key: Any, default: Any = None) -> Any:
        return self[key] if key in self._logs else default

    def __contains__(self, key: Any) -> bool:
        if key in self._logs:
            self._note(key)
            return True
        return False

    def items(self) -> Any:
        return self._all().items()

    def values(self) -> Any:
        return self._all().values()

    def copy(self) -> dict[str, Any]:
        return dict(self._all())

    def __copy__(self) -> dict[str, Any]:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> dict[str, Any]:
        return self.copy()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (self.copy(),)

    def __repr__(self) -> str:
        return repr(self._all())

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(self._all(), spec)

    def __eq__(self, other: object) -> bool:
        return self._all() == other

    def __ne__(self, other: object) -> bool:
        return self._all() != other

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.copy()

    # Names.

    def __iter__(self) -> Any:  # also keeps `dict(logs)` from copying past `__getitem__`
        return iter(self._logs)

    def __reversed__(self) -> Any:
        return reversed(self._logs)

    def __len__(self) -> int:
        return len(self._logs)

    def keys(self) -> Any:
        return dict.fromkeys(self._logs).keys()  # Keras' own would lead to the values

    # Writes.

    def __setitem__(self, key: Any, value: Any) -> None:
        self._logs[key] = value
        self._synchronized()

    def __delitem__(self, key: Any) -> None:
        del self._logs[key]
        self._synchronized()

    def update(self, other: Any = (), /, **more: Any) -> None:
        self._logs.update(other, **more)
        self._synchronized()

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    def setdefault(self, key: Any, default: Any = None) -> Any:
        if key not in self._logs:
            self[key] = default
        return self[key]

    def pop(self, key: Any, default: Any = _NOTHING) -> Any:
        if key not in self._logs:
            if default is _NOTHING:
                raise KeyError(key)
            return default
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[Any, Any]:
        key = next(reversed(self._logs))
        return key, self.pop(key)

    def clear(self) -> None:
        self._logs.clear()
        self._synchronized()

    @classmethod
    def fromkeys(cls, keys: Iterable[Any], value: Any = None) -> Any:
        return dict.fromkeys(keys, value)
