"""The base of all schemes: the images they take, their shapes, and what they show of themselves."""

import abc
import pickle
from typing import Any, ClassVar

import numpy as np

from keras_dpvit._validate import positive_int
from keras_dpvit.encryption.blocks import Shape
from keras_dpvit.encryption.index_maps import ImageMap
from keras_dpvit.errors import InputError

# An index for 224x224x3 takes a megabyte or two; folders of mixed sizes must not pile them up.
_SHAPES_KEPT = 8


class ImageCipher(abc.ABC):
    """A keyed, deterministic transformation of images; one key for a whole data set.

    Guarantee: none in the cryptographic sense. The schemes hide images from a casual viewer; equal
    images become equal ciphertexts, and known attacks recover the key.

    Images are uint8 `(batch, height, width, channels)` or one `(height, width, channels)`. Floats
    are taken in [0, 1] and rounded to 255 steps; anything else is refused. A cipher prints its
    scheme, shapes and `kid` only and cannot be pickled; its permutations are secret.

    Attributes:
        scheme: str, the name in key files and manifests.
    """

    scheme: ClassVar[str]

    def __init__(self, image_shape: Shape | None, kid: str | None) -> None:
        self._image_shape = image_shape
        self._kid = kid
        self._maps: dict[Shape, ImageMap] = {}

    @property
    def image_shape(self) -> Shape | None:
        """(height, width, channels) of plain images; None if any fitting shape is taken."""
        return self._image_shape

    @property
    def kid(self) -> str | None:
        """Id of the key; None for a cipher made of bare permutations."""
        return self._kid

    @property
    def lossless(self) -> bool:
        """True if `decrypt(encrypt(images))` is exact."""
        return True

    @property
    @abc.abstractmethod
    def key_space_bits(self) -> float:
        """log2 of the number of different keys of the scheme: the cost of brute force alone.

        It says nothing about other attacks, and permutations that were derived from a 32-byte
        secret are never more than 2^256.
        """

    @abc.abstractmethod
    def params(self) -> dict[str, Any]:
        """The options that are not secret, JSON-able; they rebuild the cipher from its key."""

    def encrypted_shape(self, image_shape: Shape) -> Shape:
        """Shape of one ciphertext of a plain image of `image_shape`."""
        return image_shape

    def encrypt(self, images: Any) -> np.ndarray:
        """Ciphertexts, uint8.

        Args:
            images: uint8 or float in [0, 1], `(batch, height, width, channels)` or
                `(height, width, channels)`.

        Raises:
            InputError: if dtype, range or shape does not fit.
        """
        batch, single = as_batch(images)
        self.check_image_shape(shape_of(batch))
        result = self._encrypt_batch(batch)
        return result[0] if single else result

    def decrypt(self, images: Any) -> np.ndarray:
        """Plain images, uint8, from ciphertexts of the same key.

        Args:
            images: as `encrypt` returned them.

        Raises:
            InputError: if dtype, range or shape does not fit, or the scheme cannot be inverted.
        """
        batch, single = as_batch(images)
        result = self._decrypt_batch(batch)
        return result[0] if single else result

    def _encrypt_batch(self, batch: np.ndarray) -> np.ndarray:
        return self._map(shape_of(batch)).forward(batch)

    def _decrypt_batch(self, batch: np.ndarray) -> np.ndarray:
        self.check_image_shape(shape_of(batch))
        return self._map(shape_of(batch)).backward(batch)

    def check_image_shape(self, shape: Shape) -> None:
        """Raises InputError unless plain images may have this (height, width, channels)."""
        if self._image_shape is not None and shape != self._image_shape:
            raise InputError(
                f"images must have shape {self._image_shape} under this key, got {shape}."
            )

    def _map(self, shape: Shape) -> ImageMap:
        found = self._maps.get(shape)
        if found is None:
            found = self._build_map(shape)
            while len(self._maps) >= _SHAPES_KEPT:
                self._maps.pop(next(iter(self._maps)))
            self._maps[shape] = found
        return found

    @abc.abstractmethod
    def _build_map(self, shape: Shape) -> ImageMap:
        """The whole-image form for images of this shape, which must fit the permutations."""

    def __repr__(self) -> str:
        shown = {"image_shape": self._image_shape, **self.params(), "kid": self._kid}
        listed = ", ".join(f"{name}={value!r}" for name, value in shown.items())
        return f"{type(self).__name__}({listed})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise pickle.PicklingError(
            f"A {type(self).__name__} holds a key and is not pickled: pass the path of the key "
            "file, or the bytes of the key's reveal(), and make the cipher again."
        )


class BlockCipher(ImageCipher):
    """A cipher that works in square blocks.

    Args:
        block_size: int.
        image_shape: see `ImageCipher.image_shape`.
        kid: see `ImageCipher.kid`.
    """

    def __init__(
        self, block_size: int, image_shape: Shape | None = None, kid: str | None = None
    ) -> None:
        super().__init__(image_shape, kid)
        self._block_size = block_size

    @property
    def block_size(self) -> int:
        """Side of a block in pixels."""
        return self._block_size


def check_shape(image_shape: Any) -> Shape:
    """(height, width, channels) as ints.

    Raises:
        InputError: unless these are three whole numbers above 0.
    """
    try:
        height, width, channels = image_shape
        return (
            positive_int(height=height),
            positive_int(width=width),
            positive_int(channels=channels),
        )
    except (TypeError, ValueError) as error:
        raise InputError(
            "image_shape must be (height, width, channels) in whole numbers above 0, "
            f"got {image_shape!r}."
        ) from error


def shape_of(batch: np.ndarray) -> Shape:
    """(height, width, channels) of the images of a batch."""
    _, height, width, channels = batch.shape
    return height, width, channels


def as_batch(images: Any) -> tuple[np.ndarray, bool]:
    """Images as a contiguous uint8 batch, and whether they were a single one.

    Floats become `rint(255 x)`: truncation would change values, many of them in float16.

    Raises:
        InputError: for another dtype, a value outside [0, 1], NaN, or another number of axes.
    """
    array = np.asarray(images)
    if array.ndim not in (3, 4) or 0 in array.shape[-3:]:
        raise InputError(
            "images must be (batch, height, width, channels) or (height, width, channels), "
            f"got shape {array.shape}."
        )
    if array.dtype.kind == "f":
        inside = (array >= 0) & (array <= 1)  # not so for NaN
        if not inside.all():
            raise InputError(
                "images must be uint8, or floats in [0, 1] without NaN; these floats are not."
            )
        array = np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise InputError(f"images must be uint8, or floats in [0, 1], got {array.dtype}.")
    single = array.ndim == 3
    return np.ascontiguousarray(array[None] if single else array), single
