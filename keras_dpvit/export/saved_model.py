"""SavedModel for TensorFlow Serving."""

import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_dpvit._files import new_directory
from keras_dpvit.errors import InputError
from keras_dpvit.export import assets, warmup
from keras_dpvit.export.card import (
    privacy_card,
    warn_if_unprotected,
    write_privacy_card,
)
from keras_dpvit.export.served_model import ServedModel
from keras_dpvit.export.signatures import make_signatures


def saved_model(
    model: Any,
    path: str | os.PathLike[str],
    *,
    class_names: Sequence[str] | None = None,
    noise_at_inference: bool | None = None,
    card: dict[str, Any] | None = None,
    warmup_requests: bool | None = None,
) -> None:
    """Writes a SavedModel that TensorFlow loads and runs without Keras or this package.

    Its signatures are those of `signatures.make_signatures`; preprocessing is inside. Class names,
    privacy card, provenance and warm-up requests travel beside the graph (see `assets`).
    Optimizer, generators' states and training noise stay behind.

    Args:
        model: a `FusedClassifier` or a classifier that returns logits.
        path: a new directory; for TF Serving its name is a version number.
        class_names: names in the order of the classes; None numbers them.
        noise_at_inference: bool, whether the layers' noise is drawn, anew on every request. None
            leaves it to the model, which by default is silent outside training.
        card: the privacy card; None makes one if the model has a privacy ledger.
        warmup_requests: bool, whether to write requests for TF Serving's warm-up. None writes them,
            or warns in one line where tensorflow-serving-api is not installed.

    Raises:
        InputError: if `path` exists or cannot be written, the names are not as many as the
            classes, noise is asked of a model without any, or warm-up requests are asked for
            without tensorflow-serving-api.
    """
    served = ServedModel(model, class_names, noise_at_inference)
    warn_if_unprotected(model)
    if card is None and hasattr(model, "privacy_ledger"):
        card = privacy_card(model)
    if warmup_requests is None and not warmup.is_available():
        warnings.warn(warmup.MISSING, stacklevel=2)
    if warmup_requests is None:
        warmup_requests = warmup.is_available()
    if warmup_requests and not warmup.is_available():
        raise InputError(f"warmup_requests cannot be True: {warmup.MISSING}.")
    with new_directory(path) as work:
        write_saved_model(model, served, work, card=card, warmup_requests=warmup_requests)


def write_saved_model(
    model: Any,
    served: ServedModel,
    directory: pathlib.Path,
    *,
    card: dict[str, Any] | None,
    warmup_requests: bool,
) -> None:
    """Writes graph, weights and assets into a directory that exists; see `saved_model`."""
    module = tf.Module()
    functions = make_signatures(served)
    used = {id(variable) for function in functions.values() for variable in function.variables}
    variables = [*served.model_variables, *served.half_variables]
    module.model_variables = [v for v in variables if id(v) in used]
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(directory), signatures=functions, options=options)
    assets.write_class_names(served, directory)
    extra = directory / assets.EXTRA
    extra.mkdir()
    if card is not None:
        write_privacy_card(card, extra)
    if warmup_requests:
        warmup.write_warmup(served, extra / warmup.WARMUP_NAME)
    content = {**assets.provenance(model), "noise_at_inference": served.draws_noise}
    assets.write_provenance(content, directory)
