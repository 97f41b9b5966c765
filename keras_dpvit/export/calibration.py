"""Made-up images with which the activation ranges of an int8 file can be found.

Quantisation writes into the file, for each activation, the least and the greatest value seen on the
calibration images. Taken from private images, these numbers would be statistics of the records that
no noise covers and no ledger counts. These images are drawn from formulas and a seed alone, so the
ranges found on them are post-processing of the released weights and cost nothing.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_dpvit import _validate
from keras_dpvit.errors import InputError

# A place in the image: x and y in 0..1, each (height, width).
_Plane = tuple[np.ndarray, np.ndarray]


def synthetic_images(image_shape: Any, n: int = 300, seed: int = 0) -> np.ndarray:
    """Images of shapes, strokes, gradients and smooth textures; no data in them.

    They vary as pictures do in what the ranges of a vision transformer depend on: the share of
    the image that an object takes, contrast, brightness, edges and texture. About half of them
    have a plain dark background, as MNIST's family has.

    Args:
        image_shape: (height, width, channels).
        n: int, how many.
        seed: int, the same seed gives the same images.

    Returns:
        uint8 `(n, height, width, channels)`, pixels 0..255.

    Raises:
        InputError: if the shape is not three whole numbers above 0, or `n` is not above 0.
    """
    shape = tuple(image_shape) if isinstance(image_shape, (list, tuple)) else ()
    if len(shape) != 3:
        raise InputError(f"image_shape must be (height, width, channels), got {image_shape!r}.")
    height, width, channels = (_validate.positive_int(image_shape=side) for side in shape)
    _validate.positive_int(n=n)
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(
        (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij"
    )
    return np.stack([_picture(rng, (x, y), channels) for _ in range(n)])


def extreme_images(image_shape: tuple[int, int, int]) -> np.ndarray:
    """Four images that set the ends of ranges: a black and a white half, side by side or stacked.

    No image has a greater spread of its pixels. Where calibration images have less contrast than
    those met later, the deviation that pixels are divided by would be cut off. They also make the
    scale of a uint8 input exactly one gray level.
    """
    height, width, channels = image_shape
    upper, left = np.zeros((2, height, width, channels), np.uint8)
    upper[: (height + 1) // 2] = 255
    left[:, : (width + 1) // 2] = 255
    return np.stack([upper, left, 255 - upper, 255 - left])


def _picture(rng: np.random.Generator, plane: _Plane, channels: int) -> np.ndarray:
    plain = rng.random() < 0.5
    canvas = np.zeros((*plane[0].shape, channels))
    canvas += rng.random() * 0.1 if plain else _paint(rng, plane, channels)
    for _ in range(rng.integers(1, 6)):
        cover = _shape(rng, plane)[..., None]
        canvas = canvas * (1 - cover) + cover * _paint(rng, plane, channels)
    if plain and rng.random() < 0.1:
        canvas = 1 - canvas
    if not plain:  # haze, dusk and glare
        contrast = rng.uniform(0.2, 1)
        canvas = rng.uniform(0, 1 - contrast) + contrast * canvas
    canvas += rng.normal(0, rng.choice([0.0, 0.01, 0.03]), canvas.shape) * (canvas > 0)
    return np.rint(255 * np.clip(canvas, 0, 1)).astype(np.uint8)


def _paint(rng: np.random.Generator, plane: _Plane, channels: int) -> np.ndarray:
    """Brightness of each pixel and channel: even, a gradient, or a texture."""
    color = rng.random() * 0.7 + rng.random(channels) * 0.3
    kind = rng.integers(3)
    if kind == 0:
        return np.broadcast_to(color, (*plane[0].shape, channels))
    if kind == 1:
        along, level = _rotated(rng, plane)[0], rng.random()
        return color * np.clip(level + (1 - level) * (along + 0.5), 0, 1)[..., None]
    return color * _texture(rng, plane)[..., None]


def _texture(rng: np.random.Generator, plane: _Plane) -> np.ndarray:
    """A sum of a few waves of random direction, in 0..1."""
    total = np.zeros(plane[0].shape)
    for _ in range(4):
        frequency = 2 ** rng.uniform(0, 4)
        total += np.sin(2 * np.pi * (frequency * _rotated(rng, plane)[0] + rng.random()))
    return 0.5 + total / 8


def _rotated(rng: np.random.Generator, plane: _Plane) -> _Plane:
    """Coordinates about a random centre in a random direction."""
    angle, centre = rng.uniform(0, np.pi), rng.normal(0.5, 0.15, 2)
    x, y = plane[0] - centre[0], plane[1] - centre[1]
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


def _shape(rng: np.random.Generator, plane: _Plane) -> np.ndarray:
    """The share of each pixel that a random shape covers, in 0..1."""
    shapes: list[Callable[..., np.ndarray]] = [_ellipse, _box, _stroke, _ring]
    distance = shapes[rng.integers(len(shapes))](rng, *_rotated(rng, plane))
    edge = 1 / max(plane[0].shape)
    return np.clip(0.5 - distance / edge, 0, 1)


def _ellipse(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    a, b = rng.uniform(0.08, 0.45, 2)
    return (np.hypot(x / a, y / b) - 1) * min(a, b)


def _box(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    a, b = rng.uniform(0.06, 0.45, 2)
    return np.maximum(np.abs(x) - a, np.abs(y) - b)


def _stroke(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    length, thickness = rng.uniform(0.1, 0.5), rng.uniform(0.02, 0.08)
    bend = rng.normal(0, 1.0)
    return np.hypot(np.maximum(np.abs(x) - length, 0), y - bend * x**2) - thickness


def _ring(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - rng.uniform(0.1, 0.4)) - rng.uniform(0.02, 0.08)
