"""Keeps what goes into and comes out of layers while a model is called."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from keras_dpvit.errors import InputError
from keras_dpvit.gradients.rules import GradientRule, LayerCall
from keras_dpvit.layers.inside import layers_inside


@contextlib.contextmanager
def record_calls(layers: list[tuple[Any, GradientRule | None]]) -> Iterator[list[list[LayerCall]]]:
    """Within the context, every call of the given layers is kept.

    The layers get an instance attribute `call` that shadows the method, and lose it at the
    end: nothing of Keras is replaced, and the context spans a trace, not a run. A rule with a
    `tap` sees what goes into that function as the layer's output.

    Args:
        layers: layers with their rules; without one, the call's own output is kept.

    Yields:
        For each layer the list of its calls, filled as they happen.
    """
    calls: list[list[LayerCall]] = [[] for _ in layers]
    with contextlib.ExitStack() as stack:
        for (layer, rule), kept in zip(layers, calls, strict=True):
            name = call_name(layer)
            stack.enter_context(_shadowed(layer, name, _recorder(getattr(layer, name), kept)))
            tap = rule.tap if rule else None
            function = getattr(layer, tap, None) if tap else None
            if tap and function is not None:
                stack.enter_context(_shadowed(layer, tap, _tapped(function, kept)))
        yield calls


def call_name(layer: Any) -> str:
    """Name of the method that Keras calls: quantised layers have another."""
    return "call" if layer.quantization_mode is None else "quantized_call"


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


def called_by_record(model: Any) -> dict[int, bool]:
    """True for each layer whose calls have records on the first axis, by the `id` of the layer.

    The model is traced, not run, for two numbers of records: what is given to each layer's calls
    and what they return must have that number of rows. A constant that happens to have as many
    rows as a batch would otherwise pass for the records, and be clipped as such.

    Raises:
        InputError: if the model does not know the shape of its input.
    """
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or None in shape[1:]:
        raise InputError(f"model must have one input of a fixed shape, got {shape}.")
    layers = layers_inside(model)
    found = dict.fromkeys(map(id, layers), True)
    for records in (2, 3):
        images = tf.TensorSpec((records, *shape[1:]), model.compute_dtype)
        with record_calls([(layer, None) for layer in layers]) as calls:
            traced = tf.function(lambda x: model(x, training=True), autograph=False)
            traced.get_concrete_function(images)
        for layer, kept in zip(layers, calls, strict=True):
            found[id(layer)] &= all(_has_rows(call, records) for call in kept)
    return found


def _has_rows(call: LayerCall, records: int) -> bool:
    leaves = tf.nest.flatten((call.args, call.kwargs))
    given = [leaf for leaf in leaves if tf.is_tensor(leaf) and leaf.shape.rank != 0]
    return bool(given) and all(
        tf.is_tensor(tensor) and tensor.shape.rank and tensor.shape[0] == records
        for tensor in [*given, call.output]
    )
