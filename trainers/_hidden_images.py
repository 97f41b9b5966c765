"""--encryption_key: training and scoring on encrypted images."""

import dataclasses
import json
import pathlib
import sys
from typing import Any

import numpy as np
from absl import flags

from keras_dpvit._files import CARD_NAME
from keras_dpvit.datasets import ImageData
from keras_dpvit.encryption.cipher import ImageCipher
from keras_dpvit.errors import InputError
from trainers._encryption import load_key

flags.disclaim_key_flags()  # what is defined here belongs to the program

_BATCH = 1000

# What the card says beside epsilon, so that neither protection is taken for the other.
COVERAGE = (
    "The images were encrypted block by block before training. That hides what they look like from "
    "casual viewers of the training data; it is visual obfuscation, not confidentiality, for known "
    "attacks recover the key from the encrypted images. Epsilon and delta bound what the trained "
    "model tells about any one record, with or without encryption. Neither hides the labels from "
    "whoever trains."
)


def define_flags(flag_values: flags.FlagValues) -> None:
    """Defines --encryption_key --encryption_block_size --encryption_passphrase_file."""
    flags.DEFINE_string(
        "encryption_key",
        None,
        "Key file of trainers.encrypt: all images are encrypted with it after they are loaded.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "encryption_block_size",
        None,
        "Another block size than the key file's.",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "encryption_passphrase_file",
        None,
        "File whose first line is the key's passphrase.",
        flag_values=flag_values,
    )


def load_cipher(flag_values: flags.FlagValues, data: ImageData) -> ImageCipher | None:
    """The cipher that the flags name for these images; None without --encryption_key.

    Raises:
        InputError: if the key file cannot be used, or does not fit the images.
    """
    if flag_values.encryption_key is None:
        for name in ("encryption_block_size", "encryption_passphrase_file"):
            if flag_values[name].value is not None:
                raise InputError(f"--{name} needs --encryption_key.")
        return None
    key_file = load_key(flag_values.encryption_key, flag_values.encryption_passphrase_file)
    size = flag_values.encryption_block_size
    overrides = {} if size is None else {"block_size": size}
    return key_file.cipher(data.image_shape, **overrides)


def encrypt(data: ImageData, cipher: ImageCipher) -> ImageData:
    """The same data set, training and held-out images encrypted."""
    return dataclasses.replace(
        data, x_train=_encrypted(data.x_train, cipher), x_test=_encrypted(data.x_test, cipher)
    )


def summary(cipher: ImageCipher) -> dict[str, Any]:
    """For the privacy card: what was done, by which key, and what it is worth. Nothing secret."""
    return {
        "scheme": cipher.scheme,
        "params": cipher.params(),
        "kid": cipher.kid,
        "statement": COVERAGE,
    }


def check_key_of_model(model_path: str, cipher: ImageCipher | None) -> None:
    """Compares the key with the privacy card beside a model.

    A model of encrypted images that is given plain ones is reported on stderr; both are legitimate
    questions, but not to be confused.

    Args:
        model_path: SavedModel directory or TFLite file.
        cipher: of the images, or None.

    Raises:
        InputError: if the model was trained under another key.
    """
    path = pathlib.Path(model_path)
    card_path = (path if path.is_dir() else path.parent) / CARD_NAME
    try:
        trained = json.loads(card_path.read_text("utf-8")).get("encryption")
    except (OSError, ValueError, AttributeError):
        return  # a model without a readable card tells nothing
    kid = trained["kid"] if isinstance(trained, dict) and "kid" in trained else None
    if kid is not None and cipher is not None and cipher.kid != kid:
        raise InputError(
            f"encryption_key is {cipher.kid}, but the model was trained on images under key {kid}."
        )
    if (kid is None) != (cipher is None):
        trained_on = "plain images" if kid is None else f"images encrypted with key {kid}"
        given = "plain ones" if cipher is None else "encrypted ones"
        print(
            f"warning: the model was trained on {trained_on} and is given {given}.", file=sys.stderr
        )


def _encrypted(images: np.ndarray, cipher: ImageCipher) -> np.ndarray:
    """In batches: the schemes need several times the memory of what they encrypt at once."""
    parts = [cipher.encrypt(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)]
    return np.concatenate(parts)
