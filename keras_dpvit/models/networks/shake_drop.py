"""ShakeDrop: a residual branch that is now and then multiplied by noise."""

from typing import Any

import keras
from keras import ops

from keras_dpvit.errors import InputError


@keras.saving.register_keras_serializable(package="keras_dpvit")
class ShakeDrop(keras.layers.Layer):
    """Multiplies a residual branch by random factors while training, by their mean otherwise.

    One coin for the whole batch comes up "keep" with probability `survival`: the branch then
    passes as it is. Otherwise each example is multiplied by `a ~ U(-1, 1)` on the way forward and
    its gradient by `b ~ U(0, 1)` on the way back. At inference the factor is
    `E[coin + (1 - coin) a] = survival`.

    The coin and, through it, the loss of one example are shared with the others of its batch: not
    for private training.

    Source: Yamada, Iwamura, Akiba, Kise, IEEE Access 2019, arXiv 1802.02375.

    Args:
        survival: float in [0, 1].
        seed: int or None.

    Input and output shape:
        `(batch, ...)`.

    Raises:
        InputError: if `survival` is outside.
    """

    def __init__(self, survival: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= survival <= 1:
            raise InputError(f"survival must be in [0, 1], got {survival!r}.")
        self.survival = float(survival)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, branch: Any, training: bool | None = None) -> Any:
        if not training:
            return branch * self.survival
        each = (ops.shape(branch)[0],) + (1,) * (len(branch.shape) - 1)
        keep = ops.cast(self._uniform((), 0.0, 1.0) < self.survival, branch.dtype)
        forward = keep + (1 - keep) * self._uniform(each, -1.0, 1.0)
        backward = keep + (1 - keep) * self._uniform(each, 0.0, 1.0)
        # The value is branch * forward, the gradient that of branch * backward.
        return branch * backward + ops.stop_gradient(branch * (forward - backward))

    def _uniform(self, shape: Any, low: float, high: float) -> Any:
        return keras.random.uniform(
            shape, low, high, dtype=self.compute_dtype, seed=self.seed_generator
        )

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "survival": self.survival, "seed": self.seed}
