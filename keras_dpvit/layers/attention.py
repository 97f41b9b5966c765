"""Self-attention (eq 1) and threshold attention (eq 2), with noise after the softmax."""

import math
from typing import Any

import keras
from keras import ops

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.layers.position_gate import PositionGate


@keras.saving.register_keras_serializable(package="keras_dpvit")
class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention with Gaussian noise on the attention weights (eq 1).

    `concat_h(A_h V_h) W + b` with `A_h = softmax(Q_h K_h^T / sqrt(D)) + N(0, t^2)`. The key has no
    bias: the softmax cancels it, so under DP it would receive nothing but noise. The noise is a
    regulariser and earns no epsilon: attention weights are not what training releases
    (`release_event` says what releasing them would cost). Softmax and noise are in float32.

    Args:
        num_heads: int, divides the width.
        attention_noise_stddev: float, `t`.
        noise_at_inference: bool, noise outside training too.
        renormalize: bool, after noise cut the rows at zero and scale them back to sum 1.
        qk_scale: bool, the factor `1 / sqrt(D)` before the softmax (eq 2 is printed without).
        seed: int or None.

    Input and output shape:
        `(batch, tokens, width)`.

    Raises:
        InputError: if the width is not a multiple of `num_heads`.
    """

    def __init__(
        self,
        num_heads: int,
        attention_noise_stddev: float = 0.0,
        noise_at_inference: bool = False,
        renormalize: bool = True,
        qk_scale: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = _validate.positive_int(num_heads=num_heads)
        self.attention_noise_stddev = _validate.non_negative(
            attention_noise_stddev=attention_noise_stddev
        )
        self.noise_at_inference = noise_at_inference
        self.renormalize = renormalize
        self.qk_scale = qk_scale
        self.seed = seed
        self.seed_generator = None
        if attention_noise_stddev > 0:
            self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape: Any) -> None:
        self._num_tokens, width = input_shape[1:]
        if width % self.num_heads:
            raise InputError(
                f"num_heads must divide the width {width}, got num_heads={self.num_heads}."
            )
        self.query = self._projection("query", width, use_bias=True)
        self.key = self._projection("key", width, use_bias=False)
        self.value = self._projection("value", width, use_bias=True)
        self.output_projection = self._projection("output_projection", width, use_bias=True)
        for layer in (self.query, self.key, self.value, self.output_projection):
            layer.build(input_shape)

    def _projection(self, name: str, width: int, use_bias: bool) -> keras.layers.Dense:
        return keras.layers.Dense(
            width,
            use_bias=use_bias,
            kernel_initializer=self._kernel_initializer(name),
            name=name,
            dtype=self.dtype_policy,
        )

    def _kernel_initializer(self, name: str) -> Any:
        del name
        return "glorot_uniform"

    def call(self, tokens: Any, training: bool | None = None) -> Any:
        attention = self._add_noise(self.attention_weights(tokens), training)
        values = self._split_heads(self.value(tokens))
        mixed = ops.matmul(ops.cast(attention, values.dtype), values)
        mixed = ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, *tokens.shape[1:]))
        return self.output_projection(mixed)

    def attention_weights(self, tokens: Any) -> Any:
        """Attention weights before noise, float32 `(batch, heads, tokens, tokens)`."""
        query = self._split_heads(self.query(tokens))
        key = self._split_heads(self.key(tokens))
        scale = 1.0 / math.sqrt(tokens.shape[-1] // self.num_heads) if self.qk_scale else 1.0
        scores = ops.matmul(query * scale, ops.transpose(key, (0, 1, 3, 2)))
        return self._mix(ops.softmax(ops.cast(scores, "float32"), axis=-1))

    def _mix(self, content: Any) -> Any:
        return content

    def _split_heads(self, x: Any) -> Any:
        _, tokens, width = x.shape
        x = ops.reshape(x, (-1, tokens, self.num_heads, width // self.num_heads))
        return ops.transpose(x, (0, 2, 1, 3))

    def _add_noise(self, attention: Any, training: bool | None) -> Any:
        if self.seed_generator is None or not (training or self.noise_at_inference):
            return attention
        attention = attention + ops.cast(self.draw_noise(ops.shape(attention)), attention.dtype)
        if not self.renormalize:
            return attention
        attention = ops.relu(attention)
        # A row cut to nothing stays zero: the token then passes on through the residual alone.
        return attention / ops.maximum(ops.sum(attention, axis=-1, keepdims=True), 1e-6)

    def draw_noise(self, shape: Any) -> Any:
        """Noise of attention weights of this shape; an export puts another source in its place."""
        return keras.random.normal(
            shape, stddev=self.attention_noise_stddev, seed=self.seed_generator
        )

    def release_event(self) -> Any:
        """The event of publishing this layer's noisy attention maps of one image.

        A row of weights is a probability vector, so another image in its place moves it by at most
        sqrt(2) in L2; the maps are `heads * tokens` such rows, each with noise `t`. The event is
        for replacing the image, covers these maps alone, and is not part of what training costs;
        without noise it is a non-private one. At usual `t` it is a large epsilon: the noise
        guarantees nothing worth having.

        Returns:
            `dp_accounting.DpEvent`.

        Raises:
            InputError: if the layer is not built, so that its tokens are unknown.
        """
        import dp_accounting  # not needed to run the layer

        if not self.built:
            raise InputError("release_event needs a built layer: call the layer or build it first.")
        if not self.attention_noise_stddev:
            return dp_accounting.NonPrivateDpEvent()
        row = dp_accounting.GaussianDpEvent(self.attention_noise_stddev / math.sqrt(2))
        return dp_accounting.SelfComposedDpEvent(row, self.num_heads * self._num_tokens)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "attention_noise_stddev": self.attention_noise_stddev,
            "noise_at_inference": self.noise_at_inference,
            "renormalize": self.renormalize,
            "qk_scale": self.qk_scale,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="keras_dpvit")
class ThresholdAttention(SelfAttention):
    """Self-attention whose weights are gated between content and place (eq 2; ConViT's GPSA).

    The first block of a stage attends locally: heads start on the cells around a token and the
    value projection starts as the identity, so at first the layer is close to a convolution.

    Args:
        num_heads: int, divides the width.
        coordinates, locality_strength, gate, relative, head_offsets: see `PositionGate`.
        **kwargs: as in `SelfAttention`.
    """

    def __init__(
        self,
        num_heads: int,
        coordinates: Any = None,
        locality_strength: float = 1.0,
        gate: str = "sigmoid",
        relative: str = "2d",
        head_offsets: str = "convit",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_heads, **kwargs)
        self.position_gate = PositionGate(
            coordinates,
            locality_strength,
            gate,
            relative,
            head_offsets,
            name="position_gate",
            dtype="float32",  # as the softmax and the noise around it
        )

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        tokens = input_shape[1]
        self.position_gate.build((None, self.num_heads, tokens, tokens))

    @property
    def coordinates(self) -> Any:
        """Column and row of each token, as given."""
        return self.position_gate.coordinates

    def _kernel_initializer(self, name: str) -> Any:
        if name == "value":
            return "identity"
        return super()._kernel_initializer(name)

    def _mix(self, content: Any) -> Any:
        return self.position_gate(content)

    def get_config(self) -> dict[str, Any]:
        gate = self.position_gate.get_config()
        names = ("coordinates", "locality_strength", "gate", "relative", "head_offsets")
        return {**super().get_config(), **{name: gate[name] for name in names}}
