"""The one reader of picture files: training, prediction, cameras, encryption and attacks.

Every program gets the same pixels from a file. JPEG (phones' MPO too), PNG, WebP, BMP, TIFF and
GIF are read by Pillow; HEIC where `pillow-heif` is installed, DICOM where `pydicom` is.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import io
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_dpvit import _reasons, _validate
from keras_dpvit.errors import InputError

# Of width times height: above what phones make (108 million); a file of a few kilobytes may hold
# any number. As `export.decoding.MAX_PIXELS`, which cannot be imported without TensorFlow.
MAX_PIXELS = 2**27

TRANSPARENCIES = ("drop", "white", "black")
RESIZES = ("bilinear", "bicubic", "nearest")

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".mpo", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_HEIF_SUFFIXES = (".heic", ".heif")
_DICOM_SUFFIX = ".dcm"

_ORIENTATION = 0x0112
_PNG_EXIF = {"exif", "Raw profile type exif"}
_GRAY_MODES = ("1", "L", "LA", "La", "I", "F")
# What TensorFlow's ops read as this module does.
_SERVED_FORMATS = ("PNG", "JPEG")
_SERVED_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")

Shape = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Reading:
    """The ways in which a file's numbers become pixels of 0 to 255.

    Attributes:
        transparency: "drop" takes the colours as they are stored, "white" and "black" lay the
            picture on that ground.
        bit_depth: int from 9 to 16, the bits in use where a file has 16 (cameras write 12 or 14);
            None for all 16. The upper 8 of them are kept.

    Raises:
        InputError: if one is something else.
    """

    transparency: str = "drop"
    bit_depth: int | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        _validate.one_of(TRANSPARENCIES, transparency=self.transparency)
        if self.bit_depth is not None and self.bit_depth not in range(9, 17):
            raise InputError(
                f"bit_depth must be a whole number from 9 to 16, got {self.bit_depth!r}."
            )


AS_STORED = Reading()


@functools.cache
def suffixes() -> tuple[str, ...]:
    """The suffixes of the files that can be read here, in lower case."""
    found: tuple[str, ...] = _SUFFIXES
    if _heif_is_there():
        found += _HEIF_SUFFIXES
    if importlib.util.find_spec("pydicom") is not None:
        found += (_DICOM_SUFFIX,)
    return found


def is_picture(path: pathlib.Path) -> bool:
    """True for a name that a picture has, and that is not hidden."""
    return path.suffix.lower() in suffixes() and not path.name.startswith(".")


def missing_reader(path: pathlib.Path) -> str | None:
    """The package that would read a file which cannot be read here; None if there is none."""
    suffix = path.suffix.lower()
    if suffix in suffixes():
        return None
    if suffix in _HEIF_SUFFIXES:
        return "pillow-heif"
    return "pydicom" if suffix == _DICOM_SUFFIX else None


def files_below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """All files in a folder and its sub-folders by name, but for hidden ones and what is in such.

    Links to folders are followed, each folder is gone through once.

    Raises:
        InputError: if a folder cannot be read.
    """

    def stop(error: OSError) -> None:
        raise InputError(
            f"folder {shown(error.filename)!r} cannot be read: {error.strerror}."
        ) from error

    seen: set[str] = set()
    for place, folders, files in os.walk(folder, onerror=stop, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (pathlib.Path(place, name) for name in sorted(files) if name[0] != ".")


def shown(path: Any) -> str:
    """A file's name for a message or a table: one line, and letters that every terminal takes."""
    text = os.fspath(path).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def read_image(
    path: pathlib.Path,
    image_shape: Shape | None = None,
    *,
    channels: int | None = None,
    resize: str = "bilinear",
    reading: Reading = AS_STORED,
) -> np.ndarray:
    """The pixels of a picture and nothing else of its file.

    It is turned as its EXIF orientation says. Of a GIF, and of a phone's file with several
    pictures, the first is taken. 16 bits keep the upper 8; floats are from 0 to 1, or from 0 to
    255 where one is above 1.

    Args:
        path: the file.
        image_shape: (height, width, channels) with 1 or 3 channels, to which it is converted and
            resized; None keeps the size.
        channels: 1 or 3, where there is no `image_shape`; None leaves gray gray and makes all
            else RGB.
        resize: one of `RESIZES`.
        reading: transparency and bit depth.

    Returns:
        uint8 `(height, width, channels)`.

    Raises:
        InputError: if it is not one whole picture of at most `MAX_PIXELS`.
    """
    if image_shape is not None:
        channels = image_shape[2]
    with _named(path), _opened(path) as opened:
        image = _on_ground(_eight_bits(_upright(opened), reading), reading)
        depth = channels or (1 if _is_gray(image) else 3)
        return fitted(image, image_shape or (image.height, image.width, depth), resize)


def fitted(image: Any, image_shape: Shape, resize: str = "bilinear") -> np.ndarray:
    """A Pillow image of 8 bits as uint8 `(height, width, channels)`, converted and resized.

    First across, then down: Pillow takes the passes in either order, by its version and the sides,
    and the order moves some pixels by one. Served models and browsers take them in this one.
    """
    import PIL.Image

    height, width, channels = image_shape
    image = image.convert("L" if channels == 1 else "RGB")
    for size in ((width, image.height), (width, height)):
        if image.size != size:
            image = image.resize(size, PIL.Image.Resampling[resize.upper()])
    return np.asarray(image).reshape(height, width, channels)


def read_shape(path: pathlib.Path, channels: int | None = None) -> Shape:
    """(height, width, channels) that `read_image` will return, from the header alone.

    Args:
        path: the file.
        channels: see `read_image`.

    Raises:
        InputError: if the header is not a picture's.
    """
    with _named(path), _opened(path) as image:
        width, height = image.size
        if _orientation(image) >= 5:  # height and width are exchanged
            width, height = height, width
        return height, width, channels or (1 if _is_gray(image) else 3)


def servable_bytes(path: pathlib.Path, reading: Reading = AS_STORED) -> bytes:
    """A file's bytes, for a served model that reads PNG and JPEG as they lie.

    What such a model would read otherwise than `read_image` (another format, EXIF's orientation,
    16 bits, CMYK) is written anew as PNG.

    Raises:
        InputError: see `read_image`.
    """
    import PIL.Image

    with _named(path), _opened(path) as image:
        image.load()  # a file that is cut short ends here
        plain = image.format in _SERVED_FORMATS and image.mode in _SERVED_MODES
        if plain and _orientation(image) == 1 and reading.transparency == "drop":
            return path.read_bytes()
    pixels = read_image(path, reading=reading)
    written = io.BytesIO()
    PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(written, "PNG")
    return written.getvalue()


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    """Within the context, whatever is wrong with a file is told in one line with its name."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of many pixels, which are counted here
            yield
    except Exception as error:  # Pillow's decoders raise many types on damaged bytes
        package = missing_reader(path)
        if package is not None:
            reason = f"it takes pip install {package} to read it"
        elif "cannot identify image file" in str(error):
            reason = "it is in none of the formats that can be read"
        else:
            reason = _reasons.reason(error)
        raise InputError(
            f"image file {shown(path)!r} must be one whole picture: {reason}."
        ) from error


def _opened(path: pathlib.Path) -> Any:
    import PIL.Image

    if path.suffix.lower() == _DICOM_SUFFIX:
        return _dicom(path)
    formats = (*_FORMATS, "HEIF") if _heif_is_there() else _FORMATS
    try:
        image: Any = PIL.Image.open(path, formats=formats)
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(
            f"it has far more than the {MAX_PIXELS} pixels that are allowed"
        ) from error
    try:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(
                f"it has {image.width}x{image.height} pixels, {MAX_PIXELS} are allowed"
            )
        if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
            raise ValueError("it holds several pictures")
    except BaseException:
        image.close()
        raise
    return image


@functools.cache
def _heif_is_there() -> bool:
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    import pillow_heif

    pillow_heif.register_heif_opener()
    return True


def _dicom(path: pathlib.Path) -> Any:
    """A DICOM file's picture by its own window, as gray or RGB of 8 bits."""
    import PIL.Image
    import pydicom
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

    stored = pydicom.dcmread(path)
    if int(stored.get("NumberOfFrames", 1) or 1) > 1:
        raise ValueError("it holds several pictures")
    if int(stored.Rows) * int(stored.Columns) > MAX_PIXELS:
        raise ValueError(f"it has {stored.Columns}x{stored.Rows} pixels")
    pixels = stored.pixel_array
    if stored.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, stored)
        return PIL.Image.fromarray((pixels >> 8 if pixels.itemsize > 1 else pixels).astype("uint8"))
    if pixels.ndim == 3:
        return PIL.Image.fromarray(pixels.astype("uint8"))
    values = apply_voi_lut(apply_modality_lut(pixels, stored), stored).astype("float64")
    if "WindowWidth" in stored or "VOILUTSequence" in stored:
        least, most = values.min(), values.max()
    else:
        ends = apply_modality_lut(
            np.array([0, 2 ** int(stored.BitsStored) - 1])
            - (2 ** (int(stored.BitsStored) - 1) if stored.PixelRepresentation else 0),
            stored,
        )
        least, most = float(min(ends)), float(max(ends))
    scaled = (values - least) * (255.0 / max(most - least, 1e-9))
    if stored.PhotometricInterpretation == "MONOCHROME1":
        scaled = 255.0 - scaled
    return PIL.Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype("uint8"))


def _orientation(image: Any) -> int:
    """EXIF's orientation, 1 to 8; some programs write it as text."""
    # Pillow reads a whole PNG file to be sure that it has no EXIF.
    if image.format == "PNG" and _PNG_EXIF.isdisjoint(image.info):
        return 1
    try:
        found = int(image.getexif().get(_ORIENTATION, 1))
    except (TypeError, ValueError):
        return 1
    return found if 1 <= found <= 8 else 1


def _upright(image: Any) -> Any:
    import PIL.Image

    turn = PIL.Image.Transpose
    ways = (
        None,
        turn.FLIP_LEFT_RIGHT,
        turn.ROTATE_180,
        turn.FLIP_TOP_BOTTOM,
        turn.TRANSPOSE,
        turn.ROTATE_270,
        turn.TRANSVERSE,
        turn.ROTATE_90,
    )
    way = ways[_orientation(image) - 1]
    image.load()
    return image if way is None else image.transpose(way)


def _is_gray(image: Any) -> bool:
    return image.mode in _GRAY_MODES or image.mode.startswith("I;16")


def _eight_bits(image: Any, reading: Reading) -> Any:
    """Pillow clips deeper grays when it converts them; here they keep their upper 8 bits."""
    import PIL.Image

    if image.mode == "F":
        values = np.asarray(image, "float64")
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 255:
            raise ValueError("its numbers are not from 0 to 1 or from 0 to 255")
        scaled = values * 255 if values.max() <= 1 else values
        return PIL.Image.fromarray(np.rint(scaled).astype(np.uint8))
    if not image.mode.startswith("I"):
        return image
    bits = reading.bit_depth or 16
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() >= 2**bits:
        raise ValueError(f"its values are not of {bits} bits")
    return PIL.Image.fromarray((values >> (bits - 8)).astype(np.uint8))


def _on_ground(image: Any, reading: Reading) -> Any:
    import PIL.Image

    has_ground = "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info
    if reading.transparency == "drop" or not has_ground:
        return image
    gray = _is_gray(image)
    above = image.convert("RGBA")
    ground = PIL.Image.new("RGBA", above.size, reading.transparency)
    whole = PIL.Image.alpha_composite(ground, above).convert("RGB")
    return whole.convert("L") if gray else whole
