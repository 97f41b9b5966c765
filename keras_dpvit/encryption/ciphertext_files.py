"""Files of ciphertexts, written and read without loss."""

import io
import pathlib
from typing import Any

import numpy as np

from keras_dpvit import _reasons
from keras_dpvit.datasets.image_files import shown
from keras_dpvit.errors import InputError

_READERS = ("PNG", "WEBP")

# Name of the PNG text chunk, and tag of the XMP packet in a WebP file, that hold the key's id.
KID_NAME = "keras_dpvit:kid"


def encode(pixels: np.ndarray, file_format: str, kid: str | None) -> bytes:
    """A file's bytes for one image, without loss.

    Args:
        pixels: uint8 `(height, width, channels)`, 1 or 3 channels for "png" and "webp".
        file_format: "png", "webp" or "npy".
        kid: written as a PNG text chunk or a WebP XMP packet; an npy file has no place for it.
    """
    buffer = io.BytesIO()
    if file_format == "npy":
        np.save(buffer, pixels, allow_pickle=False)
        return buffer.getvalue()
    import PIL.Image
    import PIL.PngImagePlugin

    image = PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    options: dict[str, Any] = {}
    if file_format == "webp":
        options = {"lossless": True, "exact": True}
        if kid is not None:
            options["xmp"] = f"<{KID_NAME}>{kid}</{KID_NAME}>".encode()
    elif kid is not None:
        options["pnginfo"] = PIL.PngImagePlugin.PngInfo()
        options["pnginfo"].add_text(KID_NAME, kid)
    image.save(buffer, file_format.upper(), **options)
    return buffer.getvalue()


def decode(data: bytes, file_format: str, channels: int) -> np.ndarray:
    """The pixels that `encode` was given.

    Raises:
        InputError: if the bytes are not such an image.
    """
    import PIL.Image

    try:
        if file_format == "npy":
            pixels = np.load(io.BytesIO(data), allow_pickle=False)
            if pixels.dtype != np.uint8 or pixels.ndim != 3:
                raise ValueError("it holds no image")
            return np.asarray(pixels)
        with PIL.Image.open(io.BytesIO(data), formats=(file_format.upper(),)) as image:
            # WebP has no gray images; three equal channels come back from one.
            array = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except Exception as error:
        raise _unreadable("the file", error) from error
    return array.reshape(array.shape[0], array.shape[1], channels)


def read_kid(path: pathlib.Path) -> str | None:
    """The key's id in a PNG or WebP file that `encode` made; None if it has none.

    Raises:
        InputError: if the file is not an image.
    """
    import PIL.Image

    try:
        with PIL.Image.open(path, formats=_READERS) as image:
            image.load()
            text = image.info.get(KID_NAME)
            packet = image.info.get("xmp")
    except Exception as error:
        raise _unreadable(path, error) from error
    if text is None and isinstance(packet, bytes):
        text = packet.decode("utf-8", "replace").partition(f"<{KID_NAME}>")[2].partition("<")[0]
    return text or None


def _unreadable(path: Any, error: BaseException) -> InputError:
    reason = _reasons.reason(error)
    return InputError(f"image file {shown(path)!r} must be one whole image: {reason}.")
