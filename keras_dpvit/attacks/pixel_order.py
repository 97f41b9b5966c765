"""The order of shuffled pixels from ciphertexts alone: near pixels of natural images are alike.

All quadrants of all images share one shuffle, so the mean differences between two positions tell
how far apart they were.
"""

import functools

import numpy as np

from keras_dpvit.attacks import swap_search
from keras_dpvit.errors import InputError

# How the difference of two pixels grows with their distance: of all photographs alike, roughly.
_GROWTH = 1.2
_STARTS = 20


def recover_pixel_order(quadrants: np.ndarray, seed: int = 0) -> np.ndarray:
    """The pixel permutation of the ViT cipher (quadrants, joint channels).

    1. Root mean square differences between positions are matched to distances on the grid: a
       quadratic assignment, solved by FAQ from several starts.
    2. The 8 turns of the grid look alike so far, and distances are but roughly right. So each turn
       of each is refined: pixels are swapped while neighbours come closer, inside quadrants and
       across the seams between a block's quadrants, which keep their places and tell turns apart.
    3. The one with the closest neighbours is taken.

    Args:
        quadrants: uint8 `(n, blocks, 4, size, channels)`, size a square, quadrants and pixels in
            raster order.
        seed: of the random starts.

    Returns:
        int64 permutation `(size,)`: `shuffled[k] = original[permutation[k]]`.

    Raises:
        InputError: if quadrants are not squares of at least 2x2.
    """
    from scipy.optimize import quadratic_assignment

    size = quadrants.shape[3]
    side = round(size**0.5)
    if side * side != size or side < 2:
        raise InputError(f"quadrants must be squares of at least 2x2 pixels, got {size} pixels.")
    costs = _costs(quadrants)
    differences = _root_mean_square(quadrants)
    template = _template(side)
    generator = np.random.default_rng(seed)
    best: tuple[float, np.ndarray] | None = None
    for start in range(_STARTS):
        options = {"maximize": True, "rng": generator}
        if start:
            options["P0"] = "randomized"
        found = quadratic_assignment(differences, template, method="faq", options=options)
        for turn in _turns(side):
            # Which shuffled position lies at each place of the grid.
            refined = _refine(np.argsort(turn[found.col_ind]), costs, side)
            if best is None or refined[0] < best[0]:
                best = refined
    assert best is not None
    return np.argsort(best[1])


def _root_mean_square(quadrants: np.ndarray) -> np.ndarray:
    """Between all pairs of positions, over quadrants and channels; mean 1."""
    from scipy.spatial.distance import cdist

    rows = _rows(quadrants)
    differences = cdist(rows, rows)
    return differences / max(float(differences.mean()), 1e-12)


def _rows(quadrants: np.ndarray) -> np.ndarray:
    """One row for each position: float64 `(size, all the rest)`."""
    moved = np.moveaxis(quadrants, 3, 0)
    return moved.reshape(len(moved), -1).astype(np.float64)


def _template(side: int) -> np.ndarray:
    """The expected differences between places of the grid; mean 1."""
    y, x = np.divmod(np.arange(side * side), side)
    distance = np.hypot(y[:, None] - y, x[:, None] - x) ** _GROWTH
    return distance / distance.mean()


def _costs(quadrants: np.ndarray) -> np.ndarray:
    """Mean absolute differences of positions: in a quadrant, and across its two kinds of seams.

    Returns:
        float64 `(3, size, size)`: inside; left against right quadrant; upper against lower one.
    """
    from scipy.spatial.distance import cdist

    pairs = [((0, 1, 2, 3), (0, 1, 2, 3)), ((0, 2), (1, 3)), ((0, 1), (2, 3))]
    tables = []
    for first, second in pairs:
        rows = [_rows(quadrants[:, :, list(which)]) for which in (first, second)]
        tables.append(cdist(*rows, "cityblock") / rows[0].shape[1])
    return np.stack(tables)


@functools.lru_cache
def _edges(side: int) -> np.ndarray:
    """Places of the grid that touch, inside (0), over the seam to the right (1), or below (2).

    Returns:
        int64 `(edges, 3)`: kind, place, place.
    """
    grid = np.arange(side * side).reshape(side, side)
    pairs = [
        (0, grid[:, :-1], grid[:, 1:]),
        (0, grid[:-1], grid[1:]),
        (1, grid[:, -1], grid[:, 0]),
        (2, grid[-1], grid[0]),
    ]
    return np.concatenate(
        [
            np.stack([np.full(a.size, kind), a.reshape(-1), b.reshape(-1)], axis=1)
            for kind, a, b in pairs
        ]
    )


def _turns(side: int) -> list[np.ndarray]:
    """The rotations and flips of the grid, as permutations of its places."""
    grid = np.arange(side * side).reshape(side, side)
    turned = [np.rot90(g, k) for g in (grid, grid[:, ::-1]) for k in range(4)]
    return [t.reshape(-1) for t in turned]


def _refine(placed: np.ndarray, costs: np.ndarray, side: int) -> tuple[float, np.ndarray]:
    """The sum over touching places after the swaps that help, and the arrangement."""
    return swap_search.descend(placed, costs, _edges(side))
