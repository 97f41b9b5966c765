"""Tokens as places in an image."""

import numpy as np


def centres(footprints: np.ndarray) -> np.ndarray:
    """Centres of tokens: the centres of mass of the patches they were pooled from.

    Args:
        footprints: float `(tokens, rows, columns)`, see `DPViTBackbone.token_footprints`.

    Returns:
        float `(tokens, 2)`, column and row in patches.
    """
    across = footprints.sum(axis=1) @ np.arange(footprints.shape[2])
    down = footprints.sum(axis=2) @ np.arange(footprints.shape[1])
    return np.stack([across, down], axis=1)
