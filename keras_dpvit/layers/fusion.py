"""Adaptive weighted fusion of predictions (eq 14-17)."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_dpvit")
class AdaptiveWeightedFusion(keras.layers.Layer):
    """Weighs each member's prediction by its variance over the classes.

    For member m with probabilities `p_m` over K classes, `v_m = mean((p_m - 1/K)^2)` (eq 14-15),
    `w_m = v_m / sum(v)` (eq 16), fused `sum(w_m p_m)` (eq 17), image by image. Where every member
    is uniform (`sum(v)` is 0, and eq 16 undefined) the weights are equal. Computed in float32.
    No parameter is learned: the fusion is post-processing of its members and costs no privacy
    beyond theirs.

    Input shape:
        `(batch, members, classes)`, each row a distribution.

    Output shape:
        the fused probabilities `(batch, classes)` and the weights `(batch, members)`.

    Example:
        >>> fused = kd.AdaptiveWeightedFusion()(np.full((1, 2, 3), 1 / 3, "float32"))
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})

    def call(self, probabilities: Any) -> tuple[Any, Any]:
        members = probabilities.shape[1]
        variances = ops.var(probabilities, axis=-1)
        total = ops.sum(variances, axis=-1, keepdims=True)
        # Rounding alone gives equal probabilities a variance of about 1e-16.
        defined = total > 1e-12
        weights = ops.where(defined, variances / ops.where(defined, total, 1.0), 1.0 / members)
        fused = ops.sum(weights[:, :, None] * probabilities, axis=1)
        return fused, weights

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, Any]:
        batch, members, classes = input_shape
        return (batch, classes), (batch, members)

    def get_config(self) -> dict[str, Any]:
        return super().get_config()  # Keras' automatic one refuses a dtype policy object
