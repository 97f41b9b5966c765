"""Pixel-based encryption (PE, Sirichotedumrong et al. 2019)."""

import math
from typing import Any

import numpy as np

from keras_dpvit.encryption import color
from keras_dpvit.encryption.blocks import Shape
from keras_dpvit.encryption.cipher import ImageCipher, as_batch, check_shape, shape_of
from keras_dpvit.encryption.index_maps import ByteMap, ImageMap
from keras_dpvit.encryption.keys import SecretKey, as_key
from keras_dpvit.encryption.permutations import read_only
from keras_dpvit.errors import InputError


class PixelEncryption(ImageCipher):
    """PE: inverts values by a mask, then exchanges the colour channels of each pixel.

    `q = x ^ 255` where the mask is set; then, unless `shuffle_colors` is false, each pixel's
    channels are put into one of 6 orders. Images with 1 channel have the mask alone.

    Guarantee: none in the cryptographic sense; edges stay visible, and one chosen image gives the
    key away.

    Make one by `from_key`, by `from_permutations`, or by `with_key_per_image`, which draws a
    fresh key for every image and throws it away, so that nobody can decrypt.

    Source: Sirichotedumrong, Maekawa, Kinoshita, Kiya, "Privacy-Preserving Deep Neural Networks
    with Pixel-Based Image Encryption Considering Data Augmentation in the Encrypted Domain",
    ICIP 2019.
    """

    scheme = "pe"

    def __init__(
        self,
        mask: np.ndarray | None,
        colors: np.ndarray | None,
        *,
        shuffle_colors: bool,
        image_shape: Shape | None = None,
        kid: str | None = None,
    ) -> None:
        super().__init__(image_shape, kid)
        self._mask = mask
        self._colors = colors
        self._shuffle_colors = shuffle_colors

    @classmethod
    def from_key(
        cls,
        key: SecretKey | bytes,
        image_shape: Shape = (32, 32, 3),
        *,
        shuffle_colors: bool = True,
    ) -> "PixelEncryption":
        """Derives the mask and the colour orders from a key.

        Args:
            key: a `SecretKey` or its 32 bytes.
            image_shape: (height, width, channels), 1 or 3 channels.
            shuffle_colors: bool; false leaves the mask alone.

        Raises:
            InputError: if sizes do not fit.
        """
        key = as_key(key)
        height, width, depth = shape = check_shape(image_shape)
        _check_channels(depth)
        mask = key.bits("pe/mask", height * width * depth).reshape(shape)
        colors = None
        if shuffle_colors and depth == 3:
            codes = key.below("pe/color", height * width, len(color.ORDERS))
            colors = read_only(codes.reshape(height, width))
        return cls(
            read_only(mask), colors, shuffle_colors=shuffle_colors, image_shape=shape, kid=key.kid
        )

    @classmethod
    def from_permutations(cls, inversion_mask: Any, colors: Any = None) -> "PixelEncryption":
        """Takes a bare mask and bare colour orders.

        Args:
            inversion_mask: zeros and ones of shape (height, width, channels).
            colors: 0..5 of shape (height, width), into the orders 012, 021, 102, 120, 201, 210;
                None leaves the colours alone.

        Raises:
            InputError: if sizes do not fit.
        """
        shape = check_shape(np.shape(inversion_mask))
        _check_channels(shape[2])
        mask = color.checked_codes(inversion_mask, "inversion_mask", shape, 2).astype(bool)
        if colors is not None:
            if shape[2] != 3:
                raise InputError("colors must be left out for images of 1 channel.")
            colors = color.checked_codes(colors, "colors", shape[:2], len(color.ORDERS))
        return cls(read_only(mask), colors, shuffle_colors=colors is not None, image_shape=shape)

    @classmethod
    def with_key_per_image(cls, *, shuffle_colors: bool = True) -> "PixelEncryption":
        """A cipher that keeps no key: each image has its own, thrown away once it is used.

        The same image never becomes the same ciphertext twice, and `decrypt` is refused.
        """
        return cls(None, None, shuffle_colors=shuffle_colors)

    @property
    def key_per_image(self) -> bool:
        """True if every image has a separate key, which is thrown away."""
        return self._mask is None

    @property
    def inversion_mask(self) -> np.ndarray | None:
        """Mask of the values that are inverted, bool of shape (height, width, channels). Secret."""
        return self._mask

    @property
    def colors(self) -> np.ndarray | None:
        """Codes of the channels' orders, int64 of shape (height, width). Secret."""
        return self._colors

    @property
    def lossless(self) -> bool:
        return not self.key_per_image

    @property
    def key_space_bits(self) -> float:
        if self._mask is None:
            raise InputError(
                "key_space_bits depends on the image shape, which a cipher with a key per image "
                "leaves open."
            )
        bits = float(self._mask.size)
        if self._colors is not None:
            bits += self._colors.size * math.log2(len(color.ORDERS))
        return bits

    def params(self) -> dict[str, Any]:
        params: dict[str, Any] = {"shuffle_colors": self._shuffle_colors}
        if self.key_per_image:
            params["key_per_image"] = True
        return params

    def encrypt(self, images: Any) -> np.ndarray:
        if not self.key_per_image:
            return super().encrypt(images)
        batch, single = as_batch(images)
        shape = shape_of(batch)
        _check_channels(shape[2])
        result = np.empty_like(batch)
        for i, image in enumerate(batch):
            fresh = self.from_key(SecretKey.generate(), shape, shuffle_colors=self._shuffle_colors)
            result[i] = fresh.encrypt(image)
        return result[0] if single else result

    def _decrypt_batch(self, batch: np.ndarray) -> np.ndarray:
        if self.key_per_image:
            raise InputError("A key per image was thrown away: nobody can decrypt these images.")
        return super()._decrypt_batch(batch)

    def _build_map(self, shape: Shape) -> ImageMap:
        assert self._mask is not None
        mask = self._mask.astype(np.uint8).reshape(-1) * 255
        if self._colors is None:
            return ByteMap(None, mask)
        pixels = np.arange(self._colors.size).reshape(-1, 1)
        index = (3 * pixels + color.ORDERS[self._colors.reshape(-1)]).reshape(-1)
        return ByteMap(index, mask[index])  # the mask comes before the exchange


def _check_channels(depth: int) -> None:
    if depth not in (1, 3):
        raise InputError(f"images must have 1 or 3 channels for PE, got {depth}.")
