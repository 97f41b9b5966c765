"""Made-up images of shapes: something to learn features from that has no record behind it."""

import dataclasses

import numpy as np

from keras_dpvit import _validate
from keras_dpvit._types import Array
from keras_dpvit.errors import InputError

TEXTURES = ("plain", "rows", "columns", "checks", "blotches")

_MOST_PARTS = 6
_CANVAS = 1.7  # half the side of the square on which a new family is measured


@dataclasses.dataclass(frozen=True)
class ShapeImages:
    """Images of families of shapes, from `synthetic_shapes`.

    Attributes:
        images: uint8 `(n, height, width, channels)`.
        families: int32 `(n,)`, which family of shapes an image shows.
        textures: int32 `(n,)`, an index into `TEXTURES`.
    """

    images: Array
    families: Array
    textures: Array


def synthetic_shapes(
    num_families: int,
    per_family: int,
    image_shape: tuple[int, int, int],
    seed: int = 0,
    first_instance: int = 0,
) -> ShapeImages:
    """Draws families of shapes and several instances of each, from a seed alone.

    A family is one to six super-ellipses and trapezoids, mostly mirror-symmetric, fitted to the
    frame. An instance jitters their parameters, bends and turns the whole, and draws its own
    texture, shading, outline and brightness. Grey images lie on black; colour images also on other
    grounds. No data set, picture or file enters, so whatever is learned here tells of nobody.

    Args:
        num_families: int.
        per_family: int, instances of each.
        image_shape: (height, width, channels), 1 or 3 channels.
        seed: int; the same seed gives the same families and instances.
        first_instance: int, the number of the first instance: others than those before it are
            drawn from the same families, to test what was learned.

    Returns:
        The images, the instances of a family one after another.

    Raises:
        InputError: on numbers out of range.

    Example:
        >>> shapes = kd.datasets.synthetic_shapes(3, 2, (28, 28, 1))
        >>> shapes.images.shape, shapes.families.tolist()
        ((6, 28, 28, 1), [0, 0, 1, 1, 2, 2])
    """
    num_families = _validate.positive_int(num_families=num_families)
    per_family = _validate.positive_int(per_family=per_family)
    height, width, channels = (_validate.positive_int(image_shape=side) for side in image_shape)
    if channels not in (1, 3):
        raise InputError(f"image_shape must have 1 or 3 channels, got {channels}.")
    images = np.empty((num_families, per_family, height, width, channels), "uint8")
    textures = np.empty((num_families, per_family), "int32")
    for index in range(num_families):
        family = _Family(np.random.default_rng((seed, index)))
        rng = np.random.default_rng((seed, index, first_instance + 1))
        drawn, textures[index] = _draw(family, rng, per_family, (height, width), channels)
        images[index] = np.round(drawn * 255)
    families = np.repeat(np.arange(num_families, dtype="int32"), per_family)
    return ShapeImages(images.reshape(-1, height, width, channels), families, textures.reshape(-1))


class _Family:
    """Parameters of a family's parts, each an array with one number a part.

    Coordinates run from -1 to 1 across the frame, downwards and to the right. A part is the set
    `|u / (a (1 + taper v / b))|^p + |v / b|^p <= 1` in its own turned coordinates.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        count = int(rng.integers(1, _MOST_PARTS + 1))
        symmetric = rng.random() < 0.85
        sharp = rng.random(count) < 0.5  # a trapezoid rather than a super-ellipse
        on_axis = (np.arange(count) == 0) | (symmetric & (rng.random(count) < 0.4))
        side = rng.uniform(0.1, 0.65, count) * (1 if symmetric else rng.choice([-1, 1], count))
        x = np.where(on_axis, 0.0, side)
        y = rng.uniform(-0.8, 0.8, count) * (np.arange(count) > 0)
        half_width = np.exp(rng.uniform(np.log(0.08), np.log(0.6), count))
        half_height = np.exp(rng.uniform(np.log(0.08), np.log(0.8), count))
        taper = rng.uniform(-0.7, 0.7, count) * np.where(sharp, 1.0, 0.4)
        power = np.where(sharp, 9.0, rng.uniform(1.2, 4.0, count))
        angle = np.where(on_axis & symmetric, 0.0, rng.uniform(-1.0, 1.0, count))
        tone = rng.uniform(0.3, 1.0, count)
        tone[1:][rng.random(count - 1) < 0.2] = 0.0  # holes
        parts = np.stack([x, y, half_width, half_height, taper, power, angle, tone])
        order = np.arange(count)
        if symmetric:
            twins = ~on_axis
            mirrored = parts[:, twins] * np.array([-1, 1, 1, 1, 1, 1, -1, 1])[:, None]
            parts = np.concatenate([parts, mirrored], axis=1)
            order = np.concatenate([order, order[twins]])
        parts = parts[:, np.argsort(order, kind="stable")]
        self.parts = parts
        self.tint = rng.uniform(0.2, 1.0, (parts.shape[1], 3))
        self.centre, self.scale = self._frame(rng)

    def _frame(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """The middle of the shape and its half sides, so that it fills most of the frame."""
        lines = np.linspace(-_CANVAS, _CANVAS, 64, dtype="float32")
        x, y = np.meshgrid(lines, lines)
        covered = np.zeros(x.shape, bool)
        for part in self.parts.T[self.parts[7] > 0]:  # holes show nothing
            covered |= _inside(part[:, None, None], x, y, 0.02)[0] > 0.5
        if not covered.any():
            covered[...] = True
        ends = [lines[np.flatnonzero(covered.any(axis))[[0, -1]]] for axis in (0, 1)]
        centre = np.array([e.mean() for e in ends])
        half = np.array([max((e[1] - e[0]) / 2, 0.05) for e in ends])
        if rng.random() < 0.7:  # keeps its proportions, more or less
            half = np.maximum(half, half.max() * rng.uniform(0.5, 1.0))
        return centre, half / 0.92


def _draw(
    family: _Family,
    rng: np.random.Generator,
    count: int,
    size: tuple[int, int],
    channels: int,
) -> tuple[Array, Array]:
    """Instances of a family: float `(count, height, width, channels)` in 0..1, and textures."""
    x, y = _bent_coordinates(rng, count, size)
    pixel = 2 / max(size)
    across, down = x * family.scale[0] + family.centre[0], y * family.scale[1] + family.centre[1]
    softness = pixel * family.scale.mean() * 0.6
    ground = _ground(rng, count, size, channels)
    image, union = ground, np.zeros_like(x)
    outlined = (rng.random(count) < 0.5) * rng.uniform(0.2, 0.9, count)
    for part, tint in zip(family.parts.T, family.tint, strict=True):
        jittered = _jitter(part, rng, count)
        mask = _inside(jittered, across, down, softness)
        paint = jittered[7][..., None] * _tint(tint, rng, count, channels)
        if part[7] == 0:
            paint = ground
        edge = 4 * mask * (1 - mask) * _of_instances(outlined)
        image = image + (paint - image) * mask[..., None]
        image = image * (1 - edge)[..., None]
        union = np.maximum(union, mask)
    textures = rng.integers(0, len(TEXTURES), count)
    shaded = _texture(rng, textures, x, y) * _shading(rng, x, y)
    image = ground + (image * shaded[..., None] - ground) * union[..., None]
    gamma = np.exp(rng.normal(0, 0.35, count))
    bright = rng.uniform(0.6, 1.0, count)
    image = np.clip(image, 0, 1) ** _of_instances(gamma)[..., None]
    return np.clip(image * _of_instances(bright)[..., None], 0, 1), textures


def _inside(part: Array, x: Array, y: Array, softness: float) -> Array:
    """About 1 inside of a part and 0 outside, with an edge as wide as a pixel."""
    cx, cy, half_width, half_height, taper, power, angle, _ = part
    cosine, sine = np.cos(angle), np.sin(angle)
    u = (x - cx) * cosine + (y - cy) * sine
    v = ((y - cy) * cosine - (x - cx) * sine) / half_height
    u = u / (half_width * np.maximum(1 + taper * np.clip(v, -1, 1), 0.05))
    u, v = np.minimum(np.abs(u), 9.0), np.minimum(np.abs(v), 9.0)
    radius = (u**power + v**power) ** (1 / power)
    distance = (1 - radius) * np.minimum(half_width, half_height)
    mask: Array = 1 / (1 + np.exp(-np.clip(distance / softness * 2, -30, 30)))
    return mask if mask.ndim == 3 else mask[None]


def _jitter(part: Array, rng: np.random.Generator, count: int) -> Array:
    """A part's parameters for each instance, `(8, count, 1, 1)`."""
    noise = rng.normal(size=(8, count)).astype("float32")
    values = np.repeat(part[:, None], count, axis=1).astype("float32")
    values[:2] += 0.03 * noise[:2]
    values[2:4] *= np.exp(0.12 * noise[2:4])
    values[4] = np.clip(values[4] + 0.06 * noise[4], -0.9, 0.9)
    values[6] += 0.07 * noise[6]
    values[7] = np.minimum(values[7] * np.exp(0.15 * noise[7]), 1.0)
    return values[..., None, None]


def _bent_coordinates(
    rng: np.random.Generator, count: int, size: tuple[int, int]
) -> tuple[Array, Array]:
    """Coordinates `(count, height, width)` after a turn, stretch, shear, shift and slow waves."""
    lines = [(np.arange(side, dtype="float32") + 0.5) / side * 2 - 1 for side in size]
    y, x = np.meshgrid(*lines, indexing="ij")
    angle, shear = rng.normal(0, 0.06, (2, count, 1, 1)).astype("float32")
    stretch = np.exp(rng.normal(0, 0.07, (2, count, 1, 1))).astype("float32")
    shift = rng.normal(0, 0.04, (2, count, 1, 1)).astype("float32")
    turned_x = stretch[0] * (x * np.cos(angle) + y * (np.sin(angle) + shear)) + shift[0]
    turned_y = stretch[1] * (y * np.cos(angle) - x * np.sin(angle)) + shift[1]
    wave = rng.normal(0, 1.5, (2, 2, count, 1, 1)).astype("float32")
    phase = rng.uniform(0, 2 * np.pi, (2, count, 1, 1)).astype("float32")
    height = np.abs(rng.normal(0, 0.04, (2, count, 1, 1))).astype("float32")
    bent_x = turned_x + height[0] * np.sin(wave[0, 0] * x + wave[0, 1] * y + phase[0])
    bent_y = turned_y + height[1] * np.sin(wave[1, 0] * x + wave[1, 1] * y + phase[1])
    return bent_x, bent_y


def _ground(rng: np.random.Generator, count: int, size: tuple[int, int], channels: int) -> Array:
    """The ground that shapes lie on: black under grey ones, else black, white or a slope."""
    if channels == 1:
        return np.zeros((count, *size, 1), "float32")
    lines = [np.linspace(-1, 1, side, dtype="float32") for side in size]
    y, x = np.meshgrid(*lines, indexing="ij")
    slope = rng.normal(0, 0.2, (2, count, 1, 1, channels)).astype("float32")
    colour = rng.uniform(0, 1, (count, 1, 1, channels)).astype("float32")
    kind = rng.random((count, 1, 1, 1))
    sloped = np.clip(colour + slope[0] * x[..., None] + slope[1] * y[..., None], 0, 1)
    plain: Array = np.where(kind < 0.75, np.float32(0), np.float32(1))
    return np.where(kind < 0.5, sloped, plain).astype("float32")


def _tint(tint: Array, rng: np.random.Generator, count: int, channels: int) -> Array:
    """Colours of a part, `(count, 1, 1, channels)`: its family's, an instance's own, or grey."""
    if channels == 1:
        return np.ones((count, 1, 1, 1), "float32")
    kind = rng.random((count, 1))
    own = rng.uniform(0.2, 1.0, (count, channels))
    colours = np.where(kind < 0.35, 1.0, np.where(kind < 0.7, tint, own))
    return colours[:, None, None].astype("float32")


def _texture(rng: np.random.Generator, kinds: Array, x: Array, y: Array) -> Array:
    """Factors `(count, height, width)` by which a pattern darkens."""
    count = len(kinds)

    def draw(low: float, high: float) -> Array:
        return rng.uniform(low, high, (count, 1, 1)).astype("float32")

    rows = np.sin(draw(6, 24) * y + draw(0, 6.3)) > draw(-0.5, 0.5)
    columns = np.sin(draw(6, 24) * x + draw(0, 6.3)) > draw(-0.5, 0.5)
    blotches = np.sin(draw(4, 12) * x + draw(-9, 9) * y) + np.sin(draw(-9, 9) * x + draw(4, 12) * y)
    patterns = [np.zeros_like(x), rows, columns, rows ^ columns, blotches > draw(-0.5, 0.8)]
    chosen = np.choose(kinds[:, None, None], patterns)
    factors: Array = 1 - draw(0.15, 0.7) * chosen
    return factors


def _shading(rng: np.random.Generator, x: Array, y: Array) -> Array:
    slope = rng.normal(0, 0.15, (2, len(x), 1, 1)).astype("float32")
    factors: Array = np.clip(1 + slope[0] * x + slope[1] * y, 0.3, 1.5)
    return factors


def _of_instances(values: Array) -> Array:
    return values[:, None, None]
