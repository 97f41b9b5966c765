"""Per-example gradients of low-rank adapters: Keras' `enable_lora` (Hu et al. 2022).

A layer's kernel is `W + s A B` with `s = alpha / rank`. With `G` a record's gradient in the kernel,
those in the two factors are `s G B^T` and `s A^T G`; neither needs `G` itself. `W` does not train.
"""

from typing import Any

import keras
import tensorflow as tf

from keras_dpvit.gradients.einsum import EinsumDenseRule, parsed
from keras_dpvit.gradients.ghost_norm import bias_gradients
from keras_dpvit.gradients.rules import InstantiatedRule, LayerCall, full_precision, register_rule


class _LoraRule(InstantiatedRule):
    """The adapters' two factors, and the layer's bias."""

    tap: str | None = "activation"

    def supports(self, layer: Any) -> bool:
        return bool(layer.lora_enabled)

    def scale(self, layer: Any) -> float:
        """The factor on the product of the adapters."""
        return float(layer.lora_alpha) / float(layer.lora_rank)


@register_rule(keras.layers.Dense)
class LoraDenseRule(_LoraRule):
    """Adapters `(in, rank)` and `(rank, out)` of a Dense layer."""

    variable_names = ("lora_kernel_a", "lora_kernel_b", "bias")

    def per_example(self, layer: Any, call: LayerCall) -> list[Any]:
        x, gradient = full_precision(call.inputs), full_precision(call.gradient)
        a, b = _factors(layer.lora_kernel_a, layer.lora_kernel_b, x.dtype)
        tokens = tf.reshape(x, (tf.shape(x)[0], -1, x.shape[-1]))
        gradients = tf.reshape(gradient, (tf.shape(x)[0], -1, gradient.shape[-1]))
        scaled = gradients * self.scale(layer)
        through_b = tf.matmul(scaled, b, transpose_b=True)
        found = [
            tf.matmul(tokens, through_b, transpose_a=True),
            tf.matmul(tf.matmul(tokens, a), scaled, transpose_a=True),
        ]
        return found if layer.bias is None else [*found, bias_gradients([call.gradient])]


@register_rule(keras.layers.EinsumDense)
class LoraEinsumDenseRule(_LoraRule):
    """Adapters of an EinsumDense: the kernel's last axis is the one that the rank stands before."""

    variable_names = ("lora_kernel_a", "lora_kernel_b", "bias")

    def supports(self, layer: Any) -> bool:
        equation = parsed(layer.equation)
        # Else a rank would stand in for an axis that the inputs are summed over.
        return (
            super().supports(layer)
            and equation is not None
            and equation.kernel[-1] in equation.outputs
            and EinsumDenseRule().supports(layer)
        )

    def per_example(self, layer: Any, call: LayerCall) -> list[Any]:
        equation = parsed(layer.equation)
        assert equation is not None
        x, gradient = full_precision(call.inputs), full_precision(call.gradient)
        a, b = _factors(layer.lora_kernel_a, layer.lora_kernel_b, x.dtype)
        records, rank = _unused_letters(layer.equation)
        last = equation.kernel[-1]
        inputs, outputs = records + equation.inputs, records + equation.outputs
        low, kernel = outputs.replace(last, rank), equation.kernel[:-1] + rank
        scaled = gradient * self.scale(layer)
        through_b = tf.einsum(f"{outputs},{rank}{last}->{low}", scaled, b)
        through_a = tf.einsum(f"{inputs},{kernel}->{low}", x, a)
        found = [
            tf.einsum(f"{inputs},{low}->{records}{kernel}", x, through_b),
            tf.einsum(f"{low},{outputs}->{records}{rank}{last}", through_a, scaled),
        ]
        if layer.bias is None:
            return found
        return [*found, EinsumDenseRule().bias_gradients(layer, [call])]


@register_rule(keras.layers.Embedding)
class LoraEmbeddingRule(_LoraRule):
    """Adapters `(rows, rank)` and `(rank, width)` of a table."""

    tap = None
    variable_names = ("lora_embeddings_a", "lora_embeddings_b")

    def per_example(self, layer: Any, call: LayerCall) -> list[Any]:
        records = tf.shape(call.inputs)[0]
        index = tf.reshape(tf.cast(call.inputs, tf.int32), (records, -1))
        index = tf.where(index < 0, index + layer.input_dim, index)  # as Keras counts them
        gradient = full_precision(call.gradient) * self.scale(layer)
        gradients = tf.reshape(gradient, (records, -1, layer.output_dim))
        a, b = _factors(layer.lora_embeddings_a, layer.lora_embeddings_b, gradients.dtype)
        # Each record has a table of its own.
        through_b = tf.reshape(tf.matmul(gradients, b, transpose_b=True), (-1, layer.lora_rank))
        rows = index + layer.input_dim * tf.range(records)[:, None]
        table = tf.math.unsorted_segment_sum(
            through_b, tf.reshape(rows, [-1]), layer.input_dim * records
        )
        table = tf.reshape(table, (-1, layer.input_dim, layer.lora_rank))
        return [table, tf.matmul(tf.gather(a, index), gradients, transpose_a=True)]


def _factors(a: Any, b: Any, dtype: Any) -> tuple[Any, Any]:
    return tf.cast(a, dtype), tf.cast(b, dtype)


def _unused_letters(equation: str) -> tuple[str, str]:
    """Two letters for the records' axis and the rank's."""
    free = [letter for letter in "zyxwvutsrq" if letter not in equation]
    return free[0], free[1]
