"""Fixed relative encodings, learned position scores and the gate between place and content."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.layers.pooling import grid_coordinates

GATES = ("sigmoid", "independent")
RELATIVES = ("1d", "2d")
HEAD_OFFSETS = ("convit", "fill")


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


def sequence_encodings(num_tokens: int) -> np.ndarray:
    """One-dimensional encodings `(dm, dm^2)`, m the index in the sequence.

    Returns:
        float `(tokens, tokens, 2)`.
    """
    index = np.arange(num_tokens, dtype=np.float64)
    offsets = index[None, :] - index[:, None]
    return np.stack([offsets, offsets**2], axis=-1)


def head_offsets(num_heads: int, rule: str) -> np.ndarray:
    """Cells (column, row) around a token at which the heads look first.

    With `k = floor(sqrt(num_heads))` the first `k*k` heads take a square of `k*k` cells, whose
    cells are half-integer if k is even (ConViT). "fill" gives each further head the nearest cell
    left around that square; "convit" gives it none.

    Args:
        num_heads: int.
        rule: "convit" or "fill".

    Returns:
        float `(heads with an offset, 2)`.
    """
    side = math.isqrt(num_heads)
    center = side // 2 if side % 2 else (side - 1) / 2
    square = [(h % side - center, h // side - center) for h in range(side * side)]
    if rule == "fill":
        low, high = square[0][0] - 1, square[-1][0] + 1
        steps = np.arange(low, high + 1)
        ring = [(dx, dy) for dy in steps for dx in steps if (dx, dy) not in square]
        ring.sort(key=lambda cell: cell[0] ** 2 + cell[1] ** 2)
        square += ring[: num_heads - len(square)]
    return np.array(square, dtype=np.float64)


def locality_weights(
    num_heads: int,
    locality_strength: float,
    random: np.ndarray,
    relative: str = "2d",
    rule: str = "convit",
) -> np.ndarray:
    """Initial position weights: each local head attends to one cell near the token.

    A head with offset D gets `strength * (2 D, -1)`, whose scores `-strength * (|d - D|^2 - |D|^2)`
    are a Gaussian bump at D; heads without one keep `random * strength` (ConViT's rule). Along the
    sequence ("1d") every head has an offset: `0, 1, -1, 2, ...` tokens.

    Args:
        num_heads: int.
        locality_strength: float, sharpness of the bump.
        random: float `(num_heads, 3)`, or 2 for "1d": small random numbers.
        relative: "1d" or "2d".
        rule: see `head_offsets`; of no meaning for "1d".

    Returns:
        float, the shape of `random`.
    """
    if relative == "1d":
        heads = np.arange(num_heads)
        offsets = ((heads + 1) // 2 * np.where(heads % 2, 1, -1))[:, None].astype(np.float64)
    else:
        offsets = head_offsets(num_heads, rule)
    weights = np.array(random, dtype=np.float64)
    weights[: len(offsets)] = np.concatenate([2 * offsets, -np.ones((len(offsets), 1))], axis=1)
    return weights * locality_strength


@keras.saving.register_keras_serializable(package="keras_dpvit")
class PositionGate(keras.layers.Layer):
    """Mixes content attention with attention by place, gated for each head (eq 2; ConViT's GPSA).

    `(1 - s_h) * content + s_h * softmax_j(w_h . r_ij)` with fixed encodings `r_ij` and the share of
    place `s_h = sigmoid(gate_h)`, or, with independent gates,
    `s_h = sigmoid(gate_h) / (sigmoid(gate_h) + sigmoid(content_gate_h))`, which is the paper's
    normalised sum of two gated terms. There is no position bias: the softmax cancels it, so under
    DP it would receive nothing but noise. One layer owns all of these parameters so that a record's
    gradient in them can be had from the layer's own input and output.

    Args:
        coordinates: nested list `(tokens, 2)`, column and row of each token; None takes a square
            grid. Unused with `relative="1d"`.
        locality_strength: float, see `locality_weights`.
        gate: "sigmoid" or "independent".
        relative: "2d", offsets of the coordinates, or "1d", offsets in the sequence.
        head_offsets: "convit" or "fill", see the function of this name.

    Input and output shape:
        `(batch, heads, tokens, tokens)`, rows summing to 1.

    Raises:
        InputError: if the coordinates do not fit the number of tokens, or an option is unknown.
    """

    def __init__(
        self,
        coordinates: Any = None,
        locality_strength: float = 1.0,
        gate: str = "sigmoid",
        relative: str = "2d",
        head_offsets: str = "convit",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.coordinates = None if coordinates is None else np.asarray(coordinates).tolist()
        self.locality_strength = _validate.positive(locality_strength=locality_strength)
        self.gate_kind = _validate.one_of(GATES, gate=gate)
        self.relative = _validate.one_of(RELATIVES, relative=relative)
        self.head_offsets = _validate.one_of(HEAD_OFFSETS, head_offsets=head_offsets)

    def build(self, input_shape: Any) -> None:
        num_heads, num_tokens = input_shape[1], input_shape[-1]
        if self.relative == "1d":
            encodings = sequence_encodings(num_tokens)
        else:
            encodings = relative_encodings(self._coordinates(num_tokens))
        self.encodings = encodings.astype("float32")
        self.position_weights = self.add_weight(
            name="position_weights",
            shape=(num_heads, encodings.shape[-1]),
            initializer=self._initial_weights,
            autocast=False,
        )
        self.gate = self.add_weight(
            name="gate", shape=(num_heads,), initializer="ones", autocast=False
        )
        self.content_gate = None
        if self.gate_kind == "independent":  # -1, so that both kinds start with the same share
            self.content_gate = self.add_weight(
                name="content_gate",
                shape=(num_heads,),
                initializer=keras.initializers.Constant(-1.0),
                autocast=False,
            )

    def _initial_weights(self, shape: Any, dtype: Any = None) -> Any:
        random = keras.initializers.TruncatedNormal(stddev=0.02)(shape, dtype="float32")
        weights = locality_weights(
            shape[0],
            self.locality_strength,
            ops.convert_to_numpy(random),
            self.relative,
            self.head_offsets,
        )
        return ops.cast(weights, dtype or "float32")

    def _coordinates(self, num_tokens: int) -> np.ndarray:
        if self.coordinates is None:
            side = math.isqrt(num_tokens)
            if side * side != num_tokens:
                raise InputError(
                    f"coordinates must be given if the tokens ({num_tokens}) do not fill a "
                    "square grid."
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

    def place_share(self) -> Any:
        """The share of place in each head's attention, float32 `(heads,)`."""
        if self.content_gate is None:
            return ops.sigmoid(self.gate)
        # a / (a + b) in logarithms: both sigmoids may vanish.
        return ops.sigmoid(ops.log_sigmoid(self.gate) - ops.log_sigmoid(self.content_gate))

    def call(self, content: Any) -> Any:
        share = self.place_share()[:, None, None]
        mixed = (1.0 - share) * ops.cast(content, "float32") + share * self.place_attention()
        return ops.cast(mixed, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "coordinates": self.coordinates,
            "locality_strength": self.locality_strength,
            "gate": self.gate_kind,
            "relative": self.relative,
            "head_offsets": self.head_offsets,
        }
