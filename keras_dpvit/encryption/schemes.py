"""The schemes by name, and a cipher from a name, a key and options."""

import inspect
from typing import Any

from keras_dpvit._validate import one_of, positive_int
from keras_dpvit.encryption.blocks import Shape
from keras_dpvit.encryption.cipher import ImageCipher
from keras_dpvit.encryption.encryption_then_compression import (
    BLOCK_SIZES,
    EncryptionThenCompression,
)
from keras_dpvit.encryption.keys import SECRET_BYTES, SecretKey
from keras_dpvit.encryption.learnable import ExtendedLearnableEncryption, LearnableEncryption
from keras_dpvit.encryption.pixel import PixelEncryption
from keras_dpvit.encryption.vit_block import ViTBlockCipher
from keras_dpvit.errors import InputError

SCHEMES: dict[str, Any] = {
    cipher.scheme: cipher
    for cipher in (
        ViTBlockCipher,
        LearnableEncryption,
        ExtendedLearnableEncryption,
        EncryptionThenCompression,
        PixelEncryption,
    )
}


def check_options(scheme: str, options: dict[str, Any]) -> dict[str, Any]:
    """Checks the options of a scheme by their names.

    Args:
        scheme: a name of `SCHEMES`.
        options: as `from_key` of the scheme takes them, without key and image shape.

    Returns:
        The options.

    Raises:
        InputError: if the scheme is not known or has no such option.
    """
    one_of(SCHEMES, scheme=scheme)
    known = set(inspect.signature(SCHEMES[scheme].from_key).parameters) - {"key", "image_shape"}
    for name in options:
        if name not in known:
            raise InputError(
                f"scheme {scheme!r} has no option {name!r}; it has {', '.join(sorted(known))}."
            )
    return options


def block_size_of(scheme: str, options: dict[str, Any]) -> int:
    """The number that must divide the sides of images, default or not.

    Args:
        scheme: a name of `SCHEMES`.
        options: of the scheme.
    """
    parameters = inspect.signature(SCHEMES[scheme].from_key).parameters
    if "block_size" not in parameters:
        return 1
    size = options.get("block_size", parameters["block_size"].default)
    return int(BLOCK_SIZES[options.get("mode", "color")] if size is None else size)


def full_options(scheme: str, options: dict[str, Any], channels: int = 3) -> dict[str, Any]:
    """The options with their defaults filled in, checked.

    Args:
        scheme: a name of `SCHEMES`.
        options: of the scheme's `from_key`.
        channels: int, of plain images.

    Raises:
        InputError: if the scheme is not known or an option is not allowed.
    """
    check_options(scheme, options)
    if "block_size" in options:
        positive_int(block_size=options["block_size"])
    side = block_size_of(scheme, options)
    return make_cipher(scheme, bytes(SECRET_BYTES), (side, side, channels), **options).params()


def make_cipher(
    scheme: str, key: SecretKey | bytes, image_shape: Shape, **options: Any
) -> ImageCipher:
    """A cipher of the scheme of this name.

    Args:
        scheme: a name of `SCHEMES`.
        key: a `SecretKey` or its 32 bytes.
        image_shape: (height, width, channels) of plain images.
        **options: of the scheme's `from_key`.

    Raises:
        InputError: if name, sizes or options do not fit.
    """
    check_options(scheme, options)
    cipher: ImageCipher = SCHEMES[scheme].from_key(key, image_shape, **options)
    return cipher
