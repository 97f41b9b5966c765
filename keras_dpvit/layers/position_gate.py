"""Fixed relative encodings, learned position scores and the gate between place and content."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.layers.pooling import grid_coordinates


def token_spacing(coordinates: np.ndarray) -> tuple[float, float]:
    """Distance between neighbouring tokens along columns and rows, in patches.

    Pooling in raster order stretches rows first, so the two differ. A direction in which the
    tokens do not extend has spacing 1.
    """
    steps = np.diff(coordinates, axis=0)
    along_row = steps[(np.abs(steps[:, 1]) < 0.5) & (steps[:, 0] > 0), 0]
    rows = np.unique(coordinates[:, 1])
    return (
        float(np.median(along_row)) if along_row.size else 1.0,
        float(np.median(np.diff(rows))) if rows.size > 1 else 1.0,
    )


def relative_encodings(coordinates: np.ndarray) -> np.ndarray:
    """ConViT's fixed encodings `(dx, dy, dx^2 + dy^2)` from token i to token j.

    Args:
        coordinates: float `(tokens, 2)`, column and row.

    Returns:
        float `(tokens, tokens, 3)`, in units of the token spacing.
    """
    scaled = coordinates / np.array(token_spacing(coordinates))
    offsets = scaled[None, :, :] - scaled[:, None, :]
    return np.concatenate([offsets, np.sum(offsets**2, axis=-1, keepdims=True)], axis=-1)


def locality_weights(num_heads: int, locality_strength: float, random: np.ndarray) -> np.ndarray:
    """Initial position weights: head h attends to one cell of a square around the token.

    With `k = floor(sqrt(num_heads))` the first `k*k` heads get `strength * (2 Dx, 2 Dy, -1)`,
    whose scores are a Gaussian bump at offset (Dx, Dy); further heads keep `random * strength`
    (ConViT's rule).

    Args:
        num_heads: int.
        locality_strength: float, sharpness of the bump.
        random: float `(num_heads, 3)`, small random numbers.

    Returns:
        float `(num_heads, 3)`.
    """
    side = math.isqrt(num_heads)
    center = side // 2 if side % 2 else (side - 1) / 2
    weights = np.array(random, dtype=np.float64)
    for head in range(side * side):
        dy, dx = head // side - center, head % side - center
        weights[head] = (2 * dx, 2 * dy, -1)
    return weights * locality_strength


@keras.saving.register_keras_serializable(package="keras_dpvit")
class PositionGate(keras.layers.Layer):
    """Mixes content attention with attention by place, one gate a head (eq 2; ConViT's GPSA).

    `(1 - g_h) * content + g_h * softmax_j(w_h . r_ij)` with `g_h = sigmoid(gate_h)` and fixed
    encodings `r_ij`. There is no position bias: the softmax cancels it, so under DP it would
    receive nothing but noise. One layer owns both parameters so that a record's gradient in
    them can be had from the layer's own input and output.

    Args:
        coordinates: nested list `(tokens, 2)`, column and row of each token; None takes a square
            grid.
        locality_strength: float, see `locality_weights`.

    Input and output shape:
        `(batch, heads, tokens, tokens)`, rows summing to 1.

    Raises:
        InputError: if the coordinates do not fit the number of tokens.
    """

    def __init__(
        self, coordinates: Any = None, locality_strength: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.coordinates = None if coordinates is None else np.asarray(coordinates).tolist()
        self.locality_strength = _validate.positive(locality_strength=locality_strength)

    def build(self, input_shape: Any) -> None:
        num_heads, num_tokens = input_shape[1], input_shape[-1]
        self.encodings = relative_encodings(self._coordinates(num_tokens)).astype("float32")
        initializer = keras.initializers.TruncatedNormal(stddev=0.02)
        self.position_weights = self.add_weight(
            name="position_weights",
            shape=(num_heads, 3),
            initializer=lambda shape, dtype=None: ops.cast(
                locality_weights(
                    num_heads,
                    self.locality_strength,
                    ops.convert_to_numpy(initializer(shape, dtype="float32")),
                ),
                dtype or "float32",
            ),
            autocast=False,
        )
        self.gate = self.add_weight(
            name="gate", shape=(num_heads,), initializer="ones", autocast=False
        )

    def _coordinates(self, num_tokens: int) -> np.ndarray:
        if self.coordinates is None:
            side = math.isqrt(num_tokens)
            if side * side != num_tokens:
                raise InputError(
                    f"coordinates must be given where the tokens ({num_tokens}) are no square grid."
                )
            return grid_coordinates(side, side)
        if len(self.coordinates) != num_tokens:
            raise InputError(
                f"coordinates must have one row for each of {num_tokens} tokens, "
                f"got {len(self.coordinates)}."
            )
        return np.asarray(self.coordinates)

    def place_attention(self) -> Any:
        """Attention by place alone, float32 `(heads, tokens, tokens)`; the same for all images."""
        scores = ops.einsum("hc,ijc->hij", self.position_weights, self.encodings)
        return ops.softmax(scores, axis=-1)

    def call(self, content: Any) -> Any:
        gate = ops.sigmoid(self.gate)[:, None, None]
        place = self.place_attention()
        mixed = (1.0 - gate) * ops.cast(content, "float32") + gate * place
        return ops.cast(mixed, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "coordinates": self.coordinates,
            "locality_strength": self.locality_strength,
        }
