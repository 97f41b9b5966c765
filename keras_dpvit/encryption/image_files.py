"""Image files: reading plain pictures, and writing and reading ciphertexts without loss."""

import io
import pathlib
from typing import Any

import numpy as np

from keras_dpvit.encryption.blocks import Shape
from keras_dpvit.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_READERS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
RESIZES = ("bilinear", "bicubic", "nearest")

# Name of the PNG text chunk, and tag of the XMP packet in a WebP file, that hold the key's id.
KID_NAME = "keras_dpvit:kid"

# A side of EXIF's orientation tag: from 5 on, height and width are exchanged.
_ORIENTATION, _TRANSPOSED = 274, 5
_PNG_EXIF = {"exif", "Raw profile type exif"}
_GRAY_MODES = ("1", "L", "LA", "I", "F")


def plain_shape(path: pathlib.Path, channels: int | None) -> Shape:
    """(height, width, channels) that `read_plain` will return, from the header alone.

    Args:
        path: an image file.
        channels: 1 or 3; None keeps gray images gray and makes all others RGB.

    Raises:
        InputError: if the header is not an image's.
    """
    import PIL.Image

    try:
        with PIL.Image.open(path, formats=_READERS) as image:
            width, height = image.size
            # Pillow reads a whole PNG file to be sure that it has no EXIF.
            has_exif = image.format != "PNG" or not _PNG_EXIF.isdisjoint(image.info)
            if has_exif and image.getexif().get(_ORIENTATION, 1) >= _TRANSPOSED:
                width, height = height, width
            return height, width, channels or _channels(image)
    except Exception as error:  # Pillow raises many types on damaged bytes
        raise _unreadable(path, error) from error


def read_plain(
    path: pathlib.Path,
    channels: int | None = None,
    size: tuple[int, int] | None = None,
    resize: str = "bilinear",
) -> np.ndarray:
    """The pixels of a picture and nothing else of its file.

    EXIF's orientation is applied; EXIF (whose thumbnail is the plain picture), XMP, colour
    profiles and text stay behind, and transparency is dropped.

    Args:
        path: an image file.
        channels: 1 or 3; None keeps gray images gray and makes all others RGB.
        size: (height, width) to stretch to, rounded to whole values; None keeps the size.
        resize: one of `RESIZES`.

    Returns:
        uint8 `(height, width, channels)`.

    Raises:
        InputError: if the file is not one whole image.
    """
    import PIL.Image
    import PIL.ImageOps

    try:
        with PIL.Image.open(path, formats=_READERS) as opened:
            if getattr(opened, "n_frames", 1) > 1:
                raise ValueError("it holds several pictures")
            image: Any = PIL.ImageOps.exif_transpose(opened)
            depth = channels or _channels(image)
            image = _eight_bits(image).convert("L" if depth == 1 else "RGB")
        if size is not None and image.size != (size[1], size[0]):
            image = image.resize((size[1], size[0]), PIL.Image.Resampling[resize.upper()])
    except Exception as error:
        raise _unreadable(path, error) from error
    return np.asarray(image).reshape(image.height, image.width, depth)


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


def _channels(image: Any) -> int:
    return 1 if image.mode in _GRAY_MODES or image.mode.startswith("I;16") else 3


def _eight_bits(image: Any) -> Any:
    """Pillow clips 16-bit grays when it converts them; here they keep their upper 8 bits."""
    import PIL.Image

    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ValueError("its values are not of 16 bits")
    return PIL.Image.fromarray((values >> 8).astype(np.uint8))


def _unreadable(path: Any, error: BaseException) -> InputError:
    lines = str(error).strip().splitlines()
    reason = lines[0].strip() if lines else type(error).__name__
    return InputError(f"image file {str(path)!r} must be one whole image: {reason}.")
