"""The pre-normalised transformer block (eq 3, 5, 6)."""

from typing import Any

import keras

from keras_dpvit import _validate
from keras_dpvit.layers.attention import SelfAttention, ThresholdAttention
from keras_dpvit.layers.normalization import DPLayerNormalization

ATTENTIONS = ("self", "threshold")


@keras.saving.register_keras_serializable(package="keras_dpvit")
class TransformerBlock(keras.layers.Layer):
    """`x + Attention(LN(x))`, then `x + MLP(LN(x))` with a GELU MLP of one hidden layer.

    Residuals and MLP are not printed in the paper's eq 5 and needed (its Table 3 has them).

    Args:
        num_heads: int.
        mlp_dim: int, width of the MLP's hidden layer.
        attention: "threshold" (eq 2, first block of a stage) or "self" (eq 1).
        coordinates, locality_strength, gate, relative, head_offsets: see `PositionGate`; unused by
            "self".
        attention_noise_stddev, renormalize, qk_scale: see `SelfAttention`.
        norm_noise_stddev: float, see `DPLayerNormalization`.
        noise_at_inference: bool.
        seed: int or None.

    Input and output shape:
        `(batch, tokens, width)`.
    """

    def __init__(
        self,
        num_heads: int,
        mlp_dim: int,
        attention: str = "self",
        coordinates: Any = None,
        locality_strength: float = 1.0,
        gate: str = "sigmoid",
        relative: str = "2d",
        head_offsets: str = "convit",
        attention_noise_stddev: float = 0.0,
        norm_noise_stddev: float = 0.0,
        noise_at_inference: bool = False,
        renormalize: bool = True,
        qk_scale: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _validate.one_of(ATTENTIONS, attention=attention)
        self._arguments = {
            "num_heads": num_heads,
            "mlp_dim": _validate.positive_int(mlp_dim=mlp_dim),
            "attention": attention,
            "coordinates": coordinates,
            "locality_strength": locality_strength,
            "gate": gate,
            "relative": relative,
            "head_offsets": head_offsets,
            "attention_noise_stddev": attention_noise_stddev,
            "norm_noise_stddev": norm_noise_stddev,
            "noise_at_inference": noise_at_inference,
            "renormalize": renormalize,
            "qk_scale": qk_scale,
            "seed": seed,
        }
        noise = {"noise_at_inference": noise_at_inference, "dtype": self.dtype_policy}
        attend = {
            "attention_noise_stddev": attention_noise_stddev,
            "renormalize": renormalize,
            "qk_scale": qk_scale,
            "seed": _derived(seed, 0),
            "name": "attention",
            **noise,
        }
        if attention == "threshold":
            place = (coordinates, locality_strength, gate, relative, head_offsets)
            self.attention = ThresholdAttention(num_heads, *place, **attend)
            self._arguments["coordinates"] = self.attention.coordinates
        else:
            self.attention = SelfAttention(num_heads, **attend)
        self.norm_1 = DPLayerNormalization(
            norm_noise_stddev, seed=_derived(seed, 1), name="norm_1", **noise
        )
        self.norm_2 = DPLayerNormalization(
            norm_noise_stddev, seed=_derived(seed, 2), name="norm_2", **noise
        )

    def build(self, input_shape: Any) -> None:
        width, mlp_dim = input_shape[-1], self._arguments["mlp_dim"]
        self.mlp_hidden = keras.layers.Dense(
            mlp_dim, activation="gelu", name="mlp_hidden", dtype=self.dtype_policy
        )
        self.mlp_output = keras.layers.Dense(width, name="mlp_output", dtype=self.dtype_policy)
        for layer in (self.norm_1, self.attention, self.norm_2, self.mlp_hidden):
            layer.build(input_shape)
        self.mlp_output.build((*input_shape[:-1], mlp_dim))

    def call(self, tokens: Any, training: bool | None = None) -> Any:
        attended = self.attention(self.norm_1(tokens, training=training), training=training)
        tokens = tokens + attended
        hidden = self.mlp_hidden(self.norm_2(tokens, training=training))
        return tokens + self.mlp_output(hidden)

    def attention_weights(self, tokens: Any) -> Any:
        """Attention weights for a block's input, before noise: `(batch, heads, tokens, tokens)`."""
        return self.attention.attention_weights(self.norm_1(tokens, training=False))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._arguments}


def _derived(seed: int | None, index: int) -> int | None:
    return None if seed is None else seed + index
