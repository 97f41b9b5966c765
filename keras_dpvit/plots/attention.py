"""Maps of what a model's tokens attend to, over the images, and what its gates have learned."""

import os
from typing import Any

import numpy as np

from keras_dpvit.errors import InputError
from keras_dpvit.layers.attention import ThresholdAttention
from keras_dpvit.models.description import layers_in_order
from keras_dpvit.plots.attention_sheet import CELL, GAP, GROUP_GAP, MARGIN, Column, Sheet
from keras_dpvit.plots.tokens import centres

# The most heads shown one by one; beyond that their mean is shown.
_MOST_COLUMNS = 8
_MOST_BLOCKS = 6
_MOST_IMAGES = 24

_CHARACTER = 0.066  # inches, of a label


def plot_attention_maps(
    model: Any, images: Any, path: str | os.PathLike[str], **options: Any
) -> None:
    """Draws attention maps of a model into a file.

    Args:
        model: a `DPViTClassifier` or a `DPViTBackbone`.
        images: `(images, height, width, channels)`, pixels 0..255. Not private ones: what a map
            shows of an image is not covered by epsilon.
        path: of the picture; the ending says the format (".png").
        **options: as in `attention_figure`.

    Raises:
        InputError: as `attention_figure`.
    """
    attention_figure(model, images, **options).savefig(path, dpi=150)


def attention_figure(
    model: Any, images: Any, labels: list[str] | None = None, query: Any = None
) -> Any:
    """Maps of what one token attends to, of what all attend to on average, and of places.

    A row for each image: in each block the query token's attention by head (the mean over heads
    where there are many), then the mean over all queries and heads. A token's weight is shared
    among the patches that it was pooled from. Below, for threshold attention, what the heads
    attend to by place alone and the share of place in each, at the start and now. Of more
    than six blocks the first of each stage and the last of all are shown.

    Args:
        model: a `DPViTClassifier` or a `DPViTBackbone`.
        images: `(images, height, width, channels)`, pixels 0..255, at most 24.
        labels: words beside each image; lines are parted by a line break.
        query: (row, column) of a patch, whose nearest token in each block is the query; None takes
            the centre of the image.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        InputError: on another model, images that are not the model's, labels of another number,
            or a query outside the image.
    """
    layers_in_order(model)  # refuses other models
    images = _checked_images(model, images)
    if labels is not None and len(labels) != len(images):
        raise InputError(f"labels must be one for each of {len(images)} images, got {len(labels)}.")
    footprints = model.token_footprints()
    blocks = _shown_blocks(model)
    place = _query_place(query, next(iter(footprints.values())).shape[1:])
    longest = max((len(line) for label in labels or [] for line in label.splitlines()), default=0)
    left = MARGIN + (0.12 + _CHARACTER * longest if longest else 0.0)
    by_head, means = _columns(blocks, footprints, place, left + CELL + GROUP_GAP)
    return Sheet(images, labels, model.attention_maps(images), by_head, means).draw()


def _checked_images(model: Any, images: Any) -> np.ndarray:
    images, shape = np.asarray(images), tuple(model.input_shape[1:])
    if images.shape[1:] != shape or not 1 <= len(images) <= _MOST_IMAGES:
        raise InputError(
            f"images must be 1..{_MOST_IMAGES} of {'x'.join(map(str, shape))}, "
            f"got shape {images.shape}."
        )
    return images


def _shown_blocks(model: Any) -> list[Any]:
    blocks: list[Any] = getattr(model, "backbone", model).blocks
    if len(blocks) <= _MOST_BLOCKS:
        return blocks
    local = [block for block in blocks if isinstance(block.attention, ThresholdAttention)]
    return local if local[-1] is blocks[-1] else [*local, blocks[-1]]


def _query_place(query: Any, grid: tuple[int, ...]) -> np.ndarray:
    """Column and row of the query in patches."""
    if query is None:
        return np.array([(grid[1] - 1) / 2, (grid[0] - 1) / 2])
    row, column = query
    if not (0 <= row < grid[0] and 0 <= column < grid[1]):
        raise InputError(
            f"query must be (row, column) within {grid[0]} x {grid[1]} patches, got {query}."
        )
    return np.array([column, row], dtype=float)


def _columns(
    blocks: list[Any], footprints: dict[str, np.ndarray], place: np.ndarray, x: float
) -> tuple[list[Column], list[Column]]:
    """Columns of single heads (or their means) at the query, and of means over queries."""
    by_head, means = [], []
    single = sum(block.attention.num_heads for block in blocks) <= _MOST_COLUMNS
    for block in blocks:
        tokens = footprints[block.name]
        query = int(np.argmin(np.sum((centres(tokens) - place) ** 2, axis=1)))
        heads: list[int | None] = list(range(block.attention.num_heads)) if single else [None]
        for head in heads:
            by_head.append(Column(block, tokens, query, head, x))
            x += CELL + GAP
        x += GROUP_GAP - GAP if single else 0.0
    x += 0.0 if single else GROUP_GAP
    for block in blocks:
        means.append(Column(block, footprints[block.name], 0, None, x))
        x += CELL + GAP
    return by_head, means
