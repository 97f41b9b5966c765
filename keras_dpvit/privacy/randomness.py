"""Keys for sampling and noise: from the operating system, or from a seed in tests."""

import hashlib
import secrets

KEY_BYTES = 32


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
