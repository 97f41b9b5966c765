"""New members of a run, and their heads over frozen features."""

import pathlib
from typing import TYPE_CHECKING, Any

from keras_dpvit._types import Array
from keras_dpvit.datasets import ImageData
from keras_dpvit.models.presets import CNN_PRESETS
from keras_dpvit.privacy.head_plan import HeadPlan
from keras_dpvit.privacy.ledger import PrivacyLedger
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.runs.settings import RunSettings

if TYPE_CHECKING:  # Keras takes seconds
    from keras_dpvit.runs.kept_run import KeptMember

Plan = PrivacyPlan | HeadPlan

# The noise on the mean of unit vectors of width d is about 20 sqrt(d) / n long, 1 at 1,400 of them.
# On digits and Fashion-MNIST, means cost more than they brought up to 10,000 records, and made no
# difference at 20,000.
_CENTER_NOISE, _LEAST_CENTRED = 20.0, 30_000


def center_noise(settings: RunSettings, num_examples: int) -> float | None:
    """The noise multiplier of the means of a whitened head's features; None for no release.

    Args:
        settings: of the run.
        num_examples: the public number of records of a member.
    """
    if not isinstance(settings.center_noise, str):
        return settings.center_noise
    return _CENTER_NOISE if num_examples >= _LEAST_CENTRED else None


def head_arguments(settings: RunSettings) -> dict[str, Any]:
    """Arguments of `DPViTClassifier` that the settings give, where they give any."""
    given = {name: getattr(settings, name) for name in ("whitening_rank", "head_blocks")}
    return {name: value for name, value in given.items() if value is not None}


def new_member(data: ImageData, preset: str, settings: RunSettings) -> Any:
    """A classifier for the data before its training, of a preset or over a file's model.

    Args:
        data: the images.
        preset: name of the network's size; of no use with `settings.backbone`.
        settings: of the run.
    """
    import keras_dpvit as kd
    from keras_dpvit.models.backbone_file import classifier_on, load_backbone

    if settings.backbone is None and preset in CNN_PRESETS:
        return kd.make_private(kd.small_cnn(data.image_shape, len(data.class_names)))
    if settings.backbone is None:
        return kd.DPViTClassifier.from_preset(
            preset,
            num_classes=len(data.class_names),
            image_shape=data.image_shape,
            attention_noise_stddev=settings.attention_noise_stddev,
            norm_noise_stddev=settings.norm_noise_stddev,
            weights=settings.weights,
            **head_arguments(settings),
        )
    network = classifier_on(
        load_backbone(settings.backbone),
        len(data.class_names),
        settings.backbone_pixels,
        frozen=settings.trainable == "head",
    )
    model = kd.make_private(network, settings.trainable)
    name = pathlib.Path(settings.backbone).name
    model.start_from(
        PrivacyLedger(), (f"Backbone from {name}: the records behind it are taken as public.",)
    )
    return model


def is_frozen_below(settings: RunSettings) -> bool:
    """True if a head alone is trained, over features that are computed once."""
    made = settings.weights is not None or settings.backbone is not None
    return settings.trainable == "head" and made


def features_head(
    model: Any,
    images: Array,
    plan: PrivacyPlan,
    settings: RunSettings,
    kept: "KeptMember | None",
) -> tuple[Any, Array]:
    """A linear head as a model, and its inputs for all images; see `head_on_features`."""
    from keras_dpvit.models.linear_head import linear_head
    from keras_dpvit.models.synthetic_weights import whitened_layers
    from keras_dpvit.training.frozen_features import frozen_features, whitened_inputs

    _say_features()
    if whitened_layers(model):
        return head_on_features(model, whitened_inputs(model, images), plan, settings, kept)
    return _private_head(model, linear_head(model)), frozen_features(model, images)


def head_on_features(
    model: Any,
    blocks: list[Array],
    plan: Plan,
    settings: RunSettings,
    kept: "KeptMember | None" = None,
) -> tuple[Any, Array]:
    """A whitened head as a model of its own, and its inputs for all records.

    Args:
        model: a `DPViTClassifier`; its features are centred, at the cost that the plan counts.
        blocks: from `whitened_inputs`.
        plan: of the member.
        settings: of the run.
        kept: where the run is kept while it lasts.
    """
    from keras_dpvit.models.linear_head import linear_head
    from keras_dpvit.training.frozen_features import features_of

    if kept is None:
        _center(model, blocks, plan, settings)
    elif center_noise(settings, plan.num_examples) is not None:
        kept.centred(model, lambda: _center(model, blocks, plan, settings))
    features = features_of(model, blocks)
    return _private_head(model, linear_head(model)), features


def solved_on_blocks(
    model: Any, blocks: list[Array], labels: Array, plan: HeadPlan, settings: RunSettings
) -> None:
    """Centres a whitened head's features where the settings say so, and solves for the head."""
    from keras_dpvit.training.solved_head import solve_on_blocks

    _center(model, blocks, plan, settings)
    solve_on_blocks(model, blocks, labels, plan)


def solved(model: Any, images: Array, labels: Array, plan: HeadPlan, settings: RunSettings) -> None:
    """Solves for a new member's head.

    Args:
        model: from `new_member`.
        images: pixels 0..255.
        labels: class numbers.
        plan: of the member.
        settings: of the run.
    """
    from keras_dpvit.models.synthetic_weights import whitened_layers
    from keras_dpvit.training.frozen_features import whitened_inputs
    from keras_dpvit.training.solved_head import made_up_images, solve_head

    _say_features()
    if whitened_layers(model):
        solved_on_blocks(model, whitened_inputs(model, images), labels, plan, settings)
    else:
        solve_head(model, images, labels, plan, made_up_images(model))


def _say_features() -> None:
    print("Computing the features of all images once.", flush=True)


def _center(model: Any, blocks: list[Array], plan: Plan, settings: RunSettings) -> None:
    from keras_dpvit.training.private_mean import center_blocks

    noise = center_noise(settings, plan.num_examples)
    if noise is not None:
        center_blocks(model, blocks, noise, plan.num_examples, plan.delta, plan.seed)


def _private_head(model: Any, head: Any) -> Any:
    import keras_dpvit as kd

    private = kd.make_private(head.head_model, trainable="head")
    # What the features cost, and what they come from, is the head's to state too.
    private.start_from(model.privacy_ledger, model.privacy_notes)
    return private
