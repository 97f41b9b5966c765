"""Records held out of a private training by `fit(validation_split=)`."""

from typing import Any

import keras
import numpy as np

from keras_dpvit import _validate
from keras_dpvit._types import Array
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import randomness
from keras_dpvit.privacy.plan import PrivacyPlan


def split_off(
    plan: PrivacyPlan, x: Any, y: Any, arguments: dict[str, Any], is_kept: bool
) -> tuple[Any, Any, dict[str, Any]]:
    """Holds records out for validation, each by a draw of its own.

    Privacy: whether a record is held out depends on no other record, so that one record more or
    less changes the training by that record alone. (Keras takes the last ones: one record less
    would move another from one part to the other.) Validation metrics stay uncovered.

    Args:
        plan: the `PrivacyPlan`; under a seed the draws are repeatable.
        x: as `fit` takes it.
        y: as `fit` takes it.
        arguments: of `fit`; "validation_split" is the probability of being held out.
        is_kept: bool, whether the run has a checkpoint directory.

    Returns:
        `x`, `y` and the arguments, with "validation_data" in place of "validation_split".

    Raises:
        InputError: if the records are not in arrays, there are validation data already, or the run
            could resume with other draws.
    """
    arguments = dict(arguments)
    share = arguments.pop("validation_split", None)
    if not share:
        return x, y, arguments
    _validate.open_unit_interval(validation_split=share)
    if arguments.get("validation_data") is not None:
        raise InputError("validation_split must be left out where validation_data is given.")
    if not all(hasattr(leaf, "shape") for leaf in keras.tree.flatten((x, y))):
        raise InputError("validation_split needs arrays x and y: pass validation_data.")
    if is_kept and plan.seed is None:
        raise InputError(
            "validation_split cannot be used with checkpoint_dir: a resumed run would hold out "
            "other records; pass validation_data."
        )
    key = randomness.new_key(plan.seed, "validation split")
    number = len(keras.tree.flatten(x)[0])
    held_out = np.random.default_rng(int.from_bytes(key, "big")).random(number) < share
    weights = arguments.get("sample_weight")
    parts = [
        _rows((x, y) if weights is None else (x, y, weights), mask)
        for mask in (~held_out, held_out)
    ]
    arguments["validation_data"] = parts[1]
    if weights is not None:
        arguments["sample_weight"] = parts[0][2]
    return parts[0][0], parts[0][1], arguments


def _rows(parts: Any, mask: Array) -> Any:
    return keras.tree.map_structure(lambda part: np.asarray(part)[mask], parts)
