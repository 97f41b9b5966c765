"""Refusals of `trainers.train`: flags out of range, or that exclude each other."""

from absl import flags

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.models.presets import CNN_PRESETS, check_weights, preset_image_shape
from keras_dpvit.runs.model_files import check_model_file
from keras_dpvit.training.initial_weights import check_path
from trainers import _flags

_OF_TRANSFORMERS = (
    "weights",
    "whitening_rank",
    "head_blocks",
    "attention_noise_stddev",
    "norm_noise_stddev",
)


def check(flag_values: flags.FlagValues) -> None:
    """Refuses what can be refused before any data is read.

    Args:
        flag_values: of `trainers.train`, parsed.

    Raises:
        InputError: if a value is out of range, or flags exclude each other.
    """
    _flags.check_numbers(
        flag_values,
        epsilon=_validate.positive,
        epochs=_validate.positive,
        batch_size=_validate.positive_int,
        num_examples=_validate.positive_int,
        members=_validate.positive_int,
        learning_rate=_validate.positive,
        l2_norm_clip=_validate.clipping_norm,
        momentum=_momentum,
        whitening_rank=_validate.positive_int,
        center_noise=_validate.positive,
        attention_noise_stddev=_validate.non_negative,
        norm_noise_stddev=_validate.non_negative,
        physical_batch_size=_validate.positive_int,
    )
    _flags.delta(flag_values)
    if flag_values.preset is not None:
        preset_image_shape(flag_values.preset)
    if flag_values.preset in CNN_PRESETS:
        _check_cnn(flag_values)
    if flag_values.weights is not None:
        _check_weights(flag_values)
    if flag_values.center_noise is not None and (
        flag_values.weights is None or flag_values.trainable != "head"
    ):
        raise InputError("center_noise needs weights from made-up images and trainable=head.")
    if flag_values.backbone is not None:
        _check_backbone(flag_values)
    if flag_values.init_weights is not None:
        check_path(flag_values.init_weights)
    if flag_values.solver != "optimizer":
        _check_solver(flag_values)


def _check_backbone(flag_values: flags.FlagValues) -> None:
    for name in ("preset", "weights", "init_weights"):
        if flag_values[name].value is not None:
            raise InputError(f"backbone and {name} exclude each other: give one of them.")
    check_model_file(flag_values.backbone, "backbone")


def _check_solver(flag_values: flags.FlagValues) -> None:
    """Refuses what a head without epochs does not have."""
    solver = flag_values.solver
    start = (flag_values.weights, flag_values.backbone, flag_values.init_weights)
    if flag_values.trainable != "head" or not any(start):
        raise InputError(
            f"solver={solver} needs trainable=head over weights, backbone or init_weights: "
            "it learns the last layer alone."
        )
    if flag_values.loss != "softmax":
        raise InputError(f"solver={solver} needs loss=softmax, got {flag_values.loss}.")
    if flag_values.checkpoint_dir is not None:
        raise InputError(f"solver={solver} has no epochs to keep: leave checkpoint_dir out.")


def _momentum(momentum: float) -> None:
    if not 0 <= momentum < 1:
        raise InputError(f"momentum must be at least 0 and below 1, got {momentum:g}.")


def _check_cnn(flag_values: flags.FlagValues) -> None:
    for name in _OF_TRANSFORMERS:
        if flag_values[name].present:
            raise InputError(
                f"{name} must be left out with preset={flag_values.preset}: it has none."
            )


def _check_weights(flag_values: flags.FlagValues) -> None:
    if flag_values.preset is None:
        raise InputError("preset must be given with weights: they belong to one preset.")
    check_weights(flag_values.preset, flag_values.weights)
    if flag_values.init_weights is not None:
        raise InputError("weights and init_weights exclude each other: give one of them.")
