"""Per-example gradients of LSTM, GRU and SimpleRNN layers."""

import abc
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_dpvit.gradients import reductions
from keras_dpvit.gradients.ghost_norm import marked, measured_tokens, next_token_sum
from keras_dpvit.gradients.rules import (
    CallingRule,
    LayerCall,
    Measured,
    full_precision,
    register_rule,
)


class RecurrentRule(CallingRule):
    """`p_t = x_t W + b` and `q_t = h_(t-1) U`: a step's gates are functions of both and the state.

    A record's gradient in `W` is `sum_t x_t dp_t^T`, in `U` `sum_t h_(t-1) dq_t^T`, as for a dense
    layer whose tokens are the steps. The rule calls the layer by a loop of its own, which keeps
    the states and lets the gradients in `p` and `q` be asked for; results are Keras' to rounding.
    """

    # True if dq differs from dp: then it is asked for by itself.
    has_own_recurrent_gradient = False

    @abc.abstractmethod
    def step(self, cell: Any, projected: Any, recurrent: Any, states: list[Any]) -> list[Any]:
        """The next states, the output first.

        Args:
            cell: the layer's cell.
            projected: `p_t`, `(records, gates * units)`.
            recurrent: `q_t`, likewise.
            states: the states before.
        """

    def biases(self, cell: Any) -> tuple[Any, Any]:
        """The biases of `p` and of `q`, either may be None."""
        return cell.bias, None

    def supports(self, layer: Any) -> bool:
        return not layer.stateful

    def variables(self, layer: Any) -> list[Any]:
        cell = layer.cell
        found = (cell.kernel, cell.recurrent_kernel, cell.bias)
        return [variable for variable in found if variable is not None]

    def call(self, layer: Any, record: LayerCall) -> Any:
        """Calls the layer and keeps in `record` what the gradients are made of."""
        names = ("sequences", "initial_state", "mask", "training")
        given = {**dict(zip(names, record.args, strict=False)), **record.kwargs}
        cell, training = layer.cell, bool(given.get("training"))
        x = given["sequences"]
        states = given.get("initial_state")
        if states is None:
            states = layer.get_initial_state(batch_size=tf.shape(x)[0])
        states = [tf.cast(s, cell.compute_dtype) for s in tf.nest.flatten(states)]
        mask = given.get("mask")
        mask = mask[0] if isinstance(mask, (list, tuple)) else mask
        keep, keep_state = _dropout_masks(cell, x[:, 0], states[0], training)
        if layer.go_backwards:
            x = tf.reverse(x, [1])
            mask = None if mask is None else tf.reverse(mask, [1])
        on_inputs, on_states = self.biases(cell)
        x = tf.concat([x * part[:, None] for part in keep], axis=2) if keep else x
        projected = _by_gates(x, cell.kernel)
        if on_inputs is not None:
            projected = keras.ops.add(projected, on_inputs)
        taps = [projected]
        if self.has_own_recurrent_gradient:
            # A zero that the tape follows: its gradient is that of the recurrent products.
            taps.append(
                tf.zeros_like(projected) * tf.convert_to_tensor(cell.recurrent_kernel)[0, 0]
            )
        outputs, before, states = _loop(
            lambda p, q, s: self.step(cell, p, q, s),
            taps,
            states,
            (cell.recurrent_kernel, on_states),
            mask,
            keep_state,
            layer.zero_output_for_mask,
        )
        record.output, record.extra = taps, [x, before]
        result = outputs if layer.return_sequences else outputs[:, -1]
        result = tf.cast(result, layer.compute_dtype)
        return (result, *states) if layer.return_state else result

    def factors(self, layer: Any, calls: list[LayerCall]) -> list[Any]:
        x = tf.concat([full_precision(call.extra[0]) for call in calls], axis=1)
        before = tf.concat([full_precision(call.extra[1]) for call in calls], axis=1)
        gradients = [tf.concat([full_precision(call.gradient[i]) for call in calls], axis=1)
                     for i in range(2 if self.has_own_recurrent_gradient else 1)]  # fmt: skip
        found = []
        if self.takes(layer.cell.kernel):
            found += _gate_pairs(x, gradients[0], layer.cell.kernel)
        if self.takes(layer.cell.recurrent_kernel):
            found += _gate_pairs(before, gradients[-1], layer.cell.recurrent_kernel)
        if layer.cell.bias is not None and self.takes(layer.cell.bias):
            sums = [tf.reduce_sum(gradient, axis=1) for gradient in gradients]
            found.append(sums[0] if len(sums) == 1 else tf.stack(sums, axis=1))
        return found

    def measured(self, layer: Any, factors: list[Any]) -> Measured:
        norms, kept = [], []
        rest = list(factors)
        while len(rest) > 1:
            part = measured_tokens(rest.pop(0), rest.pop(0))
            norms.append(part.squared_norms)
            kept += marked(part)
        if rest:
            norms.append(reductions.squared_norms(rest[0]))
            kept += rest
        return Measured(tf.add_n(norms), kept)

    def weighted_sums(self, layer: Any, kept: list[Any], weights: Any) -> list[Any]:
        sums, rest = [], list(kept)
        for variable in (layer.cell.kernel, layer.cell.recurrent_kernel):
            if self.takes(variable):
                parts = [next_token_sum(rest, weights)]
                while sum(part.shape[1] for part in parts) < variable.shape[1]:
                    parts.append(next_token_sum(rest, weights))
                sums.append(parts[0] if len(parts) == 1 else tf.concat(parts, axis=1))
        if rest:
            sums.append(reductions.weighted_sum(rest[0], weights))
        return sums


@register_rule(keras.layers.SimpleRNN)
class SimpleRNNRule(RecurrentRule):
    """`h_t = f(p_t + q_t)`."""

    def step(self, cell: Any, projected: Any, recurrent: Any, states: list[Any]) -> list[Any]:
        return [cell.activation(projected + recurrent)]


@register_rule(keras.layers.LSTM)
class LSTMRule(RecurrentRule):
    """Gates i, f, c, o of `p_t + q_t`; `c_t = f c_(t-1) + i g(c)`, `h_t = o g(c_t)`."""

    def step(self, cell: Any, projected: Any, recurrent: Any, states: list[Any]) -> list[Any]:
        i, f, c, o = tf.split(projected + recurrent, 4, axis=1)
        carry = cell.recurrent_activation(f) * states[1]
        carry += cell.recurrent_activation(i) * cell.activation(c)
        return [cell.recurrent_activation(o) * cell.activation(carry), carry]


@register_rule(keras.layers.GRU)
class GRURule(RecurrentRule):
    """Gates z, r of `p_t + q_t`, candidate `g(p_h + r q_h)`; `h_t = z h_(t-1) + (1 - z) h`.

    The reset gate comes after the recurrent product (`reset_after=True`, Keras' default); before
    it, the fallback serves the layer.
    """

    has_own_recurrent_gradient = True

    def supports(self, layer: Any) -> bool:
        return super().supports(layer) and layer.cell.reset_after

    def biases(self, cell: Any) -> tuple[Any, Any]:
        if cell.bias is None:
            return None, None
        bias = tf.convert_to_tensor(cell.bias)
        return bias[0], bias[1]

    def step(self, cell: Any, projected: Any, recurrent: Any, states: list[Any]) -> list[Any]:
        p_z, p_r, p_h = tf.split(projected, 3, axis=1)
        q_z, q_r, q_h = tf.split(recurrent, 3, axis=1)
        z, r = cell.recurrent_activation(p_z + q_z), cell.recurrent_activation(p_r + q_r)
        return [z * states[0] + (1 - z) * cell.activation(p_h + r * q_h)]


def _loop(
    step: Callable[[Any, Any, list[Any]], list[Any]],
    taps: list[Any],
    states: list[Any],
    recurrent: tuple[Any, Any],
    mask: Any,
    keep_state: list[Any],
    zero_where_masked: bool,
) -> tuple[Any, Any, list[Any]]:
    """Goes through the steps.

    Args:
        step: of `p_t`, `q_t` and the states, gives the next states.
        taps: `p`, and what is added to `q`, `(records, steps, gates * units)`.
        states: the first ones.
        recurrent: kernel and bias of `q`.
        mask: bool `(records, steps)` or None; a masked step leaves the states as they are.
        keep_state: dropout's factors on `h`, one for all gates or one for each, `(records, units)`;
            may be empty.
        zero_where_masked: bool; a masked step's output is 0 instead of the last one.

    Returns:
        outputs, `(records, steps, units)`; the `h` that met the recurrent kernel, several one after
        another on the last axis; last states.
    """
    kernel, bias = (None if part is None else tf.convert_to_tensor(part) for part in recurrent)
    # Arrays: the gradient of a slice would be a tensor of all steps, at each step.
    by_time = [_unstacked(tap) for tap in taps]
    masks = None if mask is None else _unstacked(tf.cast(mask, tf.bool)[..., None])
    length = tf.shape(taps[0])[1]
    stored = [tf.TensorArray(states[0].dtype, length) for _ in range(2)]

    def body(t: Any, output: Any, states: list[Any], outputs: Any, before: Any) -> Any:
        h = states[0]
        h = tf.concat([h * part for part in keep_state], axis=1) if keep_state else h
        q = _by_gates(h, kernel)
        q = q if bias is None else q + tf.cast(bias, h.dtype)
        q = q + by_time[1].read(t) if len(by_time) > 1 else q
        after = step(by_time[0].read(t), q, states)
        new = after[0]
        if masks is not None:
            there = masks.read(t)
            new = tf.where(there, new, tf.zeros_like(new) if zero_where_masked else output)
            after = [tf.where(there, a, b) for a, b in zip(after, states, strict=True)]
        return t + 1, new, after, outputs.write(t, new), before.write(t, h)

    _, _, states, outputs, before = tf.while_loop(
        lambda t, *_: t < length,
        body,
        (0, tf.zeros_like(states[0]), states, *stored),
        maximum_iterations=taps[0].shape[1],  # which XLA has to know
    )
    sequences = []
    for array in (outputs, before):
        sequences.append(tf.transpose(array.stack(), (1, 0, 2)))
    widths = (1, max(1, len(keep_state)))
    for sequence, width in zip(sequences, widths, strict=True):
        sequence.set_shape((None, taps[0].shape[1], width * states[0].shape[1]))
    return sequences[0], sequences[1], states


def _unstacked(tensor: Any) -> Any:
    """The steps of `(records, steps, ...)` as an array."""
    by_time = tf.transpose(tensor, (1, 0, 2))
    array = tf.TensorArray(tensor.dtype, tf.shape(by_time)[0], element_shape=by_time.shape[1:])
    return array.unstack(by_time)


def _dropout_masks(
    cell: Any, inputs: Any, state: Any, training: bool
) -> tuple[list[Any], list[Any]]:
    """Factors on all steps' inputs and on states: none, one for all gates, or one for each.

    As in Keras, they are drawn for a call and used in training alone.
    """
    found: list[list[Any]] = [[], []]
    if cell.dropout:
        found[0] = tf.nest.flatten(cell.get_dropout_mask(inputs))
    if cell.recurrent_dropout:
        found[1] = tf.nest.flatten(cell.get_recurrent_dropout_mask(state))
    cell.reset_dropout_mask()
    cell.reset_recurrent_dropout_mask()
    return (found[0], found[1]) if training else ([], [])


def _by_gates(tensor: Any, kernel: Any) -> Any:
    """The product with a kernel; of several tensors on the last axis each meets its gate's part."""
    kernel = tf.cast(tf.convert_to_tensor(kernel), tensor.dtype)
    gates = tensor.shape[-1] // kernel.shape[0]
    if gates == 1:
        return tf.matmul(tensor, kernel)
    pairs = zip(tf.split(tensor, gates, -1), tf.split(kernel, gates, 1), strict=True)
    return tf.concat([tf.matmul(*pair) for pair in pairs], axis=-1)


def _gate_pairs(tokens: Any, gradients: Any, kernel: Any) -> list[Any]:
    """Tokens and their gradients, one pair or one for each gate, one after another."""
    gates = tokens.shape[-1] // kernel.shape[0]
    pairs = zip(tf.split(tokens, gates, -1), tf.split(gradients, gates, -1), strict=True)
    return [tensor for pair in pairs for tensor in pair]
