"""Wrapping a secret under a passphrase: scrypt and AES-256-GCM, from the package cryptography."""

import base64
import json
import os
import secrets
from typing import Any

from keras_dpvit.errors import InputError

# Environment variable that programs read a passphrase from.
VARIABLE = "KERAS_DPVIT_PASSPHRASE"

# 64 MiB and about a fifth of a second for each guess. What a file asks for is bounded, so that a
# changed file cannot take all memory.
_COST = {"n": 2**16, "r": 8, "p": 1}
_HIGHEST_COST = {"n": 2**20, "r": 16, "p": 4}


def wrap(secret: bytes, passphrase: str, header: bytes) -> dict[str, Any]:
    """The secret under a passphrase, JSON-able.

    Args:
        secret: bytes.
        passphrase: str, not empty.
        header: bytes that `unwrap` must be given again; they are authenticated, not hidden.

    Raises:
        InputError: if the passphrase is empty, or cryptography is not installed.
    """
    if not passphrase:
        raise InputError("passphrase must not be empty.")
    wrapped: dict[str, Any] = {
        "cipher": "aes-256-gcm",
        "kdf": "scrypt",
        **_COST,
        "salt": _encode(secrets.token_bytes(16)),
        "nonce": _encode(secrets.token_bytes(12)),
    }
    cipher = _cipher(wrapped, passphrase)
    ciphertext = cipher.encrypt(
        base64.b64decode(wrapped["nonce"]), secret, _authenticated(header, wrapped)
    )
    return {**wrapped, "ciphertext": _encode(ciphertext)}


def unwrap(wrapped: Any, passphrase: str, header: bytes, path: str | os.PathLike[str]) -> bytes:
    """The secret again.

    Args:
        wrapped: what `wrap` returned.
        passphrase: str.
        header: the bytes given to `wrap`.
        path: of the file, for messages.

    Raises:
        InputError: if passphrase or header is another one, or anything was changed.
    """
    wrong = InputError(
        f"key file {path} cannot be opened: the passphrase is wrong, or the file was changed."
    )
    if not isinstance(wrapped, dict):
        raise wrong
    rest = {name: value for name, value in wrapped.items() if name != "ciphertext"}
    try:
        for name, highest in _HIGHEST_COST.items():
            if not isinstance(rest[name], int) or not 0 < rest[name] <= highest:
                raise wrong
        if (rest["cipher"], rest["kdf"]) != ("aes-256-gcm", "scrypt"):
            raise wrong
        nonce = base64.b64decode(rest["nonce"], validate=True)
        ciphertext = base64.b64decode(wrapped["ciphertext"], validate=True)
        cipher = _cipher(rest, passphrase)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise wrong from error
    from cryptography.exceptions import InvalidTag

    try:
        opened: bytes = cipher.decrypt(nonce, ciphertext, _authenticated(header, rest))
    except (InvalidTag, ValueError) as error:
        raise wrong from error
    return opened


def _cipher(wrapped: dict[str, Any], passphrase: str) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
    except ImportError as error:
        raise InputError(
            "passphrase needs the package cryptography: pip install 'keras_dpvit[encryption]'."
        ) from error
    salt = base64.b64decode(wrapped["salt"], validate=True)
    derive = Scrypt(salt=salt, length=32, n=wrapped["n"], r=wrapped["r"], p=wrapped["p"])
    return AESGCM(derive.derive(passphrase.encode()))


def _authenticated(header: bytes, wrapped: dict[str, Any]) -> bytes:
    """Header and parameters: all of the file but the ciphertext."""
    return header + json.dumps(wrapped, sort_keys=True, separators=(",", ":")).encode()


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
