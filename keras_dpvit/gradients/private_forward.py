"""The differences between a forward pass of a private step and one of Keras."""

import contextlib
from collections.abc import Iterator
from typing import Any

from keras_dpvit.gradients.lookups import lookups_within_range
from keras_dpvit.gradients.spectral import spectra_left


@contextlib.contextmanager
def private_forward(model: Any) -> Iterator[None]:
    """Within the context, no record ends the training and no layer writes into its weights."""
    with lookups_within_range(model), spectra_left(model):
        yield
