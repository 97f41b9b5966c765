"""The CONV module (eq 8): convolutions beside or in front of the transformer."""

import math
from typing import Any

import keras
from keras import ops

from keras_dpvit import _validate
from keras_dpvit.errors import InputError


@keras.saving.register_keras_serializable(package="keras_dpvit")
class ConvStem(keras.layers.Layer):
    """Two 3x3 convolutions in front of the patches, each followed by GELU.

    Args:
        filters: int, channels out.

    Input shape:
        `(batch, height, width, channels)`.

    Output shape:
        `(batch, height, width, filters)`.
    """

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = _validate.positive_int(filters=filters)
        self.convolutions = [
            keras.layers.Conv2D(
                filters,
                3,
                padding="same",
                activation="gelu",
                name=f"convolution_{i}",
                dtype=self.dtype_policy,
            )
            for i in (1, 2)
        ]

    def build(self, input_shape: Any) -> None:
        self.convolutions[0].build(input_shape)
        self.convolutions[1].build((*input_shape[:-1], self.filters))

    def call(self, images: Any) -> Any:
        return self.convolutions[1](self.convolutions[0](images))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "filters": self.filters}


@keras.saving.register_keras_serializable(package="keras_dpvit")
class TokenDepthwiseConv(keras.layers.Layer):
    """Adds to each token a learned mix of its neighbours in the sequence, channel by channel.

    `y_t = x_t + sum_k w_k * x_(t+k)`, zeros beyond the ends. It starts at zero, as the identity.

    Args:
        kernel_size: odd int, tokens under the kernel.

    Input and output shape:
        `(batch, tokens, width)`.
    """

    def __init__(self, kernel_size: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kernel_size = _validate.positive_int(kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise InputError(f"kernel_size must be odd, got {kernel_size}.")

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight(
            name="kernel", shape=(self.kernel_size, input_shape[-1]), initializer="zeros"
        )

    def shifted(self, tokens: Any) -> list[Any]:
        """The input moved under each element of the kernel, `(batch, tokens, width)` each."""
        reach, length = self.kernel_size // 2, tokens.shape[1]
        padded = ops.pad(tokens, ((0, 0), (reach, reach), (0, 0)))
        return [padded[:, k : k + length] for k in range(self.kernel_size)]

    def call(self, tokens: Any) -> Any:
        mixed = tokens
        for k, moved in enumerate(self.shifted(tokens)):
            mixed = mixed + self.kernel[k] * moved
        return mixed

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kernel_size": self.kernel_size}


@keras.saving.register_keras_serializable(package="keras_dpvit")
class ConvBranch(keras.layers.Layer):
    """The parallel CONV branch of eq 8: a convolution of the features, then linearly to logits.

    Over scattering features, which are convolutions already, no filters are needed: this is then
    the linear model on scattering features of Tramer and Boneh (2021), the strongest known start
    under DP. With filters, a 3x3 convolution of stride 2, GELU and a normalisation over groups of
    channels, which has no parameters and looks at one example, go before the linear layer. The
    linear layer starts at zero, so that the other branch starts alone.

    Args:
        num_classes: int.
        filters: int, channels of the convolution; 0 for none.

    Input shape:
        `(batch, height, width, channels)`.

    Output shape:
        logits `(batch, num_classes)`, float32.
    """

    def __init__(self, num_classes: int, filters: int = 0, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.num_classes = _validate.positive_int(num_classes=num_classes)
        self.filters = filters if filters == 0 else _validate.positive_int(filters=filters)
        self.linear = keras.layers.Dense(
            num_classes, name="linear", kernel_initializer="zeros", dtype=self.dtype_policy
        )
        self.convolution = None
        if filters:
            self.convolution = keras.layers.Conv2D(
                filters,
                3,
                strides=2,
                padding="same",
                activation="gelu",
                name="convolution",
                dtype=self.dtype_policy,
            )
            self.normalization = group_normalization(filters, dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        if self.convolution is not None:
            self.convolution.build(input_shape)
            input_shape = self.convolution.compute_output_shape(input_shape)
            self.normalization.build(input_shape)
        self.linear.build((None, math.prod(input_shape[1:])))

    def call(self, features: Any) -> Any:
        x = features
        if self.convolution is not None:
            x = self.normalization(self.convolution(x))
        return self.linear(ops.reshape(x, (-1, math.prod(x.shape[1:]))))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], self.num_classes)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_classes": self.num_classes, "filters": self.filters}


def group_normalization(channels: int, groups: int = 27, **kwargs: Any) -> Any:
    """A group normalisation without parameters: nothing to learn, so nothing to protect.

    Args:
        channels: int.
        groups: int, wished number; the nearest divisor of the channels below it counts.
        **kwargs: for the layer.
    """
    groups = max(g for g in range(1, min(groups, channels) + 1) if channels % g == 0)
    return keras.layers.GroupNormalization(
        groups, center=False, scale=False, **{"name": "normalization", **kwargs}
    )
