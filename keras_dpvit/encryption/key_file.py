"""Key files: JSON, readable by their owner alone, optionally under a passphrase."""

import base64
import dataclasses
import datetime
import hmac
import json
import os
import stat
import tempfile
from typing import Any

from keras_dpvit.encryption import passphrase as wrapping
from keras_dpvit.encryption.blocks import Shape, check_divisible
from keras_dpvit.encryption.cipher import ImageCipher, check_shape
from keras_dpvit.encryption.keys import SecretKey
from keras_dpvit.encryption.schemes import block_size_of, full_options, make_cipher
from keras_dpvit.errors import InputError

FORMAT = "keras_dpvit encryption key"
VERSION = 1
_DERIVATION = "hkdf-sha256, shake-256, fisher-yates"
_LARGEST = 65536


@dataclasses.dataclass(frozen=True)
class KeyFile:
    """The content of a key file. Prints its `kid`, never the secret.

    Attributes:
        key: the secret.
        scheme: name of the scheme that the key is for.
        options: of the scheme; defaults are filled in, so that later ones cannot change a key.
        image_shape: (height, width, channels) of plain images; None leaves it open.
        created: when, in ISO 8601 with UTC offset.

    Raises:
        InputError: if scheme, options and image shape do not go together.
    """

    key: SecretKey
    scheme: str = "vit_block"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    image_shape: Shape | None = None
    created: str = dataclasses.field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    )

    def __post_init__(self) -> None:
        depth = 3
        if self.image_shape is not None:
            height, width, depth = shape = check_shape(self.image_shape)
            object.__setattr__(self, "image_shape", shape)
        object.__setattr__(self, "options", full_options(self.scheme, self.options, depth))
        if self.image_shape is not None:
            check_divisible(height, width, block_size_of(self.scheme, self.options))

    def cipher(self, image_shape: Shape | None = None, **overrides: Any) -> ImageCipher:
        """The cipher for images of a shape.

        Args:
            image_shape: None takes the file's own.
            **overrides: options instead of the file's.

        Raises:
            InputError: if the file's shape is another one, or there is none.
        """
        shape = self.image_shape if image_shape is None else check_shape(image_shape)
        if shape is None:
            raise InputError("image_shape must be given: this key leaves it open.")
        if self.image_shape not in (None, shape):
            raise InputError(
                f"images must have shape {self.image_shape} under this key, got {shape}."
            )
        return make_cipher(self.scheme, self.key, shape, **{**self.options, **overrides})

    def header(self) -> dict[str, Any]:
        """The part that is not secret, JSON-able."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "scheme": self.scheme,
            "params": dict(self.options),
            "image_shape": None if self.image_shape is None else list(self.image_shape),
            "derivation": _DERIVATION,
            "kid": self.key.kid,
            "created": self.created,
        }


def write_key_file(
    path: str | os.PathLike[str], key_file: KeyFile, passphrase: str | None = None
) -> None:
    """Writes a key file with mode 0600, whole or not at all, never over another file.

    Args:
        path: a new file.
        key_file: what to write.
        passphrase: wraps the secret (scrypt, AES-256-GCM); None leaves it readable to the owner.

    Raises:
        InputError: if the file exists or cannot be written, the passphrase is empty, or the
            package `cryptography` is missing for it.
    """
    header = key_file.header()
    secret = key_file.key.reveal()
    if passphrase is None:
        content = {
            **header,
            "secret": base64.b64encode(secret).decode(),
            "check": _check(key_file.key, header),
        }
    else:
        content = {**header, "wrapped": wrapping.wrap(secret, passphrase, _canonical(header))}
    target = os.path.abspath(path)
    try:
        number, work = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".key-")
        try:
            with os.fdopen(number, "w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o600)
                json.dump(content, file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(work, target)  # unlike a rename, never over another file
        finally:
            os.unlink(work)
    except FileExistsError as error:
        raise InputError(f"key file {path} exists already: a key is never overwritten.") from error
    except OSError as error:
        raise InputError(f"key file {path} cannot be written: {error.strerror}.") from error


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The part of a key file readable without a passphrase: the header, and `wrapped` as a bool.

    Raises:
        InputError: if there is no such file, others may read it, or it is not a key file.
    """
    content = _load(path)
    shown = {name: content.get(name) for name in _header_of(content)}
    return {**shown, "wrapped": "wrapped" in content}


def read_key_file(path: str | os.PathLike[str], passphrase: str | None = None) -> KeyFile:
    """Reads a key file and checks that nobody has changed it.

    Args:
        path: the file.
        passphrase: for a wrapped secret.

    Raises:
        InputError: if there is no such file, its mode lets others read it, it is damaged or
            changed, or the passphrase is missing or wrong.
    """
    content = _load(path)
    header = _header_of(content)
    if "wrapped" in content:
        if passphrase is None:
            raise InputError(f"key file {path} needs its passphrase.")
        secret = wrapping.unwrap(content["wrapped"], passphrase, _canonical(header), path)
    else:
        secret = _decode(content.get("secret"))
    try:
        key = SecretKey(secret)
        shape = header["image_shape"]
        key_file = KeyFile(
            key=key,
            scheme=header["scheme"],
            options=header["params"],
            image_shape=None if shape is None else tuple(shape),
            created=header["created"],
        )
    except (InputError, TypeError) as error:
        raise _damaged(path) from error
    told = str(content.get("check", "")) if "wrapped" not in content else _check(key, header)
    if key.kid != header["kid"] or not hmac.compare_digest(
        told.encode(), _check(key, header).encode()
    ):
        raise _damaged(path)
    return key_file


def _load(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise InputError(f"key file {path} must be a regular file.")
            mode = stat.S_IMODE(state.st_mode)
            if mode & 0o077:
                raise InputError(
                    f"key file {path} must be readable by its owner alone (chmod 600), its mode "
                    f"is {mode:04o}."
                )
            data = file.read(_LARGEST)
    except OSError as error:
        raise InputError(f"key file {path} cannot be read: {error.strerror}.") from error
    try:
        content = json.loads(data)
    except ValueError as error:
        raise InputError(
            f"key file {path} is not JSON: it is damaged or another kind of file."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"key file {path} is not a key file of this package.")
    if content.get("version") != VERSION:
        raise InputError(
            f"key file {path} has version {content.get('version')!r}, this package reads {VERSION}."
        )
    try:
        known = content["derivation"] == _DERIVATION and isinstance(content["params"], dict)
        known = known and all(name in content for name in _header_of(content))
    except KeyError:
        known = False
    if not known:
        raise _damaged(path)
    return content


def _header_of(content: dict[str, Any]) -> dict[str, Any]:
    """The parts of a file's content that are covered by its check."""
    names = ("format", "version", "scheme", "params", "image_shape", "derivation", "kid", "created")
    return {name: content[name] for name in names}


def _canonical(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def _check(key: SecretKey, header: dict[str, Any]) -> str:
    """A keyed digest of the header, so that a changed scheme or option is noticed."""
    return hmac.new(key.subkey("key-file"), _canonical(header), "sha256").hexdigest()


def _decode(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError):
        return b""


def _damaged(path: str | os.PathLike[str]) -> InputError:
    return InputError(f"key file {path} is damaged or was changed.")
