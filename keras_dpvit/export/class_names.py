"""A model's classes and a data set's, matched by their names."""

from collections.abc import Sequence

import numpy as np

from keras_dpvit.datasets.image_files import shown
from keras_dpvit.errors import InputError


def match_classes(
    labels: np.ndarray, names: Sequence[str], model_names: Sequence[str], dataset: str
) -> np.ndarray:
    """A data set's labels as the model numbers its classes.

    The data may have its classes in another order, or not all of the model's.

    Args:
        labels: int `(records,)`, numbers of `names`.
        names: the data set's classes.
        model_names: the model's.
        dataset: the data set's name, for messages.

    Returns:
        int64 `(records,)`, numbers of `model_names`.

    Raises:
        InputError: if the data has a class that the model does not know.
    """
    unknown = [name for name in names if name not in model_names]
    if unknown:
        raise InputError(
            f"the model must know all classes of {dataset}: it has "
            f"{', '.join(map(shown, model_names))}, and not {', '.join(map(shown, unknown[:5]))}. "
            "--by_number takes the classes as equal in their order."
        )
    numbers = np.array([list(model_names).index(name) for name in names], "int64")
    return np.asarray(numbers[labels])
