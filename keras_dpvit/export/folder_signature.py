"""Signatures of exported folders, by OpenSSF's model-signing: a digest of every file, signed.

A signature is a file of its own beside the folder it is for, `fmnist/1.sig` for `fmnist/1`: so no
file of the folder has to be left out of what is signed, and TensorFlow Serving, which looks for
folders with a number for a name, passes it by.

Source: https://github.com/sigstore/model-transparency (model-signing 1.1, its API and file format).
"""

import base64
import contextlib
import io
import json
import os
import pathlib
import re
import tempfile
from typing import Any

from keras_dpvit import _files
from keras_dpvit._reasons import telling_lines
from keras_dpvit.errors import InputError

SUFFIX = ".sig"

_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_SIGNATURE_BYTES = 1 << 28  # far more than the digests of any export take


def signature_path(directory: str | os.PathLike[str]) -> pathlib.Path:
    """The place of a folder's signature: beside it, under its name and `.sig`."""
    path = pathlib.Path(os.path.abspath(directory))
    return path.with_name(path.name + SUFFIX)


def check_private_key(path: str | os.PathLike[str]) -> None:
    """Looks at a key before any work is done that it shall sign.

    Raises:
        InputError: if it is not an unencrypted private EC key in a PEM file, or model-signing is
            missing. The message holds nothing of the key.
    """
    _model_signing()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pathlib.Path(path).read_bytes(), None)
        fit = getattr(getattr(key, "curve", None), "name", None) in _CURVES
    except (OSError, TypeError, ValueError):  # TypeError: it has a password
        fit = False
    if not fit:
        raise InputError(
            "private_key must be a PEM file with an EC private key (P-256) without a password, "
            f"got {os.fspath(path)!r}."
        )


def sign_folder(
    directory: str | os.PathLike[str],
    private_key: str | os.PathLike[str],
    signature: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
    """Signs every file of a folder: the names and the SHA-256 of each.

    Neither the folder's own name nor empty folders in it are signed: an older version under a new
    number keeps its signature.

    Args:
        directory: the folder, with a SavedModel or without.
        private_key: a PEM file with an EC key on P-256, P-384 or P-521. It is read and goes
            nowhere; it must lie outside of the folder.
        signature: the file to write; None for `signature_path(directory)`.

    Returns:
        The signature's file, a Sigstore bundle in JSON. One of that name is replaced.

    Raises:
        InputError: if the key or the folder is not what it should be, there is a link in the
            folder, or model-signing is missing.
    """
    check_private_key(private_key)
    place = pathlib.Path(directory)
    target = signature_path(place) if signature is None else pathlib.Path(signature)
    if not place.is_dir():
        raise InputError(f"{place} does not exist or is not a folder: nothing was signed.")
    for name, path in (("private_key", private_key), ("signature", target)):
        if place.resolve() in pathlib.Path(path).resolve().parents:
            raise InputError(f"{name} must lie outside of the folder that is signed, {place}.")
    signing = _model_signing().signing
    config = signing.Config().use_elliptic_key_signer(private_key=private_key)
    with tempfile.TemporaryDirectory() as work:
        written = pathlib.Path(work, "signature")
        try:
            config.set_hashing_config(_hashing()).sign(place, written)
        except (OSError, ValueError) as error:
            raise InputError(f"{place} cannot be signed: {error}") from error
        _files.write_whole(target, written.read_bytes())
    return target


def signature_problem(
    directory: str | os.PathLike[str],
    public_key: str | os.PathLike[str],
    signature: str | os.PathLike[str] | None = None,
) -> str | None:
    """The reason why a folder is not as it was signed; None if it is.

    A file that was changed, added, taken away or made a link is a reason; so is a signature that
    is missing, damaged, of another key, or that leaves out files that are there. Nothing of the
    folder is loaded or run.

    Args:
        directory: the folder.
        public_key: a PEM file with the public EC key.
        signature: its signature; None for `signature_path(directory)`.

    Raises:
        InputError: if the public key cannot be read, or model-signing is missing.
    """
    verifying = _model_signing().verifying
    place = pathlib.Path(directory)
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError, AttributeError) as error:  # AttributeError: no key on a curve
        raise InputError(
            f"public_key must be a PEM file with an EC public key, got {os.fspath(public_key)!r}."
        ) from error
    file = signature_path(place) if signature is None else pathlib.Path(signature)
    try:
        with open(file, "rb") as stream:
            content = stream.read(_SIGNATURE_BYTES)
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}"
    # Read once: what is looked at afterwards is what was verified.
    with tempfile.TemporaryDirectory() as work, contextlib.redirect_stdout(io.StringIO()):
        kept = pathlib.Path(work, "signature")
        kept.write_bytes(content)
        try:
            config.set_hashing_config(_hashing()).verify(place, kept)
            left_out = _left_out(content, place)
        except Exception as error:  # the file may be anyone's: whatever is wrong in it, it fails
            return _reason(error)
    return f"the signature leaves out {', '.join(left_out)}" if left_out else None


def _left_out(signature: bytes, directory: pathlib.Path) -> list[str]:
    """Files of the folder that a signature, found valid, does not speak of."""
    payload = json.loads(signature)["dsseEnvelope"]["payload"]
    predicate = json.loads(base64.b64decode(payload))["predicate"]
    ignored = predicate["serialization"].get("ignore_paths", [])
    return sorted(path for path in ignored if os.path.lexists(directory / path))


# The digests of a file, up to the next file or the end.
_DIGESTS = re.compile(r": Expected .*?(?=[\"'], [\"'](?:Hash|Extra|Missing)|[\"']\]$|$)")


def _reason(error: Exception) -> str:
    # It quotes a list of texts, with digests as Python writes bytes: which quotes are escaped
    # depends on the digest.
    text = " ".join(telling_lines(str(error))).replace("\\'", "'").replace('\\"', '"')
    if not text:  # cryptography's InvalidSignature has no words
        return "the signature was not made with this key"
    text = _DIGESTS.sub("", text)
    if not text.startswith(("Signature mismatch", "Key mismatch")):
        text = f"the signature cannot be verified: {text}"
    return text[:500]


def _hashing() -> Any:
    """Every file counts: by default model-signing leaves out Git's, links it refuses."""
    hashing = _model_signing().hashing
    config = hashing.Config().use_file_serialization(hashing_algorithm="sha256")
    return config.set_ignored_paths(paths=[], ignore_git_paths=False)


def _model_signing() -> Any:
    try:
        import model_signing
        import model_signing.hashing
        import model_signing.signing
        import model_signing.verifying
    except ImportError as error:
        raise InputError(
            "Signatures need the package model-signing: pip install 'keras_dpvit[signing]'."
        ) from error
    return model_signing
