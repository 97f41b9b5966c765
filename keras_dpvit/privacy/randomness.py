"""Keys for sampling and noise: from the operating system, or from a seed in tests."""

import contextlib
import hashlib
import secrets
from collections.abc import Iterator

from keras_dpvit.errors import InputError

KEY_BYTES = 32

# Keys made from seeds that have given noise in this process, and to whom.
_claimed: dict[bytes, object] = {}
_reuse_allowed = False


def new_key(seed: int | None, purpose: str) -> bytes:
    """A 32-byte key for one purpose ("sampling", "noise").

    Args:
        seed: None draws from the operating system's entropy, which is what privacy rests on.
            An int gives a repeatable key, for tests: privacy then rests on its secrecy.
        purpose: keys of different purposes are independent under the same seed.
    """
    if seed is None:
        return secrets.token_bytes(KEY_BYTES)
    return hashlib.sha256(f"keras_dpvit/{purpose}/{seed}".encode()).digest()


def step_key(key: bytes, step: int) -> int:
    """A 256-bit integer that seeds step `step` alone: no two steps share one."""
    return int.from_bytes(hashlib.sha256(key + step.to_bytes(8, "big")).digest(), "big")


def claim(key: bytes, owner: object) -> None:
    """Enters that a training takes its noise from a key that was made from a seed.

    Guarantee: no two trainings of a process have the same noise: what one adds, the difference of
    the two would take away.

    Args:
        key: from `new_key`.
        owner: the training.

    Raises:
        InputError: if another training in this process has the key.
    """
    if _claimed.setdefault(key, owner) is not owner and not _reuse_allowed:
        raise InputError(
            "seed has given its noise to another training in this process that started from the "
            "same weights, and equal noise hides nothing: leave seed out, or give another."
        )


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """Allows trainings with equal noise within the context, for tests that compare two runs."""
    global _reuse_allowed
    before, _reuse_allowed = _reuse_allowed, True
    try:
        yield
    finally:
        _reuse_allowed = before
