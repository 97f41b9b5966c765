"""Encrypting inside a `tf.data` pipeline, on the owner's side."""

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_dpvit.encryption.cipher import ImageCipher


def encrypt_map(cipher: ImageCipher) -> Callable[..., Any]:
    """A function for `tf.data.Dataset.map` that encrypts images and passes the rest on.

    TensorFlow calls back into Python for it, so that the graph of the data set holds a number and
    no permutation: written to a file, it could not encrypt anything.

    Example:
        >>> dataset = dataset.batch(64).map(encrypt_map(cipher))

    Args:
        cipher: which cipher.

    Returns:
        A function of `images` or of `(images, *rest)`, where images are uint8 or float in [0, 1],
        `(batch, height, width, channels)` or `(height, width, channels)`; ciphertexts are uint8.
    """
    import tensorflow as tf

    @tf.autograph.experimental.do_not_convert  # it would wrap the errors
    def encrypt(images: Any, *rest: Any) -> Any:
        encrypted = encrypt_tensor(cipher, images)
        return (encrypted, *rest) if rest else encrypted

    return encrypt


def encrypt_tensor(cipher: ImageCipher, images: Any) -> Any:
    """A uint8 TensorFlow tensor of ciphertexts; see `encrypt_map`.

    Raises:
        InputError: if the shape is known and does not fit.
    """
    import tensorflow as tf

    shape = images.shape[-3:]
    if shape.is_fully_defined():
        cipher.check_image_shape(tuple(shape))

    def call_back(values: np.ndarray) -> np.ndarray:
        return cipher.encrypt(values)

    encrypted = tf.numpy_function(call_back, [images], tf.uint8, stateful=False)
    if shape.is_fully_defined():
        encrypted.set_shape([*images.shape[:-3], *cipher.encrypted_shape(tuple(shape))])
    return encrypted
