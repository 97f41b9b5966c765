"""Pixels as addresses that a page holds in itself."""

import base64
import io
from typing import Any

import numpy as np

_LARGEST_SIDE = 192


def image_address(image: np.ndarray) -> str:
    """A PNG `data:` address of an image uint8 `(height, width, 1 or 3)`; a large one is reduced."""
    import PIL.Image

    picture = PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    return _address(picture)


def figure_address(figure: Any, dpi: int) -> tuple[str, tuple[int, int]]:
    """A PNG `data:` address of a matplotlib figure, and its width and height in pixels.

    The picture is reduced to 256 colours, which makes it a third of the size.
    """
    import PIL.Image

    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    picture = PIL.Image.open(content).convert("RGB")
    picture = picture.quantize(256, dither=PIL.Image.Dither.NONE)
    return _address(picture), picture.size


def _address(picture: Any) -> str:
    content = io.BytesIO()
    picture.save(content, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode("ascii")
