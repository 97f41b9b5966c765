"""The function that an export runs: pixels in, probabilities and a label out."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_dpvit.errors import InputError
from keras_dpvit.models.fused import FusedClassifier


class ServedModel(tf.Module):
    """A classifier or fused classifier as a TensorFlow module, without Keras.

    Args:
        model: a `FusedClassifier`, or a model that returns logits `(batch, classes)`.
        class_names: names in the order of the classes; None numbers them.

    Raises:
        InputError: if the names are not as many as the classes.
    """

    def __init__(self, model: Any, class_names: Sequence[str] | None = None) -> None:
        super().__init__()
        self.image_shape = tuple(model.input_shape[1:])
        classes = model.output_shape[-1]
        names = [str(i) for i in range(classes)] if class_names is None else list(class_names)
        if len(names) != classes:
            raise InputError(f"class_names must be {classes} names, got {len(names)}.")
        self._call = model
        self._class_names = names
        noisy = [x for x in model._flatten_layers() if getattr(x, "seed_generator", None)]
        self.draws_noise = any(getattr(layer, "noise_at_inference", False) for layer in noisy)
        # The states of generators that only training draws from stay behind.
        unused = [
            x.seed_generator.state for x in noisy if not getattr(x, "noise_at_inference", True)
        ]
        left_out = {id(state) for state in unused}
        self.model_variables = [v.value for v in model.variables if id(v) not in left_out]

    def predict_function(self, batch_size: int | None) -> Any:
        """A traced function of images float32 `(batch_size, height, width, channels)`, 0..255.

        It returns a dict: "probabilities" float32, "class_id" int64, "label" string and, for a
        fused model, "weights" of eq 16 and "member_probabilities".
        """
        signature = tf.TensorSpec((batch_size, *self.image_shape), tf.float32, name="images")
        return tf.function(self._outputs(with_label=True), input_signature=[signature])

    def numeric_function(self, batch_size: int | None) -> Any:
        """The same without the label, for runtimes that have no strings."""
        signature = tf.TensorSpec((batch_size, *self.image_shape), tf.float32, name="images")
        return tf.function(self._outputs(with_label=False), input_signature=[signature])

    def _outputs(self, with_label: bool) -> Callable[[Any], dict[str, Any]]:
        def predict(images: Any) -> dict[str, Any]:
            outputs = self._call(images, training=False)
            if not isinstance(self._call, FusedClassifier):
                outputs = {"probabilities": tf.nn.softmax(tf.cast(outputs, tf.float32))}
            class_id = tf.argmax(outputs["probabilities"], axis=-1)
            outputs = {**outputs, "class_id": class_id}
            if with_label:
                outputs["label"] = tf.gather(tf.constant(self._class_names), class_id)
            return outputs

        return predict
