"""Keras optimizers that never train without a plan, and never on plain gradients."""

from typing import Any

import keras
import tensorflow as tf

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.training.step import PrivateGradients


class _PrivateOptimizer:
    """The base of the private optimizers: the plan, and the refusal of plain gradients."""

    plan: PrivacyPlan
    # Of Keras' optimizer, the other base.
    gradient_accumulation_steps: int | None
    _trainable_variables: list[Any]

    def _init_private(self, plan: PrivacyPlan) -> None:
        if isinstance(plan, dict):  # from a saved config
            plan = PrivacyPlan.from_config(plan)
        if not isinstance(plan, PrivacyPlan):
            raise InputError(f"plan must be a PrivacyPlan, got {plan!r}.")
        self.plan = plan
        self._check_accumulation()

    def _check_accumulation(self) -> None:
        if self.gradient_accumulation_steps:
            raise InputError(
                "gradient_accumulation_steps must be left out: a step of the plan is one logical "
                "batch already, which fit adds up over chunks of physical_batch_size; for larger "
                "steps give the plan a larger batch_size."
            )

    def private_trainer(self, model: Any, jit_compile: Any, loss_weights: Any = None) -> Any:
        """Called by a model's `compile`: the object that trains it under the plan."""
        from keras_dpvit.training.trainer import PrivateTrainer

        self._check_accumulation()
        return PrivateTrainer(model, self, self.plan, jit_compile, loss_weights)

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        """Applies private gradients.

        Raises:
            InputError: on any other gradients: nothing falls back to training without privacy.
        """
        if not isinstance(grads, PrivateGradients):
            raise InputError(
                f"{type(self).__name__} was handed plain gradients: only a model that gives "
                "per-example gradients can be trained with it. Use DPViTClassifier, or wrap the "
                "model with keras_dpvit.make_private(model)."
            )
        self._take_noise_variance(grads.noise_variance)
        return super().apply(list(grads), trainable_variables)  # type: ignore[misc]

    def _take_noise_variance(self, variance: Any) -> None:
        """Called before an update with the variance of the noise in each gradient."""

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        """As they are, where one replica trains.

        Keras' sum over replicas registers a gradient that TensorFlow never forgets, and with it the
        graph of every `fit`.
        """
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            return list(grads_and_vars)
        return super()._all_reduce_sum_gradients(grads_and_vars)  # type: ignore[misc]

    def finalize_variable_values(self, var_list: Any) -> None:
        """As Keras has it; each variable gets its own average, whatever the order of the list."""
        del var_list
        super().finalize_variable_values(self._trainable_variables)  # type: ignore[misc]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "plan": self.plan.get_config()}  # type: ignore[misc]


# As TF Privacy's optimizers of the same names take them.
_OF_TF_PRIVACY = ("l2_norm_clip", "noise_multiplier", "num_microbatches")


def _refuse_other_arguments(plan: Any, arguments: dict[str, Any]) -> None:
    given = [name for name in _OF_TF_PRIVACY if name in arguments]
    if given:
        raise InputError(
            f"{', '.join(given)} {'belong' if len(given) > 1 else 'belongs'} to a plan here: "
            "kd.PrivacyPlan(num_examples, batch_size, epochs, delta, noise_multiplier=1.1, "
            "sensitivity=kd.FixedSensitivity(l2_norm_clip), clipping=kd.FlatClipping()), and the "
            "optimizer takes it first: kd.DPKerasSGDOptimizer(plan, learning_rate=0.1)."
        )
    if plan is None:
        raise InputError(
            "plan must be given, a kd.PrivacyPlan: kd.DPKerasSGDOptimizer(plan, learning_rate=0.1)."
        )


def private(optimizer: Any, plan: PrivacyPlan) -> Any:
    """Any Keras optimizer under a `PrivacyPlan`.

    Guarantee: the plan's. What an optimizer does with noised gradients is post-processing.

    Args:
        optimizer: a Keras optimizer that has not trained, as `keras.optimizers.Lion(1e-4)`; its
            learning rate may be a schedule. It is not changed.
        plan: a `PrivacyPlan`.

    Returns:
        An optimizer of the same kind and settings for `compile`, saved with its model.

    Raises:
        InputError: if the optimizer or the plan is something else, if it is private already, if
            gradients are accumulated over steps, or if it trains through another optimizer
            (`LossScaleOptimizer`), which skips steps by what it sees of the data.

    Example:
        >>> plan = kd.PrivacyPlan(1000, 100, 1, 1e-4, noise_multiplier=1.0)
        >>> model = kd.make_private(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]))
        >>> model.compile(kd.private(keras.optimizers.Lion(1e-4), plan), "mse")
    """
    if isinstance(optimizer, str) or not isinstance(optimizer, keras.optimizers.Optimizer):
        raise InputError(
            f"optimizer must be a Keras optimizer, got {optimizer!r}: write "
            "kd.private(keras.optimizers.AdamW(1e-3), plan)."
        )
    if isinstance(optimizer, _PrivateOptimizer):
        raise InputError(f"optimizer is private already: {type(optimizer).__name__}.")
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise InputError("optimizer must not be a LossScaleOptimizer: it skips steps by data.")
    config = optimizer.get_config()
    kind: Any = _kind(type(optimizer))
    return kind.from_config({**config, "plan": plan})


_KINDS: dict[type, type] = {}


def _kind(base: type) -> type:
    """The private class over one of Keras' optimizers, made and registered once."""
    if base not in _KINDS:

        def __init__(self: Any, plan: Any, **kwargs: Any) -> None:  # noqa: N807
            base.__init__(self, **kwargs)  # type: ignore[misc]
            self._init_private(plan)

        name = f"Private{base.__name__}"
        made = type(name, (_PrivateOptimizer, base), {"__init__": __init__, "__module__": __name__})
        _KINDS[base] = keras.saving.register_keras_serializable(package="keras_dpvit")(made)
    return _KINDS[base]


@keras.saving.register_keras_serializable(package="keras_dpvit")
class DPKerasSGDOptimizer(_PrivateOptimizer, keras.optimizers.SGD):
    """SGD under a `PrivacyPlan`.

    Guarantee: the plan's. What an optimizer does with noised gradients is post-processing.

    Args:
        plan: a `PrivacyPlan`.
        learning_rate: float or schedule.
        **kwargs: as in `keras.optimizers.SGD`. `use_ema=True, ema_momentum=0.99` keeps a moving
            average of the private weights, which costs nothing, and puts it into the model when
            `fit` ends. `gradient_accumulation_steps` is refused: see `physical_batch_size`.

    Raises:
        InputError: if the plan is not a `PrivacyPlan`, or if gradients are accumulated over
            steps.

    Example:
        >>> plan = kd.PrivacyPlan(1000, 100, 1, 1e-4, noise_multiplier=1.0)
        >>> model = kd.make_private(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]))
        >>> model.compile(kd.DPKerasSGDOptimizer(plan, learning_rate=0.1), "mse")
    """

    def __init__(self, plan: Any = None, learning_rate: Any = 0.1, **kwargs: Any) -> None:
        _refuse_other_arguments(plan, kwargs)
        super().__init__(learning_rate=learning_rate, **kwargs)
        self._init_private(plan)


@keras.saving.register_keras_serializable(package="keras_dpvit")
class DPKerasAdamOptimizer(_PrivateOptimizer, keras.optimizers.Adam):
    """Adam under a `PrivacyPlan`.

    Guarantee: the plan's. What an optimizer does with noised gradients is post-processing.

    Adam divides by the root of the second moment, to which the noise adds its variance: where it
    drowns the gradients, all steps are alike and Adam is SGD with momentum. `noise_correction`
    takes that variance off again, which is known (DP-AdamBC: Tang, Shpilevskiy, Lecuyer 2024).

    Args:
        plan: a `PrivacyPlan`.
        learning_rate: float or schedule. With a correction steps are longer: try a smaller one.
        noise_correction: None, or a number in (0, 1]: the noise's variance is taken off the second
            moment, but never more than leaves this share of that variance, so that a moment
            that is all noise gives no huge step. (The paper has a number of its own as the least
            moment; a share needs no tuning when batch or noise change.)
        **kwargs: as in `keras.optimizers.Adam`. `use_ema=True, ema_momentum=0.99` keeps a moving
            average of the private weights, which costs nothing, and puts it into the model when
            `fit` ends. `gradient_accumulation_steps` is refused: see `physical_batch_size`.

    Raises:
        InputError: if the plan is not a `PrivacyPlan`, if gradients are accumulated over steps, or
            if the correction is out of range or meets `amsgrad`.

    Example:
        >>> plan = kd.PrivacyPlan(1000, 100, 1, 1e-4, noise_multiplier=1.0)
        >>> model = kd.make_private(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]))
        >>> model.compile(kd.DPKerasAdamOptimizer(plan, learning_rate=1e-2), "mse")
    """

    def __init__(
        self,
        plan: Any = None,
        learning_rate: Any = 1e-3,
        noise_correction: float | None = None,
        **kwargs: Any,
    ) -> None:
        _refuse_other_arguments(plan, kwargs)
        super().__init__(learning_rate=learning_rate, **kwargs)
        self._init_private(plan)
        if noise_correction is not None:
            noise_correction = _validate.probability(noise_correction=noise_correction)
            if self.amsgrad:
                raise InputError("noise_correction is for Adam without amsgrad: leave one out.")
        self.noise_correction = noise_correction

    def build(self, var_list: list[Any]) -> None:
        """As Keras has it; a correction keeps the noise's own second moment."""
        if not self.built and self.noise_correction is not None:
            self._noise_moment = self.add_variable((), name="noise_moment")
        super().build(var_list)

    def _take_noise_variance(self, variance: Any) -> None:
        if self.noise_correction is not None:
            moment = self._noise_moment
            moment.assign_add((1 - self.beta_2) * (tf.cast(variance, moment.dtype) - moment))

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """As Keras has it, or with the corrected second moment."""
        if self.noise_correction is None:
            super().update_step(gradient, variable, learning_rate)
            return
        index = self._get_variable_index(variable)
        first, second = self._momentums[index], self._velocities[index]
        gradient, rate, noise = (
            tf.cast(t, variable.dtype) for t in (gradient, learning_rate, self._noise_moment)
        )
        first.assign_add((1 - self.beta_1) * (gradient - first))
        second.assign_add((1 - self.beta_2) * (gradient**2 - second))
        step = tf.cast(self.iterations + 1, variable.dtype)
        unbiased = tf.sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step)
        corrected = tf.maximum(second - noise, self.noise_correction * noise)
        variable.assign_sub(rate * unbiased * first / (tf.sqrt(corrected) + self.epsilon))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "noise_correction": self.noise_correction}


# In a fresh process a file may name any of them.
for _optimizer in vars(keras.optimizers).values():
    if (
        isinstance(_optimizer, type)
        and issubclass(_optimizer, keras.optimizers.Optimizer)
        and _optimizer not in (keras.optimizers.Optimizer, keras.optimizers.LossScaleOptimizer)
    ):
        _kind(_optimizer)
