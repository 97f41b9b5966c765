"""Block-wise image encryption: ciphers that hide images from viewers but not from attackers.

These transformations are visual obfuscation, not confidentiality: a data set under one key can be
decrypted without the key. See docs/encryption.md.
"""

import importlib
from typing import Any

from keras_dpvit.encryption.cipher import ImageCipher
from keras_dpvit.encryption.encryption_then_compression import EncryptionThenCompression
from keras_dpvit.encryption.key_file import KeyFile, read_key_file, write_key_file
from keras_dpvit.encryption.keyed_model import restore, rotate, transform_model
from keras_dpvit.encryption.keys import SecretKey
from keras_dpvit.encryption.learnable import ExtendedLearnableEncryption, LearnableEncryption
from keras_dpvit.encryption.pipeline import encrypt_map
from keras_dpvit.encryption.pixel import PixelEncryption
from keras_dpvit.encryption.schemes import SCHEMES, make_cipher
from keras_dpvit.encryption.vit_block import ViTBlockCipher

# Loaded when first used, because it imports Keras.
_LATER = {"EncryptImages": "layer"}

__all__ = [
    "SCHEMES",
    "EncryptImages",
    "EncryptionThenCompression",
    "ExtendedLearnableEncryption",
    "ImageCipher",
    "KeyFile",
    "LearnableEncryption",
    "PixelEncryption",
    "SecretKey",
    "ViTBlockCipher",
    "encrypt_map",
    "make_cipher",
    "read_key_file",
    "restore",
    "rotate",
    "transform_model",
    "write_key_file",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
