"""A Keras preprocessing layer that encrypts, and is never saved with its key."""

import os
from typing import Any

import keras
import numpy as np

from keras_dpvit._validate import one_of
from keras_dpvit.encryption.cipher import ImageCipher, check_shape
from keras_dpvit.encryption.key_file import read_key_file
from keras_dpvit.encryption.pipeline import encrypt_tensor
from keras_dpvit.encryption.schemes import SCHEMES, full_options
from keras_dpvit.errors import InputError


@keras.saving.register_keras_serializable(package="keras_dpvit")
class EncryptImages(keras.layers.Layer):
    """Encrypts images with a key that is attached by `load_key` and stays out of every file.

    The configuration holds the key's id, scheme and shapes. While a key is attached the layer,
    and every model that has it, refuses `save`, `save_weights` and `export`; after `forget_key`
    it is saved without, and needs `load_key` again once loaded. (Keras' legacy `.h5` files ask no
    layer; they hold the configuration.) Graphs hold no permutation either: TensorFlow calls back
    into Python, so the layer is for the owner's side and not for a served model.

    Example:
        >>> layer = EncryptImages.from_key_file("key.json")
        >>> dataset = dataset.batch(64).map(lambda x, y: (layer(x), y))

    Args:
        kid: str, id of the key.
        image_shape: (height, width, channels) of plain images.
        scheme: name of the scheme.
        options: dict, of the scheme; None for its defaults.
        value_range: (0, 255) or (0, 1), what floats lie in; uint8 images are taken as they are.
            Values are rounded to 256 steps, anything outside is refused.

    Raises:
        InputError: if an argument is not allowed.
    """

    def __init__(
        self,
        kid: str,
        image_shape: tuple[int, int, int],
        scheme: str = "vit_block",
        options: dict[str, Any] | None = None,
        value_range: tuple[int, int] = (0, 255),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kid = kid
        self.image_shape = check_shape(image_shape)
        self.scheme = one_of(SCHEMES, scheme=scheme)
        self.options = full_options(scheme, dict(options or {}), self.image_shape[2])
        if tuple(value_range) not in ((0, 255), (0, 1)):
            raise InputError(f"value_range must be (0, 255) or (0, 1), got {value_range!r}.")
        self.value_range = tuple(value_range)
        self.supports_jit = False
        self._cipher: ImageCipher | None = None

    @classmethod
    def from_key_file(
        cls,
        path: str | os.PathLike[str],
        image_shape: tuple[int, int, int] | None = None,
        *,
        passphrase: str | None = None,
        **kwargs: Any,
    ) -> "EncryptImages":
        """A layer for a key file, with its key attached.

        Args:
            path: the key file.
            image_shape: None takes the file's own.
            passphrase: for a wrapped key.
            **kwargs: `value_range` and what every layer takes.

        Raises:
            InputError: if the file cannot be used, or no shape is known.
        """
        key_file = read_key_file(path, passphrase)
        shape = key_file.image_shape if image_shape is None else image_shape
        if shape is None:
            raise InputError("image_shape must be given: this key leaves it open.")
        layer = cls(key_file.key.kid, shape, key_file.scheme, key_file.options, **kwargs)
        layer._cipher = key_file.cipher(layer.image_shape)
        return layer

    def load_key(self, path: str | os.PathLike[str], passphrase: str | None = None) -> None:
        """Attaches the key that `kid` names.

        Args:
            path: the key file.
            passphrase: for a wrapped key.

        Raises:
            InputError: if the file cannot be used or holds another key.
        """
        key_file = read_key_file(path, passphrase)
        if key_file.key.kid != self.kid:
            raise InputError(
                f"key file {path} holds key {key_file.key.kid}, this layer needs {self.kid}."
            )
        if (key_file.scheme, key_file.options) != (self.scheme, self.options):
            raise InputError(
                f"key file {path} is for {key_file.scheme} {key_file.options}, this layer for "
                f"{self.scheme} {self.options}."
            )
        self._cipher = key_file.cipher(self.image_shape)

    def forget_key(self) -> None:
        """Detaches the key; the layer may be saved then."""
        self._cipher = None

    @property
    def has_key(self) -> bool:
        """True if a key is attached."""
        return self._cipher is not None

    def call(self, images: Any) -> Any:
        if self._cipher is None:
            raise InputError(f"This layer has no key: attach key {self.kid} by load_key(path).")
        if keras.backend.backend() != "tensorflow":
            encrypted = self._cipher.encrypt(self._as_uint8(np.asarray(images)))
            return keras.ops.convert_to_tensor(self._scaled(encrypted), self.compute_dtype)
        import tensorflow as tf

        images = tf.convert_to_tensor(images)
        if images.dtype.is_floating:
            unit = tf.cast(images, tf.float32) / float(self.value_range[1])
        else:
            unit = images
        encrypted = tf.cast(encrypt_tensor(self._cipher, unit), self.compute_dtype)
        return encrypted / 255 if self.value_range[1] == 1 else encrypted

    def compute_output_spec(self, images: Any) -> Any:
        shape = images.shape[:-3]
        return keras.KerasTensor((*shape, *self._encrypted_shape()), dtype=self.compute_dtype)

    def _encrypted_shape(self) -> tuple[int, int, int]:
        height, width, depth = self.image_shape
        gray = self.scheme == "etc" and self.options.get("mode") == "grayscale"
        return (height, 3 * width, 1) if gray else (height, width, depth)

    def _as_uint8(self, images: np.ndarray) -> np.ndarray:
        return images / self.value_range[1] if images.dtype.kind == "f" else images

    def _scaled(self, encrypted: np.ndarray) -> np.ndarray:
        return encrypted / 255 if self.value_range[1] == 1 else encrypted

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "kid": self.kid,
            "image_shape": list(self.image_shape),
            "scheme": self.scheme,
            "options": dict(self.options),
            "value_range": list(self.value_range),
        }

    def save_own_variables(self, store: Any) -> None:
        """Keras calls this for `save` and `save_weights`."""
        self._refuse_with_key()
        super().save_own_variables(store)

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> Any:
        # TensorFlow calls this for SavedModels, `export` and tf.train.Checkpoint.
        self._refuse_with_key()
        return super()._trackable_children(save_type, **kwargs)

    def _refuse_with_key(self) -> None:
        if self._cipher is not None:
            raise InputError(
                "A model with an encryption key attached is not saved: call forget_key() on its "
                "EncryptImages layer first."
            )
