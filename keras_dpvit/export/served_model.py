"""The function that an export runs: pixels in, probabilities and a label out."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dpvit.errors import InputError
from keras_dpvit.export.inference_noise import InferenceNoise
from keras_dpvit.models.fused import FusedClassifier


class ServedModel(tf.Module):
    """A classifier or fused classifier as a TensorFlow module, without Keras.

    Args:
        model: a `FusedClassifier`, or a model that returns logits `(batch, classes)`.
        class_names: names in the order of the classes; None numbers them.
        noise_at_inference: bool, whether the layers' noise is drawn, anew on every call; None
            leaves it to the model, which by default is silent outside training.

    Attributes:
        image_shape: (height, width, channels).
        class_names: list of str.
        is_fused: bool.
        draws_noise: bool, whether two calls on one image differ.
        noise_has_range: bool, see `InferenceNoise.has_range`.
        model_variables: the TensorFlow variables, without the states of noise generators.
        half_variables: copies in half precision of those that it holds exactly.

    Raises:
        InputError: if the names are not as many as the classes or one has a line break, or if
            noise is asked of a model without any.
    """

    def __init__(
        self,
        model: Any,
        class_names: Sequence[str] | None = None,
        noise_at_inference: bool | None = None,
    ) -> None:
        super().__init__()
        self.image_shape = tuple(model.input_shape[1:])
        classes = model.output_shape[-1]
        names = [str(i) for i in range(classes)] if class_names is None else list(class_names)
        if len(names) != classes:
            raise InputError(f"class_names must be {classes} names, got {len(names)}.")
        if any(len(str(name).splitlines()) > 1 for name in names):
            raise InputError("class_names must be names of one line each.")
        self._call = model
        self._noise = InferenceNoise(model, noise_at_inference)
        self.class_names = names
        self.is_fused = isinstance(model, FusedClassifier)
        self.draws_noise = self._noise.is_drawn
        self.noise_has_range = self._noise.has_range
        left_out = {id(state) for state in self._noise.generator_states()}
        kept = [v for v in model.variables if id(v) not in left_out]
        self.model_variables = [v.value for v in kept]
        self._in_half = [
            (v, tf.Variable(half)) for v in kept if (half := exact_half(v)) is not None
        ]
        self.half_variables = [half for _, half in self._in_half]

    def predict_function(self, batch_size: int | None) -> Any:
        """A traced function of images float32 `(batch_size, height, width, channels)`, 0..255.

        It returns a dict: "probabilities" float32, "class_id" int64, "label" string and, for a
        fused model, "weights" of eq 16 and "member_probabilities". It reads `half_variables` in
        place of what they are copies of: half the bytes, the same numbers.
        """
        return self._function(batch_size, with_label=True)

    def numeric_function(self, batch_size: int | None, outputs: str = "all") -> Any:
        """The same without the label, for runtimes that have no strings; "class_id" is int32.

        Browsers' runtimes have no numbers of 64 bits. With "probabilities" as `outputs` there is
        nothing else, as classifier APIs want it.
        """
        return self._function(batch_size, with_label=False, alone=outputs == "probabilities")

    def _function(self, batch_size: int | None, with_label: bool, alone: bool = False) -> Any:
        signature = tf.TensorSpec((batch_size, *self.image_shape), tf.float32, name="images")
        function = self._outputs(with_label, alone)
        return tf.function(function, input_signature=[signature], autograph=False)

    def _outputs(self, with_label: bool, alone: bool) -> Callable[[Any], dict[str, Any]]:
        def predict(images: Any) -> dict[str, Any]:
            with self._noise.applied(), self._read_from_half(with_label):
                outputs = self._call(images, training=False)
            if not self.is_fused:
                outputs = {"probabilities": tf.nn.softmax(tf.cast(outputs, tf.float32))}
            if alone:
                return {"probabilities": outputs["probabilities"]}
            kind = tf.int64 if with_label else tf.int32
            class_id = tf.argmax(outputs["probabilities"], axis=-1, output_type=kind)
            outputs = {**outputs, "class_id": class_id}
            if with_label:
                outputs["label"] = tf.gather(tf.constant(self.class_names), class_id)
            return outputs

        return predict

    @contextlib.contextmanager
    def _read_from_half(self, wanted: bool) -> Iterator[None]:
        """While a graph is traced: the model reads `half_variables`, cast, if wanted."""
        values = [(v, tf.cast(half, v.dtype)) for v, half in self._in_half] if wanted else []
        with keras.StatelessScope(state_mapping=values):
            yield


def exact_half(variable: Any) -> np.ndarray | None:
    """A Keras variable's value in half precision if that holds all of it, None if not."""
    if variable.dtype != "float32":
        return None
    value = keras.ops.convert_to_numpy(variable.value)
    with np.errstate(over="ignore"):
        half: np.ndarray = value.astype("float16")
    return half if np.array_equal(half.astype("float32"), value) else None
