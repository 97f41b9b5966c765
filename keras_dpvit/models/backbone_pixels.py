"""Scalings of pixels 0..255 to what networks of other packages take."""

from typing import Any

AUTO = "auto"
_MEANS, _DEVIATIONS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels 0..1

# Factor and offset, of all channels or of each.
SCALINGS: dict[str, tuple[Any, Any]] = {
    "0..255": (1.0, 0.0),
    "0..1": (1 / 255, 0.0),
    "-1..1": (1 / 127.5, -1.0),
    "imagenet": (
        [1 / (255 * deviation) for deviation in _DEVIATIONS],
        [-mean / deviation for mean, deviation in zip(_MEANS, _DEVIATIONS, strict=True)],
    ),
}
PIXELS = (AUTO, *SCALINGS)
