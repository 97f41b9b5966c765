"""Keeps what goes into and comes out of layers while a model is called."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from keras_dpvit.gradients.rules import GradientRule, LayerCall


@contextlib.contextmanager
def record_calls(layers: list[tuple[Any, GradientRule]]) -> Iterator[list[list[LayerCall]]]:
    """Within the context, every call of the given layers is kept.

    The layers get an attribute `call` of their own that shadows the method, and lose it at the
    end: nothing of Keras is replaced, and the context spans a trace, not a run. A rule with a
    `tap` sees what goes into that function as the layer's output.

    Args:
        layers: layers with their rules.

    Yields:
        For each layer the list of its calls, filled as they happen.
    """
    calls: list[list[LayerCall]] = [[] for _ in layers]
    with contextlib.ExitStack() as stack:
        for (layer, rule), kept in zip(layers, calls, strict=True):
            stack.enter_context(_shadowed(layer, "call", _recorder(layer.call, kept)))
            function = getattr(layer, rule.tap, None) if rule.tap else None
            if rule.tap and function is not None:
                stack.enter_context(_shadowed(layer, rule.tap, _tapped(function, kept)))
        yield calls


def _recorder(call: Callable[..., Any], kept: list[LayerCall]) -> Callable[..., Any]:
    def recorded(*args: Any, **kwargs: Any) -> Any:
        record = LayerCall(args, kwargs)
        kept.append(record)
        output = call(*args, **kwargs)
        if record.output is None:
            record.output = output
        return output

    return recorded


def _tapped(function: Callable[[Any], Any], kept: list[LayerCall]) -> Callable[[Any], Any]:
    def tapped(tensor: Any) -> Any:
        kept[-1].output = tensor
        return function(tensor)

    return tapped


@contextlib.contextmanager
def _shadowed(layer: Any, name: str, value: Any) -> Iterator[None]:
    # Keras' own __setattr__ would track the value and refuse it on a built layer.
    own = vars(layer)
    missing = object()
    before = own.get(name, missing)
    object.__setattr__(layer, name, value)
    try:
        yield
    finally:
        if before is missing:
            object.__delattr__(layer, name)
        else:
            object.__setattr__(layer, name, before)
