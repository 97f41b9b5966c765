"""Starting from the weights of another training, and from what they have cost."""

import dataclasses
import json
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_dpvit import _reasons
from keras_dpvit._types import Array
from keras_dpvit.errors import InputError
from keras_dpvit.privacy.ledger import Ledger, PrivacyLedger, ledger_from_dict

_SUFFIXES = (".keras", ".weights.h5")


@dataclasses.dataclass(frozen=True)
class InitialWeights:
    """The outcome of `load_initial_weights`.

    Attributes:
        has_head: bool, whether the head's weights came too; if not, the head is as it was.
        ledger: what the weights have cost; empty if they were never trained, or if the file
            carries no ledger.
        has_ledger: bool, whether the file could have carried one.
    """

    has_head: bool
    ledger: Ledger
    has_ledger: bool


def check_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path of a file of weights, found to be there; nothing is read.

    Raises:
        InputError: if there is no such file, or its name ends otherwise.
    """
    place = pathlib.Path(path)
    if not place.name.endswith(_SUFFIXES) or not place.is_file():
        raise InputError(
            f"init_weights must be a {' or '.join(_SUFFIXES)} file that exists, got {str(place)!r}."
        )
    return place


def load_initial_weights(model: Any, path: str | os.PathLike[str]) -> InitialWeights:
    """Starts a model from the weights in a file; to be called before `compile`.

    The backbone's weights are copied, or those of all layers but the head where the model has no
    backbone (see `choose_trainable`). The head's are copied if all their shapes agree, as they do
    for the same number of classes; otherwise the head stays as it is.

    A file that a model of this package wrote brings its privacy ledger: all that is trained from
    its weights tells of its records too, so its cost is composed with the model's own, and if it
    was trained without privacy the model's epsilon is infinite. A `.weights.h5` file that
    somebody else's model or a backbone alone wrote has none: the statement then says that the
    records behind it are taken as public.

    Args:
        model: a `DPViTClassifier` or `make_private` model.
        path: a `.keras` file of such a model, or a `.weights.h5` file of one, of the model inside
            or of its backbone.

    Returns:
        What was taken.

    Raises:
        InputError: if the file cannot be read, its layers do not fit the model's, or the model is
            compiled with a private optimizer already. The model is then as it was.

    Example:
        >>> kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=10).save("start.keras")
        >>> model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=3)
        >>> kd.load_initial_weights(model, "start.keras").has_head  # it has other classes
        False
    """
    from keras_dpvit.models.private_model import PrivatelyTrainable

    if not isinstance(model, PrivatelyTrainable):
        raise InputError(
            f"model must be a DPViTClassifier or a make_private model, got {type(model).__name__}."
        )
    place = check_path(path)
    return _from_model(model, place) if place.suffix == ".keras" else _from_weights(model, place)


def _from_model(model: Any, path: pathlib.Path) -> InitialWeights:
    import keras

    # Keras finds a class in a file only once its module is imported.
    from keras_dpvit.models import classifier, fused, private_model, provenance
    from keras_dpvit.models.trainable import head_variables, network_of
    from keras_dpvit.training import optimizers, private_wrapper

    del classifier, fused, private_wrapper, optimizers
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is cut short or not a .keras file")
        source = keras.saving.load_model(path, compile=False)
    except Exception as error:  # whatever a damaged file makes Keras raise
        raise _unreadable(path, error) from error
    if not isinstance(source, private_model.PrivatelyTrainable):
        raise InputError(
            f"init_weights must hold a DPViTClassifier or a make_private model; {str(path)!r} "
            f"holds a {type(source).__name__}."
        )
    there, here = network_of(source), network_of(model)
    heads = [head_variables(network, network.weights) for network in (there, here)]
    bodies = [
        [v for v in network.weights if not any(v is w for w in head)]
        for network, head in zip((there, here), heads, strict=True)
    ]
    _check_shapes(path, *(dict(_shapes(body)) for body in bodies))
    has_head = [s for _, s in _shapes(heads[0])] == [s for _, s in _shapes(heads[1])]
    pairs = list(zip(*bodies, strict=True)) + (list(zip(*heads, strict=True)) if has_head else [])
    values = [keras.ops.convert_to_numpy(source_variable) for source_variable, _ in pairs]
    _check_finite(path, values)
    model.start_from(source.privacy_ledger, source.privacy_notes)
    for (_, variable), value in zip(pairs, values, strict=True):
        variable.assign(value)
    provenance.settle(model)
    return InitialWeights(has_head, source.privacy_ledger, has_ledger=True)


def _shapes(variables: list[Any]) -> list[tuple[str, Any]]:
    """Names that are the same for two models of one architecture, with shapes."""
    return [(f"{i}, {v.name}", tuple(v.shape)) for i, v in enumerate(variables)]


def _from_weights(model: Any, path: pathlib.Path) -> InitialWeights:
    import keras

    from keras_dpvit.models import provenance
    from keras_dpvit.models.trainable import network_of

    network = network_of(model)
    found = _read(path)
    backbone = getattr(network, "backbone", None)
    owners = [owner for owner in (model, network, backbone) if owner is not None]
    with tempfile.TemporaryDirectory() as work:
        template = pathlib.Path(work, "template.weights.h5")
        for owner in owners:
            keras.saving.save_weights(owner, template)
            expected = _read(template)
            if expected.keys() == found.keys():
                break
        else:
            keras.saving.save_weights(model, template)
            _check_shapes(
                path, *({k: v.shape for k, v in s.items()} for s in (found, _read(template)))
            )
        without_head = pathlib.Path(work, "without_head.weights.h5")
        keras.saving.save_weights(owner, without_head, objects_to_skip=_head_layers(network))
        body = _read(without_head).keys()
        has_head = all(found[k].shape == expected[k].shape for k in expected.keys() - body)
        taken = {k: v for k, v in found.items() if has_head or k in body}
        _check_shapes(path, *({k: s[k].shape for k in taken} for s in (found, expected)))
        _check_finite(path, taken.values())
        ledger, notes = _ledger_of(path)
        known = PrivacyLedger() if ledger is None else ledger
        model.start_from(known, notes)
        _write(template, taken)
        keras.saving.load_weights(owner, template)
    # Keras asks for the ledger while it loads, when the values look as if nobody knew of them.
    provenance.settle(model, None if ledger is None else model)
    return InitialWeights(has_head and owner is not backbone, known, has_ledger=ledger is not None)


def _ledger_of(path: pathlib.Path) -> tuple[Ledger | None, tuple[str, ...]]:
    """The ledger and the notes in a file of weights; no ledger and what to say of that if none."""
    from keras_dpvit.models import provenance

    text = provenance.read_ledger(path)
    if text is None:
        note = f"Initial weights from {path.name}: the records behind them are taken as public."
        return None, (note,)
    try:
        content = json.loads(text)
        return ledger_from_dict(content), tuple(content.get("notes", ()))
    except (ValueError, TypeError, KeyError, AttributeError, InputError) as error:
        raise _unreadable(path, error) from error


def _head_layers(network: Any) -> list[Any]:
    from keras_dpvit.layers.inside import layers_inside
    from keras_dpvit.models.trainable import head_variables

    head = {id(v) for v in head_variables(network, network.weights)}
    layers = layers_inside(network, include_self=False)
    return [x for x in layers if x.weights and all(id(v) in head for v in x.weights)]


def _read(path: pathlib.Path) -> dict[str, Array]:
    """Weights of a `.weights.h5` file by their place in it; states of optimizers are left out."""
    import h5py

    found: dict[str, Array] = {}

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or "optimizer" in name.split("/"):
            return
        # The others are states of generators; int8 are the directions of `WhitenedFeatures`.
        if np.issubdtype(item.dtype, np.floating) or item.dtype == np.int8:
            found[name] = item[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise _unreadable(path, error) from error
    return found


def _write(path: pathlib.Path, values: dict[str, Array]) -> None:
    import h5py

    with h5py.File(path, "r+") as file:
        for name, value in values.items():
            file[name][...] = value


def _check_shapes(path: pathlib.Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Raises unless two models have the same variables in the same shapes."""
    for name in [*here, *(name for name in there if name not in here)]:
        shapes = [set_of.get(name, "missing") for set_of in (there, here)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"init_weights must come from the same architecture, the head aside: variable "
                f"{name} is {shapes[0]} in {str(path)!r} and {shapes[1]} in the model."
            )


def _check_finite(path: pathlib.Path, values: Iterable[Array]) -> None:
    if not all(np.isfinite(value).all() for value in values):
        raise InputError(f"init_weights must be finite, {str(path)!r} has NaN or infinite weights.")


def _unreadable(path: pathlib.Path, error: Exception) -> InputError:
    return InputError(
        f"init_weights must be a file that can be loaded, got {str(path)!r}: "
        f"{_reasons.reason(error)}."
    )
