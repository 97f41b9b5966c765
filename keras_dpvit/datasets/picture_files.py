"""Picture files that a user names, checked and made fit to be sent to a model."""

import io
import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

from keras_dpvit.datasets.image_data import first_line
from keras_dpvit.datasets.image_folder import SUFFIXES
from keras_dpvit.errors import InputError

# As `export.decoding.MAX_PIXELS`, which cannot be imported without TensorFlow.
MAX_PIXELS = 2**26

_ORIENTATION = 0x0112


def picture_files(names: Sequence[str], argument: str) -> list[pathlib.Path]:
    """Files, and the PNG and JPEG files in folders and their sub-folders, in order.

    Args:
        names: files or folders.
        argument: what the user calls them, for messages.

    Raises:
        InputError: if one is missing, or a folder holds no picture.
    """
    found: list[pathlib.Path] = []
    for name in names:
        path = pathlib.Path(name)
        if os.path.isdir(name):
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            inside = [p for p in inside if p.is_file() and not p.name.startswith(".")]
            if not inside:
                raise InputError(f"{argument} must hold PNG or JPEG files; {name!r} has none.")
            found += inside
        elif os.path.isfile(name):
            found.append(path)
        else:
            raise InputError(f"{argument} must be a file that exists, got {name!r}.")
    return found


def read_picture(path: pathlib.Path, argument: str) -> bytes:
    """A file's bytes, upright.

    A picture that its EXIF orientation turns is turned here, as in training, and written anew as
    PNG, because a served model takes pictures as they lie.

    Raises:
        InputError: if it is not a whole PNG or JPEG image, or has more than `MAX_PIXELS`.
    """
    import PIL.Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of many pixels, which are counted here
            content = path.read_bytes()
            with PIL.Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
                if image.width * image.height <= MAX_PIXELS:
                    return _upright(image, content)
                size = f"{image.width}x{image.height}"
    except PIL.Image.DecompressionBombError:
        size = "far more"
    except Exception as error:  # Pillow's decoders raise many types on damaged bytes
        raise InputError(
            f"{argument} must be a whole PNG or JPEG image; {str(path)!r} is not: "
            f"{first_line(error)}."
        ) from error
    raise InputError(f"{argument} must have at most {MAX_PIXELS} pixels; {str(path)!r} has {size}.")


def _upright(image: Any, content: bytes) -> bytes:
    import PIL.ImageOps

    image.load()  # a file that is cut short ends here
    if image.getexif().get(_ORIENTATION, 1) == 1:
        return content
    turned = PIL.ImageOps.exif_transpose(image)
    if turned.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        turned = turned.convert("RGB")
    written = io.BytesIO()
    turned.save(written, format="PNG")
    return written.getvalue()
