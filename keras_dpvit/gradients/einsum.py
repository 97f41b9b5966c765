"""Per-example gradients of EinsumDense, and so of Keras' attention layers."""

import dataclasses
import re
from typing import Any

import keras
import tensorflow as tf

from keras_dpvit.gradients.ghost_norm import LinearRule, joined_tokens
from keras_dpvit.gradients.rules import LayerCall, full_precision, register_rule


@dataclasses.dataclass(frozen=True)
class _Equation:
    """An einsum equation whose input and output begin with the records' letter.

    Attributes:
        inputs, kernel, outputs: letters of the operands, the records' left out.
        tokens: letters of input and output alone.
        contracted: letters of input and kernel alone, in the kernel's order.
        kept: letters of kernel and output alone, in the kernel's order.
    """

    inputs: str
    kernel: str
    outputs: str

    @property
    def tokens(self) -> str:
        return "".join(letter for letter in self.inputs if letter in self.outputs)

    @property
    def contracted(self) -> str:
        return "".join(letter for letter in self.kernel if letter in self.inputs)

    @property
    def kept(self) -> str:
        return "".join(letter for letter in self.kernel if letter in self.outputs)


def parsed(equation: str) -> _Equation | None:
    """The equation, None if the layer is not a Dense layer in other axes."""
    match = re.fullmatch("([A-Za-z])([A-Za-z]*),([A-Za-z]+)->([A-Za-z])([A-Za-z]*)", equation)
    if match is None or match[1] != match[4] or match[1] in match[2] + match[3] + match[5]:
        return None
    operands = match[2], match[3], match[5]
    unique = all(len(set(letters)) == len(letters) for letters in operands)
    everything = "".join(operands)
    twice = all(everything.count(letter) == 2 for letter in everything)
    return _Equation(*operands) if unique and twice else None


@register_rule(keras.layers.EinsumDense)
class EinsumDenseRule(LinearRule):
    """A Dense layer in other axes: put in order, its inputs and outputs are rows of tokens.

    A bias may cover any axes of the output but the records'; its gradient for a record is the
    output's, summed over the axes that it lacks.
    """

    def supports(self, layer: Any) -> bool:
        equation = parsed(layer.equation)
        if equation is None or layer.bias is None:
            return equation is not None
        shape = layer.bias.shape
        # keras.ops.add takes a bias with one side above 1 for one of the last axis, or of the
        # second, where that has as many places, though it stands elsewhere.
        misread = sum(side > 1 for side in shape) == 1 and shape[-1] == 1
        return len(shape) <= len(equation.outputs) and not misread

    def tokens(self, layer: Any, calls: list[LayerCall]) -> list[Any]:
        equation = parsed(layer.equation)
        assert equation is not None
        inputs = [
            _rows(call.inputs, equation.inputs, equation.tokens, equation.contracted)
            for call in calls
        ]
        gradients = [
            _rows(call.gradient, equation.outputs, equation.tokens, equation.kept) for call in calls
        ]
        return [joined_tokens(inputs), joined_tokens(gradients)]

    def bias_gradients(self, layer: Any, calls: list[LayerCall]) -> Any:
        shape = layer.bias.shape
        each = []
        for call in calls:
            gradient = full_precision(call.gradient)
            first = gradient.shape.rank - len(shape)
            lacking = [first + i for i, side in enumerate(shape) if side == 1]
            summed = tf.reduce_sum(gradient, axis=[*range(1, first), *lacking])
            each.append(tf.reshape(summed, (-1, *shape)))
        return tf.add_n(each)

    def in_kernel_order(self, layer: Any, kernel: Any) -> Any:
        equation = parsed(layer.equation)
        assert equation is not None
        sides = dict(zip(equation.kernel, layer.kernel.shape, strict=True))
        found = equation.contracted + equation.kept
        kernel = tf.reshape(kernel, [sides[letter] for letter in found])
        return tf.transpose(kernel, [found.index(letter) for letter in equation.kernel])


def _rows(tensor: Any, letters: str, tokens: str, width: str) -> Any:
    order = [1 + letters.index(letter) for letter in tokens + width]
    tensor = tf.transpose(full_precision(tensor), [0, *order])
    sides = tensor.shape[1:]
    return tf.reshape(tensor, (-1, _product(sides[: len(tokens)]), _product(sides[len(tokens) :])))


def _product(sides: Any) -> int:
    product = 1
    for side in sides:
        product *= side
    return product
