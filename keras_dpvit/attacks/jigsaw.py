"""Putting shuffled blocks back in their places by how well their borders fit."""

import functools

import numpy as np

from keras_dpvit.attacks import swap_search

_RIGHT, _BELOW = 0, 1

# Where a border counts as badly fitting, in second bests; and what no piece beside itself costs.
_HIGHEST_RATIO = 2.0
_NEVER = 1e3

# Larger frames have too many rectangles to try each. Images that fit nowhere would take long.
_SHIFTED_PIECES = 256
_SHIFT_ROUNDS = 25


def solve(pieces: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The right place of every piece of one or several images, all shuffled alike.

    For every image, differences across a border are divided by how well the two borders fit
    elsewhere, so that each image counts where it tells most; these ratios are summed over the
    images. The best fitting pairs are joined first, unless groups of pieces would overlap or
    outgrow the frame. What is left over fills holes. Then pieces are swapped, and rectangles of
    them shifted, while that lowers the sum of all ratios; there a single ratio counts 2 at most,
    because a border at the edge of an object fits nowhere.

    Args:
        pieces: uint8 `(n, pieces, side, side, channels)`, upright.
        rows: int, of the frame.
        columns: int; rows x columns = pieces.

    Returns:
        int64 `(pieces,)`: the piece in each place, in raster order.

    Source: Gallagher, "Jigsaw puzzles with pieces of unknown orientation", CVPR 2012, of which this
    is the part for known orientation, with the swaps and shifts added.
    """
    ratios, capped = np.zeros((2, 2, pieces.shape[1], pieces.shape[1]))
    for image in pieces:
        told = np.stack([_relative(cost) for cost in border_costs(image)])
        ratios += told
        capped += np.minimum(told, _HIGHEST_RATIO)
    group = _largest_group(_join(ratios, rows, columns))
    frame = _fill(_frame(group, rows, columns), ratios)
    return _improved(frame, np.where(np.isfinite(ratios), capped, _NEVER))


def border_costs(pieces: np.ndarray) -> np.ndarray:
    """Mean absolute differences where pieces meet, each continued by half a pixel.

    Args:
        pieces: uint8 `(pieces, side, side, channels)` of one image.

    Returns:
        float64 `(2, pieces, pieces)`: j to the right of i, and j below i; infinite for i = j.
    """
    from scipy.spatial.distance import cdist

    count = len(pieces)
    values = pieces.astype(np.float64)
    costs = []
    for way in (values, values.swapaxes(1, 2)):
        ends = 1.5 * way[:, :, -1] - 0.5 * way[:, :, -2]
        starts = 1.5 * way[:, :, 0] - 0.5 * way[:, :, 1]
        ends, starts = ends.reshape(count, -1), starts.reshape(count, -1)
        costs.append(cdist(ends, starts, "cityblock") / ends.shape[1])
    table = np.stack(costs)
    table[:, np.arange(count), np.arange(count)] = np.inf
    return table


def _relative(cost: np.ndarray) -> np.ndarray:
    """Costs over the second best of their row and column: below 1 for a clear best."""
    if len(cost) < 3:
        return cost
    of_row = np.partition(cost, 1, axis=1)[:, 1]
    of_column = np.partition(cost, 1, axis=0)[1]
    return (cost + 1e-6) / (np.sqrt(of_row[:, None] * of_column[None]) + 1e-6)


def _join(ratios: np.ndarray, rows: int, columns: int) -> list[dict[int, tuple[int, int]]]:
    """Kruskal's algorithm over pairs of borders; groups of pieces with their (row, column)."""
    count = ratios.shape[1]
    groups: list[dict[int, tuple[int, int]]] = [{i: (0, 0)} for i in range(count)]
    member = np.arange(count)
    order = np.argsort(ratios, axis=None, kind="stable")[: 2 * count * (count - 1)]
    way, first, second = np.unravel_index(order, ratios.shape)
    joined = 1
    for direction, i, j in zip(way.tolist(), first.tolist(), second.tolist(), strict=True):
        if member[i] == member[j]:
            continue
        moved = _shifted(groups[member[i]], groups[member[j]], i, j, direction)
        if not _fits(groups[member[i]], moved, rows, columns):
            continue
        old = member[j]
        groups[member[i]].update(moved)
        groups[old] = {}
        member[list(moved)] = member[i]
        joined += 1
        if joined == count:
            break
    return groups


def _shifted(
    fixed: dict[int, tuple[int, int]],
    moving: dict[int, tuple[int, int]],
    i: int,
    j: int,
    direction: int,
) -> dict[int, tuple[int, int]]:
    """The moving group with its piece j beside or below piece i of the fixed one."""
    down = fixed[i][0] + (direction == _BELOW) - moving[j][0]
    right = fixed[i][1] + (direction == _RIGHT) - moving[j][1]
    return {piece: (y + down, x + right) for piece, (y, x) in moving.items()}


def _fits(
    fixed: dict[int, tuple[int, int]], moved: dict[int, tuple[int, int]], rows: int, columns: int
) -> bool:
    taken = set(fixed.values())
    if not taken.isdisjoint(moved.values()):
        return False
    ys, xs = zip(*taken, *moved.values(), strict=True)
    return max(ys) - min(ys) < rows and max(xs) - min(xs) < columns


def _largest_group(groups: list[dict[int, tuple[int, int]]]) -> dict[int, tuple[int, int]]:
    return max(groups, key=len)


def _frame(group: dict[int, tuple[int, int]], rows: int, columns: int) -> np.ndarray:
    """The group in the frame's corner nearest to its own; -1 where there is no piece."""
    frame = np.full((rows, columns), -1, np.int64)
    top = min(y for y, _ in group.values())
    left = min(x for _, x in group.values())
    for piece, (y, x) in group.items():
        frame[y - top, x - left] = piece
    return frame


def _fill(frame: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """Puts, one by one, the left-over piece that fits best into a hole with most neighbours."""
    left = np.setdiff1d(np.arange(frame.size), frame)
    while len(left):
        best: tuple[int, float, int, int, int] | None = None
        for y, x in np.argwhere(frame < 0).tolist():
            fits = _fits_at(frame, ratios, y, x, left)
            if fits is None:
                continue
            number, values = fits
            k = int(np.argmin(values))
            told = (-number, float(values[k]), y, x, k)
            best = told if best is None else min(best, told)
        assert best is not None  # the largest group is never empty, so some hole has a neighbour
        _, _, y, x, k = best
        frame[y, x] = left[k]
        left = np.delete(left, k)
    return frame


def _fits_at(
    frame: np.ndarray, ratios: np.ndarray, y: int, x: int, left: np.ndarray
) -> tuple[int, np.ndarray] | None:
    """The number of neighbours of a hole, and the mean ratio with them of each piece left over."""
    rows, columns = frame.shape
    values = []
    if x > 0 and frame[y, x - 1] >= 0:
        values.append(ratios[_RIGHT][frame[y, x - 1], left])
    if x + 1 < columns and frame[y, x + 1] >= 0:
        values.append(ratios[_RIGHT][left, frame[y, x + 1]])
    if y > 0 and frame[y - 1, x] >= 0:
        values.append(ratios[_BELOW][frame[y - 1, x], left])
    if y + 1 < rows and frame[y + 1, x] >= 0:
        values.append(ratios[_BELOW][left, frame[y + 1, x]])
    if not values:
        return None
    return len(values), np.mean(values, axis=0)


def _improved(frame: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """The pieces in raster order after the swaps and shifts that help."""
    edges = _edges(*frame.shape)
    best, placed = swap_search.descend(frame.reshape(-1), costs, edges)
    for _ in range(_SHIFT_ROUNDS if 1 < frame.size <= _SHIFTED_PIECES else 0):
        shifts = _shifts(*frame.shape)
        values = [
            swap_search.total(placed[part], costs, edges) for part in np.array_split(shifts, 8)
        ]
        first = int(np.argmin(np.concatenate(values)))
        value, moved = swap_search.descend(placed[shifts[first]], costs, edges)
        if value >= best - 1e-9:
            break
        best, placed = value, moved
    return placed


@functools.lru_cache(maxsize=2)
def _edges(rows: int, columns: int) -> np.ndarray:
    """Pairs of places that touch: int64 `(edges, 3)`, direction and two places."""
    grid = np.arange(rows * columns).reshape(rows, columns)
    pairs = [(_RIGHT, grid[:, :-1], grid[:, 1:]), (_BELOW, grid[:-1], grid[1:])]
    return np.concatenate(
        [
            np.stack([np.full(a.size, way), a.reshape(-1), b.reshape(-1)], axis=1)
            for way, a, b in pairs
        ]
    )


@functools.lru_cache(maxsize=2)
def _shifts(rows: int, columns: int) -> np.ndarray:
    """Every rectangle shifted by one place, what leaves it coming in at its other end.

    Returns:
        int16 `(shifts, places)`: which place's piece comes where.
    """
    grid = np.arange(rows * columns, dtype=np.int16).reshape(rows, columns)
    shifted = {}
    for top, left in np.ndindex(rows, columns):
        for bottom in range(top + 1, rows + 1):
            for right in range(left + 1, columns + 1):
                inside = grid[top:bottom, left:right]
                for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
                    if inside.shape[axis] > 1:
                        moved = grid.copy()
                        moved[top:bottom, left:right] = np.roll(inside, step, axis)
                        shifted[moved.tobytes()] = moved.reshape(-1)
    return np.stack(list(shifted.values()))
