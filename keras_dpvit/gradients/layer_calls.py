"""Keeps what goes into and comes out of layers while a model is called."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_dpvit.gradients.randomness import draws_noticed, seed_generators
from keras_dpvit.gradients.rules import CallingRule, GradientRule, LayerCall
from keras_dpvit.layers.inside import layers_inside
from keras_dpvit.layers.model_structure import inputs_of


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
            call = getattr(layer, name)
            stack.enter_context(shadowed(layer, name, _recorder(layer, call, rule, kept)))
            tap = rule.tap if rule else None
            function = getattr(layer, tap, None) if tap else None
            if tap and function is not None:
                stack.enter_context(shadowed(layer, tap, _tapped(function, kept)))
        yield calls


def call_name(layer: Any) -> str:
    """Name of the method that Keras calls: quantised layers have another."""
    return "call" if layer.quantization_mode is None else "quantized_call"


def _recorder(
    layer: Any, call: Callable[..., Any], rule: GradientRule | None, kept: list[LayerCall]
) -> Callable[..., Any]:
    def recorded(*args: Any, **kwargs: Any) -> Any:
        record = LayerCall(args, kwargs)
        kept.append(record)
        if isinstance(rule, CallingRule):
            return rule.call(layer, record)
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
def shadowed(layer: Any, name: str, value: Any) -> Iterator[None]:
    """Within the context, an attribute of the layer is another."""
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


@dataclasses.dataclass(frozen=True)
class Calls:
    """The findings of a trace of a model in training.

    Attributes:
        by_record: by the `id` of each layer, True if its calls have records on the first axis.
        asked: the `id` of each seed generator that was asked for random numbers.
        graph: the traced graph.
        spans: by the `id` of each layer, the numbers of operations from and to which its calls go.
        shapes: by the `id` of each layer, for each call the shapes that `tensors_of` has, the
            records' axis left open.
    """

    by_record: dict[int, bool]
    asked: set[int]
    graph: Any
    spans: dict[int, list[tuple[int, int]]]
    shapes: dict[int, list[list[Any]]]

    def read_elsewhere(self, variable: Any, layer: Any) -> bool:
        """True if a variable is read outside of the layer's calls, as tied weights are."""
        captured = [t for outer, t in self.graph.captures if outer is variable.value.handle]
        if not captured:
            return False
        spans = self.spans[id(layer)]
        return any(
            not any(first <= self._places[op] < last for first, last in spans)
            for tensor in captured
            for op in tensor.consumers()
        )

    @functools.cached_property
    def _places(self) -> dict[Any, int]:
        """The number of each operation in the order in which they were made."""
        return {op: index for index, op in enumerate(self.graph.get_operations())}


def traced_calls(model: Any) -> Calls:
    """Finds out how a model calls its layers.

    The model is traced, not run, for two numbers of records: what is given to each layer's calls
    and what they return must have that number of rows. A constant that happens to have as many
    rows as a batch would otherwise pass for the records, and be clipped as such.

    Raises:
        InputError: if the model does not know the shape of its inputs.
    """
    inputs = inputs_of(model)
    layers = layers_inside(model)
    found = dict.fromkeys(map(id, layers), True)
    asked: set[int] = set()
    spans: dict[int, list[tuple[int, int]]] = {id(layer): [] for layer in layers}
    noticed = draws_noticed(seed_generators(model), lambda generator: asked.add(id(generator)))
    with noticed:
        for records in (2, 3):
            given = keras.tree.map_structure(
                lambda tensor, records=records: tf.TensorSpec(
                    (records, *tensor.shape[1:]), _type_of(tensor, model)
                ),
                inputs,
            )
            kept_calls = record_calls([(layer, None) for layer in layers])
            with kept_calls as calls, _spans_noted(layers, spans):
                traced = tf.function(lambda x: model(x, training=True), autograph=False)
                graph = traced.get_concrete_function(given).graph
            for layer, kept in zip(layers, calls, strict=True):
                found[id(layer)] &= all(_has_rows(call, records, graph) for call in kept)
    shapes = {
        id(layer): [[(None, *t.shape[1:]) for t in tensors_of(call)] for call in kept]
        for layer, kept in zip(layers, calls, strict=True)
    }
    return Calls(found, asked, graph, spans, shapes)


def tensors_of(call: LayerCall) -> list[Any]:
    """The tensors with axes that a call was given and returned, in order."""
    leaves = tf.nest.flatten((call.args, call.kwargs, call.output))
    return [leaf for leaf in leaves if tf.is_tensor(leaf) and leaf.shape.rank]


@contextlib.contextmanager
def _spans_noted(layers: list[Any], spans: dict[int, list[tuple[int, int]]]) -> Iterator[None]:
    """Within the context, it is noted which operations of the graph each call of a layer makes."""

    def noted(layer: Any, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            graph = tf.compat.v1.get_default_graph()
            first = len(graph.get_operations())
            output = call(*args, **kwargs)
            spans[id(layer)].append((first, len(graph.get_operations())))
            return output

        return called

    with contextlib.ExitStack() as stack:
        for layer in layers:
            spans[id(layer)].clear()  # of the trace before
            name = call_name(layer)
            stack.enter_context(shadowed(layer, name, noted(layer, getattr(layer, name))))
        yield


def _type_of(tensor: Any, model: Any) -> Any:
    """The type in which a layer is given an input: floats come in the one the model computes in."""
    return model.compute_dtype if "float" in str(tensor.dtype) else tensor.dtype


def _has_rows(call: LayerCall, records: int, graph: Any) -> bool:
    """True if all that a call is given and returns has the records' rows, outside of any loop."""
    leaves = tf.nest.flatten((call.args, call.kwargs))
    given = [leaf for leaf in leaves if tf.is_tensor(leaf) and leaf.shape.rank != 0]
    return bool(given) and all(
        tf.is_tensor(tensor)
        and tensor.shape.rank
        and tensor.shape[0] == records
        and getattr(tensor, "graph", graph) is graph
        for tensor in [*given, *tf.nest.flatten(call.output)]
    )
