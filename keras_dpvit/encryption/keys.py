"""The one secret from which every permutation and mask is derived."""

import hmac
import pickle
import secrets
from typing import Any

import numpy as np

from keras_dpvit.encryption import permutations
from keras_dpvit.errors import InputError

SECRET_BYTES = 32

# Opens the purpose of every sub-key. It must never change: ciphertexts would.
DERIVATION = "kvitcrypt/v1"


class SecretKey:
    """A 32-byte secret and what is derived from it.

    It prints as its `kid` alone and cannot be pickled. All the images of a data set are encrypted
    under one key, training and test images alike.

    Args:
        secret: 32 bytes. `SecretKey.generate()` takes them from the operating system.

    Raises:
        InputError: if it is not 32 bytes.
    """

    __slots__ = ("_kid", "_secret")

    def __init__(self, secret: bytes) -> None:
        if not isinstance(secret, bytes) or len(secret) != SECRET_BYTES:
            raise InputError(f"secret must be {SECRET_BYTES} bytes.")
        self._secret = secret
        self._kid = permutations.hkdf_sha256(secret, b"kid")[:8].hex()

    @classmethod
    def generate(cls) -> "SecretKey":
        """A new key from the operating system's entropy."""
        return cls(secrets.token_bytes(SECRET_BYTES))

    @property
    def kid(self) -> str:
        """Key id: 16 hex digits which tell keys apart and nothing about the secret."""
        return self._kid

    def subkey(self, purpose: str) -> bytes:
        """32 bytes for one purpose, by HKDF-SHA256 with `kvitcrypt/v1/<purpose>`."""
        return permutations.hkdf_sha256(self._secret, f"{DERIVATION}/{purpose}".encode())

    def permutation(self, purpose: str, size: int) -> np.ndarray:
        """The permutation of 0..size-1 for `<purpose>/n=<size>`."""
        return permutations.permutation(self.subkey(f"{purpose}/n={size}"), size)

    def bits(self, purpose: str, size: int) -> np.ndarray:
        """Uniform bits for `<purpose>/n=<size>`."""
        return permutations.bits(self.subkey(f"{purpose}/n={size}"), size)

    def below(self, purpose: str, size: int, bound: int) -> np.ndarray:
        """Uniform numbers in 0..bound-1 for `<purpose>/n=<size>`."""
        return permutations.below(self.subkey(f"{purpose}/n={size}"), size, bound)

    def reveal(self) -> bytes:
        """The secret itself, for key files and for handing it to another process."""
        return self._secret

    def __repr__(self) -> str:
        return f"SecretKey(kid={self._kid!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretKey):
            return NotImplemented
        return hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash(self._kid)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise pickle.PicklingError(
            "A SecretKey is not pickled, so that it lands in no file by accident: pass the path "
            "of its key file, or the bytes of reveal()."
        )


def as_key(key: "SecretKey | bytes") -> SecretKey:
    """The key itself, or one made of 32 bytes.

    Raises:
        InputError: if it is neither.
    """
    if isinstance(key, SecretKey):
        return key
    if isinstance(key, bytes):
        return SecretKey(key)
    raise InputError(
        f"key must be a SecretKey or {SECRET_BYTES} bytes, got a {type(key).__name__}."
    )
