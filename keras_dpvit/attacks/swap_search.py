"""Better arrangements of pieces on places, where the cost is a sum over places that touch."""

import numpy as np


def total(placed: np.ndarray, costs: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The cost of arrangements.

    Args:
        placed: int64 `(..., places)`, the piece in each place.
        costs: float64 `(kinds, pieces, pieces)`, of one piece beside another.
        edges: int64 `(edges, 3)`: kind, first place, second place.

    Returns:
        float64 `(...)`.
    """
    kind, first, second = edges.T
    return np.asarray(costs[kind, placed[..., first], placed[..., second]].sum(-1))


def descend(placed: np.ndarray, costs: np.ndarray, edges: np.ndarray) -> tuple[float, np.ndarray]:
    """Swaps the two pieces whose swap helps most until none does.

    Args:
        placed: int64 `(places,)`, a permutation. Not changed.
        costs: see `total`; finite.
        edges: see `total`; no place touches itself.

    Returns:
        The cost reached, and the arrangement.
    """
    placed = placed.copy()
    kind, first, second = edges.T
    while True:
        at_first, at_second = placed[first], placed[second]
        # alone[x, k]: what place x costs with piece k in it and all others as they are.
        alone = np.zeros((len(placed), costs.shape[1]))
        np.add.at(alone, first, costs[kind, :, at_second])
        np.add.at(alone, second, costs[kind, at_first])
        swapped = alone[:, placed]
        stay = np.diag(swapped)
        change = swapped + swapped.T - stay[:, None] - stay
        # Of places that touch, each was thought to keep its neighbour.
        touching = (
            costs[kind, at_second, at_first]
            + costs[kind, at_first, at_second]
            - costs[kind, at_first, at_first]
            - costs[kind, at_second, at_second]
        )
        np.add.at(change, (first, second), touching)
        np.add.at(change, (second, first), touching)
        x, y = divmod(int(np.argmin(change)), len(placed))
        if change[x, y] >= -1e-9:
            return float(total(placed, costs, edges)), placed
        placed[[x, y]] = placed[[y, x]]
