"""Normalisation of tokens, with noise on its statistics (eq 5), and of whole images."""

from typing import Any

import keras
from keras import ops

from keras_dpvit import _validate


@keras.saving.register_keras_serializable(package="keras_dpvit")
class GainAndBias(keras.layers.Layer):
    """`x * gain + bias` along the last axis: the learned half of a normalisation.

    Args:
        use_bias: bool.

    Input and output shape:
        `(batch, ..., width)`.
    """

    def __init__(self, use_bias: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.use_bias = use_bias

    def build(self, input_shape: Any) -> None:
        shape = (input_shape[-1],)
        self.gain = self.add_weight(name="gain", shape=shape, initializer="ones")
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=shape, initializer="zeros")

    def call(self, inputs: Any) -> Any:
        outputs = inputs * self.gain
        return outputs if self.bias is None else outputs + self.bias

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "use_bias": self.use_bias}


@keras.saving.register_keras_serializable(package="keras_dpvit")
class DPLayerNormalization(keras.layers.Layer):
    """Normalises each token by its own noisy mean and standard deviation (eq 5).

    `y = gain * (x - mean') / std' + bias` with `mean' = mean + t*N(0, 1)` and
    `std' = |std + t*N(0, 1)| + epsilon`, statistics per token over its channels; no statistic
    crosses examples. The noise is a regulariser and earns no epsilon: the statistics are not
    released. The statistics are computed in float32.

    Args:
        noise_stddev: float, `t`; 0 is plain layer normalisation.
        noise_at_inference: bool, noise outside training too.
        epsilon: float, keeps a vanishing deviation from dividing.
        use_bias: bool, whether a bias is learned.
        seed: int or None.

    Input and output shape:
        `(batch, ..., width)`.
    """

    def __init__(
        self,
        noise_stddev: float = 0.0,
        noise_at_inference: bool = False,
        epsilon: float = 1e-6,
        use_bias: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.noise_stddev = _validate.non_negative(noise_stddev=noise_stddev)
        self.noise_at_inference = noise_at_inference
        self.epsilon = _validate.positive(epsilon=epsilon)
        self.use_bias = use_bias
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed) if noise_stddev > 0 else None
        self.gain_and_bias = GainAndBias(use_bias, name="gain_and_bias", dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        self.gain_and_bias.build(input_shape)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        x = ops.cast(inputs, "float32")
        mean = ops.mean(x, axis=-1, keepdims=True)
        stddev = ops.sqrt(ops.var(x, axis=-1, keepdims=True) + self.epsilon**2)
        noisy = self.seed_generator is not None and (training or self.noise_at_inference)
        if noisy:
            shape = ops.shape(mean)
            mean = mean + self.draw_noise(shape)
            stddev = ops.abs(stddev + self.draw_noise(shape))
        # One division a token, not one a channel: quicker, in int8 above all.
        normalized = (x - mean) * (1.0 / (stddev + self.epsilon))
        if noisy:  # which can take the deviation away, and float16 ends at 65504
            normalized = ops.clip(normalized, -6e4, 6e4)
        return self.gain_and_bias(ops.cast(normalized, self.compute_dtype))

    def draw_noise(self, shape: Any) -> Any:
        """Noise of statistics of this shape; an export puts another source in its place."""
        return keras.random.normal(shape, stddev=self.noise_stddev, seed=self.seed_generator)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "noise_stddev": self.noise_stddev,
            "noise_at_inference": self.noise_at_inference,
            "epsilon": self.epsilon,
            "use_bias": self.use_bias,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="keras_dpvit")
class ImageStandardization(keras.layers.Layer):
    """Shifts and scales each image to mean 0 and standard deviation 1 over its own pixels.

    No parameter and no statistic of the data: what one image becomes depends on it alone, so it
    costs no privacy. Under DP it saves the steps (and noise) that learning the common brightness
    would take. An image of one colour becomes 0. Statistics are in float32.

    Args:
        epsilon: float, added to the deviation; in units of the pixels.

    Input and output shape:
        `(batch, height, width, channels)`.
    """

    def __init__(self, epsilon: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = _validate.positive(epsilon=epsilon)

    def call(self, images: Any) -> Any:
        x = ops.cast(images, "float32")
        mean = ops.mean(x, axis=(1, 2, 3), keepdims=True)
        stddev = ops.std(x, axis=(1, 2, 3), keepdims=True)
        return ops.cast((x - mean) / (stddev + self.epsilon), self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}
