"""One forward and backward pass of a model that shows all that its layers are given."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_dpvit._types import Array
from keras_dpvit.gradients.layer_calls import record_calls
from keras_dpvit.gradients.randomness import draws_noticed, seed_generators
from keras_dpvit.gradients.spectral import spectra_left
from keras_dpvit.layers.attention import SelfAttention
from keras_dpvit.layers.inside import layers_inside
from keras_dpvit.layers.normalization import DPLayerNormalization
from keras_dpvit.training.record_losses import in_float32

# Layers that draw for each row separately, by what their call says.
_DRAW_BY_ROW: tuple[Any, ...] = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.AlphaDropout,
    keras.layers.LSTM,
    keras.layers.GRU,
    keras.layers.SimpleRNN,
    SelfAttention,
    DPLayerNormalization,
)


class TracedPass:
    """A traced pass over a batch of any size, the graph that a private step has too.

    Args:
        model: a built Keras model.
        losses: a per-example loss of `(labels, outputs)`, or None for one without labels.
        images: a batch, for shape and type: arrays in the structure that the model takes.
        labels: its labels, likewise.
        loss_fn: None, or a function of the model and the batch that gives a loss for each row;
            then `losses` is not asked.
        training: bool; in inference mode there is no backward pass, and no graph, which would
            take longer to trace than a run or two takes without.

    Attributes:
        names: what each tensor is that a run returns; the last ones are the outputs and losses.
        draws: bool, whether a generator of the layers is asked for numbers.
        draws_elsewhere: bool, whether a generator is asked for numbers outside of the layers
            that are known to draw row by row.
    """

    def __init__(
        self,
        model: Any,
        losses: Any,
        images: Any,
        labels: Any,
        training: bool,
        loss_fn: Any = None,
    ) -> None:
        self._model, self._losses, self._training = model, losses, training
        self._loss_fn = loss_fn
        self.names: list[str] = []
        self.draws = self.draws_elsewhere = False
        self._function: Any = self._run
        self._variables: list[Any] = []
        if training:
            specs = keras.tree.map_structure(
                lambda a: tf.TensorSpec((None, *a.shape[1:]), a.dtype), (images, labels)
            )
            self._function = tf.function(self._run, autograph=False).get_concrete_function(*specs)
            self._variables = [h for h in self._function.captured_inputs if _is_variable(h)]

    def run(self, images: Any, labels: Any) -> list[Array]:
        """Inputs and outputs of every layer, and the gradients in those; float32."""
        found = self._function(*keras.tree.map_structure(tf.constant, (images, labels)))
        return [tensor.numpy() for tensor in found]

    def variables(self) -> list[Any]:
        """Handles of every variable that a traced pass can read or write, of Keras or not."""
        return self._variables

    @property
    def num_outputs(self) -> int:
        """The number of tensors that the model returns."""
        return self.names.count("output of the model")

    def _run(self, images: Any, labels: Any) -> list[Any]:
        layers = layers_inside(self._model)
        with tf.GradientTape() as tape:
            recorded = record_calls([(layer, None) for layer in layers])
            with spectra_left(self._model), recorded as calls, self._draws_noticed(layers, calls):
                if self._loss_fn is None:
                    outputs = self._model(images, training=self._training)
                else:
                    outputs, values = [], self._loss_fn(self._model, images)
            outputs = in_float32(outputs)
            flat = keras.tree.flatten(outputs)
            if self._loss_fn is not None:
                values = tf.cast(values, tf.float32)
            elif self._losses is None:
                values = tf.add_n(
                    [tf.reduce_sum(o**2, axis=list(range(1, o.shape.rank))) for o in flat]
                )
            else:
                values = self._losses(labels, outputs)
            total = tf.reduce_sum(values)
        found: dict[int, tuple[str, Any]] = {}
        differentiable: dict[int, tuple[str, Any]] = {}
        for layer, kept in zip(layers, calls, strict=True):
            for call in kept:
                for tensor in _tensors((call.args, call.kwargs)):
                    found.setdefault(id(tensor), (f"input of layer {layer.name}", tensor))
                for tensor in _tensors(call.output):
                    found.setdefault(id(tensor), (f"output of layer {layer.name}", tensor))
                    if tensor.dtype.is_floating and self._training:
                        name = f"gradient in the output of layer {layer.name}"
                        differentiable.setdefault(id(tensor), (name, tensor))
        gradients = []
        if differentiable:
            targets = [tensor for _, tensor in differentiable.values()]
            gradients = tape.gradient(total, targets, unconnected_gradients="zero")
        named = [
            *found.values(),
            *zip([name for name, _ in differentiable.values()], gradients, strict=True),
            *(("output of the model", output) for output in flat),
            ("loss", values),
        ]
        self.names = [name for name, _ in named]
        return [tf.cast(tf.convert_to_tensor(tensor), tf.float32) for _, tensor in named]

    @contextlib.contextmanager
    def _draws_noticed(self, layers: list[Any], calls: list[list[Any]]) -> Iterator[None]:
        """Within the context, a generator's numbers are seen to go to a layer by row or not."""
        by_row = [any(_calls_as(layer, known) for known in _DRAW_BY_ROW) for layer in layers]

        def note(generator: Any) -> None:
            # A call without an output is still under way.
            inside = any(
                known and any(call.output is None for call in kept)
                for known, kept in zip(by_row, calls, strict=True)
            )
            self.draws = True
            self.draws_elsewhere |= not inside

        with draws_noticed(seed_generators(self._model), note):
            yield


def _calls_as(layer: Any, known: Any) -> bool:
    return isinstance(layer, known) and type(layer).call is known.call


def _tensors(structure: Any) -> list[Any]:
    """Tensors of numbers in a structure that belong to the graph being traced, if one is."""
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    return [
        leaf
        for leaf in tf.nest.flatten(structure)
        if isinstance(leaf, tf.Tensor)
        and (graph is None or getattr(leaf, "graph", None) is graph)
        and (leaf.dtype.is_floating or leaf.dtype.is_integer or leaf.dtype.is_bool)
    ]


def _is_variable(handle: Any) -> bool:
    return handle.dtype == tf.resource and bool(handle._handle_data.is_set)  # noqa: SLF001


def read_variable(handle: Any) -> Any:
    """The value behind a handle."""
    dtype = tf.as_dtype(handle._handle_data.shape_and_type[0].dtype)  # noqa: SLF001
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)


def write_variable(handle: Any, value: Any) -> None:
    """Gives the variable behind a handle a value."""
    tf.raw_ops.AssignVariableOp(resource=handle, value=value)
