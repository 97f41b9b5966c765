"""Finds the generators that layers draw random numbers from."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_dpvit.layers.inside import layers_inside


def seed_generators(layer: Any) -> list[Any]:
    """All seed generators of a layer or model and of what is inside it, each once.

    They are found as attributes, and in lists, tuples, sets and dictionaries that are attributes.
    The order is that of the layers and their attributes, the same for two models built alike.

    Args:
        layer: a Keras layer or model.
    """
    found: dict[int, Any] = {}
    for part in layers_inside(layer):
        for value in list(vars(part).values()):
            _collect(value, found)
    return list(found.values())


@contextlib.contextmanager
def draws_noticed(generators: list[Any], note: Callable[[Any], None]) -> Iterator[None]:
    """Within the context, `note` is called with each generator that is asked for a seed."""

    def noticed(generator: Any, draw: Callable[..., Any]) -> Callable[..., Any]:
        def next_seed(*args: Any, **kwargs: Any) -> Any:
            note(generator)
            return draw(*args, **kwargs)

        return next_seed

    for generator in generators:
        generator.next = noticed(generator, generator.next)
    try:
        yield
    finally:
        for generator in generators:
            del generator.next


def _collect(value: Any, found: dict[int, Any]) -> None:
    if isinstance(value, keras.random.SeedGenerator):
        found.setdefault(id(value), value)
    elif isinstance(value, dict):
        for item in value.values():
            _collect(item, found)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            _collect(item, found)
