"""The paper's loss of each class against all others."""

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="keras_dpvit")
class PerClassBinaryCrossentropy(keras.losses.Loss):
    """Binary cross-entropy of each class against all others, averaged over classes (eq 7).

    `-(1/C) sum_c [y_c log p_c + (1 - y_c) log(1 - p_c)]` with `p = sigmoid(logits)`, computed from
    the logits so that no probability reaches 0 or 1. Beside softmax cross-entropy each class has
    its own threshold. At inference take the largest logit, or the sigmoids.

    Args:
        name: str or None.
        reduction: as in `keras.losses.Loss`; private training takes one value for each record.

    Input shapes:
        labels: class numbers `(batch,)` or `(batch, 1)`, or 0/1 for each class
            `(batch, num_classes)`.
        logits: `(batch, num_classes)`.

    Example:
        >>> loss = kd.PerClassBinaryCrossentropy()
        >>> float(loss(np.array([1]), np.zeros((1, 3), "float32"))) > 0
        True
    """

    def __init__(
        self,
        name: str | None = "per_class_binary_crossentropy",
        reduction: str = "sum_over_batch_size",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, reduction=reduction, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        classes = y_pred.shape[-1]
        if len(y_true.shape) == 1 or (y_true.shape[-1] == 1 and classes > 1):
            numbers = keras.ops.cast(keras.ops.reshape(y_true, (-1,)), "int32")
            y_true = keras.ops.one_hot(numbers, classes, dtype=y_pred.dtype)
        y_true = keras.ops.cast(y_true, y_pred.dtype)
        return keras.losses.binary_crossentropy(y_true, y_pred, from_logits=True)
