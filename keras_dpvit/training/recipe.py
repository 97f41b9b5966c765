"""The settings of a model as text, if they alone decide how it treats its rows."""

import functools
import json
import re
import types
from collections.abc import Callable
from typing import Any

import keras

from keras_dpvit.layers.inside import layers_inside
from keras_dpvit.layers.model_structure import inputs_of, outputs_of, shapes_of

_OURS = ("keras.", "keras_dpvit.")
_COUNTED = re.compile(r'"name": "([a-z0-9_]+_\d+)"')
_QUOTED = re.compile(r'"([a-z0-9_]+_\d+)"')
_CODE = (types.FunctionType, types.MethodType, functools.partial)
_DONE: set[str] = set()  # recipes that a check has passed


def once_for_each_recipe(check: Callable[[], None], model: Any, *others: Any) -> None:
    """Makes a check of a model, once a process where only settings decide what it finds.

    Args:
        check: raises where the model fails it.
        model: see `recipe_of`.
        *others: see `recipe_of`.
    """
    recipe = recipe_of(model, *others)
    if recipe is not None and recipe in _DONE:
        return
    check()
    if recipe is not None:
        _DONE.add(recipe)


def recipe_of(model: Any, *others: Any) -> str | None:
    """All settings of a model as text: models of equal recipes treat their rows in the same way.

    Args:
        model: a built Keras model.
        *others: what is used along with it: a loss or None, types of labels and images.

    Returns:
        None where somebody else's code is in the model or a loss, which may have any state, or a
        setting has no text.
    """
    layers = [model, *layers_inside(model, include_self=False)]
    if not all(map(_is_known, (*layers, *others))):
        return None
    flags = [(layer.trainable, layer.dtype_policy.name) for layer in layers]
    try:
        # Of the layers too: a model of a user's class may tell little in its settings.
        content = [keras.saving.serialize_keras_object(part) for part in (*layers, *others)]
        for part in content:
            if isinstance(part, dict):
                part.pop("compile_config", None)
        shapes = [repr(shapes_of(inputs_of(model))), repr(shapes_of(outputs_of(model)))]
        text = json.dumps([content, flags, shapes])
    except (NotImplementedError, TypeError, ValueError):
        return None
    return _without_counts(text) if _names_known_parts_alone(content) else None


def _without_counts(text: str) -> str:
    """The text with names that Keras numbers ("dense_12") numbered from the model's beginning."""
    places: dict[str, int] = {}
    for name in _COUNTED.findall(text):
        places.setdefault(name, len(places))
    return _QUOTED.sub(lambda m: f'"layer {places[m[1]]}"' if m[1] in places else m[0], text)


def _is_known(part: Any) -> bool:
    """True for a part whose code is Keras' or this package's, with the functions it holds."""
    if part is None or isinstance(part, str):
        return True
    held = [value for value in vars(part).values() if isinstance(value, _CODE)]
    codes = [part if isinstance(part, _CODE) else type(part), *held]
    call = getattr(type(part), "call", None)  # which somebody may have replaced
    codes += [call] if isinstance(call, _CODE) else []
    return "call" not in vars(part) and all(
        f"{code.__module__}.".startswith(_OURS) for code in codes
    )


def _names_known_parts_alone(content: Any) -> bool:
    if isinstance(content, list):
        return all(map(_names_known_parts_alone, content))
    if not isinstance(content, dict):
        return True
    if "class_name" in content:
        module = f"{content.get('module')}."
        if not module.startswith(_OURS) or content["class_name"] == "Lambda":
            return False
    return all(map(_names_known_parts_alone, content.values()))
