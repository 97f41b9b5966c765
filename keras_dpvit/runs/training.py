"""Training the members of a fused model within one budget."""

import dataclasses
import math
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from keras_dpvit import _quiet
from keras_dpvit._types import Array
from keras_dpvit.datasets import ImageData
from keras_dpvit.privacy import batch_sizes, statement
from keras_dpvit.privacy.accounting import auto_delta
from keras_dpvit.privacy.clipping import clipping_from_dict
from keras_dpvit.privacy.ledger import PrivacyLedger
from keras_dpvit.privacy.ledger_entries import mean_entry
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.privacy.sensitivity import DynamicSensitivity, FixedSensitivity, Sensitivity
from keras_dpvit.runs.settings import RunSettings

if TYPE_CHECKING:  # Keras takes seconds
    from keras_dpvit.runs.kept_run import KeptMember, KeptRun

_DEFAULT_LEARNING_RATES = {"adam": 5e-3, "sgd": 0.5}


# For whitened features of length 1: the sum of the rates of all steps over the number of records,
# in lengths of a record's clipped gradient. Found on validation images of Fashion-MNIST and digits.
# In proportion to epsilon while that is small, for the noise is in proportion to its inverse.
_RATES_PER_RECORD_AND_EPSILON, _LARGEST_EPSILON = 0.3, 5.0


def default_batch_size(num_examples: int, trainable: str = "all") -> int:
    """A power of two near six steps an epoch for small data, 1024 at the most.

    For a head alone a third of the data, 8192 at the most: its steps cost next to nothing, and
    larger samples take less noise.
    """
    if trainable == "head":
        return max(1, min(8192, num_examples // 3))
    return int(min(1024, 2 ** round(math.log2(max(1, num_examples / 6)))))


def public_number(num_records: int, settings: RunSettings) -> int:
    """The number of records that batches and noise are planned for.

    Where none is given, the number of records, rounded down to two digits; `disclosures` names it.
    """
    if settings.num_examples is not None:
        return int(settings.num_examples)
    return batch_sizes.rounded_down(num_records)


def disclosures(data: ImageData, settings: RunSettings) -> list[str]:
    """Lines on what such a training discloses beside its noisy sums, for the statement's limits."""
    lines = ["Training curves in run.json: losses and accuracies on the records, without noise."]
    if settings.num_examples is None:
        lines.append("The number of records, rounded to two digits, is taken as public.")
    if data.name == "image_folder" and settings.classes is None:
        lines.append("Class names were read from the private folders and ship with the model.")
    return lines


def plans(num_examples: int, settings: RunSettings, num_means: int = 0) -> list[PrivacyPlan]:
    """One plan for each member, all of them together within the budget.

    Args:
        num_examples: the public number of records.
        settings: of the run.
        num_means: means that each member releases before its steps, within the budget too.
    """
    shared = settings.members_data == "shared" or settings.members == 1
    records = num_examples if shared else max(1, num_examples // settings.members)
    batch_size = settings.batch_size
    if batch_size is None:
        batch_size = default_batch_size(records, settings.trainable)
    sensitivity: Sensitivity = DynamicSensitivity()
    if settings.l2_norm_clip is not None:
        sensitivity = FixedSensitivity(settings.l2_norm_clip)
    delta, prior = _delta(num_examples, settings), None
    if settings.center_noise is not None:
        mean = mean_entry(settings.center_noise, records, delta)
        prior = PrivacyLedger((mean,) * num_means)
    plan = PrivacyPlan.for_target(
        epsilon=settings.epsilon,
        delta=delta,
        prior=prior,
        num_examples=records,
        batch_size=batch_size,
        epochs=settings.epochs,
        compositions=settings.members if shared else 1,
        accountant=settings.accountant,
        clipping=clipping_from_dict({"name": settings.clipping}),
        sensitivity=sensitivity,
    )
    seeds = [None if settings.seed is None else settings.seed + i for i in range(settings.members)]
    return [dataclasses.replace(plan, seed=seed) for seed in seeds]


def _delta(num_examples: int, settings: RunSettings) -> float:
    return auto_delta(num_examples) if settings.delta is None else settings.delta


def describe(
    plan: PrivacyPlan, data: ImageData, preset: str, settings: RunSettings, num_examples: int
) -> str:
    """The coming training in a few lines, with the public number of records."""
    part = {"all": "", "head": ", the head alone", "bias": ", biases and the head alone"}[
        settings.trainable
    ]
    return (
        f"{data.name}: planned for {num_examples} images, {len(data.x_test)} held out, "
        f"{len(data.class_names)} classes\n"
        f"{settings.members} x {preset} ({settings.members_data} data){part}, budget epsilon "
        f"{settings.epsilon:g} at delta {plan.delta:g}\n"
        f"each: {plan.steps} steps, expected batch {plan.batch_size}, noise multiplier "
        f"{plan.noise_multiplier:.4g}"
    )


def train_all(
    data: ImageData,
    parts: Any,
    preset: str,
    plans: list[PrivacyPlan],
    settings: RunSettings,
    kept: "KeptRun | None" = None,
) -> tuple[list[Any], list[dict[str, list[float]]]]:
    """Trains the members one after another.

    Args:
        data: the images.
        parts: the member of each record, or None if every member sees all.
        preset: name of the network's size.
        plans: one for each member.
        settings: of the run.
        kept: where the run is kept while it lasts; members that are there resume or are done.

    Returns:
        The trained members and what `fit` showed of each.
    """
    members, histories = [], []
    for index, plan in enumerate(plans):
        if len(plans) > 1:
            letter = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[index % 26]
            print(f"\nMember {letter} of {len(plans)}", flush=True)
        rows = slice(None) if parts is None else parts == index
        model, history = _train(
            data,
            (data.x_train[rows], data.y_train[rows]),
            preset,
            plan,
            settings,
            None if kept is None else kept.member(index),
        )
        members.append(model)
        histories.append(history)
    return members, histories


def head_arguments(settings: RunSettings) -> dict[str, Any]:
    """Arguments of `DPViTClassifier` that the settings give, where they give any."""
    given = {name: getattr(settings, name) for name in ("whitening_rank", "head_blocks")}
    return {name: value for name, value in given.items() if value is not None}


def _start(model: Any, settings: RunSettings, delta: float) -> None:
    """Gives a new member the weights and the choice of variables that the settings name."""
    import keras_dpvit as kd

    if settings.init_weights is not None:
        with _quiet.quiet_stderr():
            initial = kd.load_initial_weights(model, settings.init_weights)
        _describe_start(pathlib.Path(settings.init_weights).name, initial, delta)
    kd.choose_trainable(model, settings.trainable)


def _describe_start(name: str, initial: Any, delta: float) -> None:
    head = "with its head" if initial.has_head else "the head is new: the file's does not fit"
    print(f"Starts from {name}, {head}.", flush=True)
    if not initial.has_ledger:
        print("It has no privacy ledger: the records behind it are taken as public.", flush=True)
    elif initial.ledger.all_entries():
        epsilon = initial.ledger.epsilon(delta)
        if math.isinf(epsilon):
            print(
                f"warning: {name} was trained without privacy, so the epsilon of what starts from "
                "it is infinite.",
                file=sys.stderr,
            )
        else:
            print(
                f"Its training cost epsilon {statement.format_epsilon(epsilon)} at delta "
                f"{delta:g}, which is added to this one's.",
                flush=True,
            )


def _train(
    data: ImageData,
    records: tuple[Array, Array],
    preset: str,
    plan: PrivacyPlan,
    settings: RunSettings,
    kept: "KeptMember | None",
) -> tuple[Any, dict[str, list[float]]]:
    import keras

    import keras_dpvit as kd
    from keras_dpvit.runs.first_steps import FirstSteps
    from keras_dpvit.runs.interrupts import Interrupts

    if plan.seed is not None:
        keras.utils.set_random_seed(plan.seed)
    model = kd.DPViTClassifier.from_preset(
        preset,
        num_classes=len(data.class_names),
        image_shape=data.image_shape,
        attention_noise_stddev=settings.attention_noise_stddev,
        norm_noise_stddev=settings.norm_noise_stddev,
        weights=settings.weights,
        **head_arguments(settings),
    )
    _start(model, settings, plan.delta)
    inputs, labels = records
    trained = model
    if settings.weights is not None and settings.trainable == "head":
        trained, inputs = _head_on_features(model, inputs, plan, settings, kept)
    for line in disclosures(data, settings):
        trained.disclose(line)
    losses = {
        "softmax": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "per_class": kd.PerClassBinaryCrossentropy(),
    }
    trained.compile(
        optimizer=optimizer_of(plan, settings),
        loss=losses[settings.loss],
        metrics=["accuracy"],
    )
    epochs = math.ceil(settings.epochs)
    with Interrupts() as interrupts:
        callbacks = [FirstSteps(plan.steps), interrupts]
        history = trained.fit(
            inputs,
            labels,
            epochs=epochs,
            physical_batch_size=settings.physical_batch_size,
            checkpoint_dir=None if kept is None else kept.directory,
            callbacks=callbacks if kept is None else [*callbacks, kept.recorder()],
            # A bar on a terminal, a line an epoch in a log.
            verbose=1 if sys.stdout.isatty() else 2,
        )
    curves = history.history if kept is None else kept.curves()
    ended = len(curves.get("epsilon", ()))
    if ended < epochs:
        print(
            f"The plan's {plan.steps} steps ended in epoch {ended} of {epochs}: an epoch has "
            f"{plan.steps_per_epoch} whole steps, more than one expected pass."
        )
    return model, curves


def _head_on_features(
    model: Any,
    images: Array,
    plan: PrivacyPlan,
    settings: RunSettings,
    kept: "KeptMember | None",
) -> tuple[Any, Array]:
    from keras_dpvit.training.frozen_features import whitened_inputs

    print("Computing the features of all images once.", flush=True)
    return head_on_features(model, whitened_inputs(model, images), plan, settings, kept)


def head_on_features(
    model: Any,
    blocks: list[Array],
    plan: PrivacyPlan,
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
    import keras_dpvit as kd
    from keras_dpvit.training.frozen_features import features_of
    from keras_dpvit.training.private_mean import center_blocks

    if settings.center_noise is not None:
        noise = settings.center_noise

        def center() -> None:
            center_blocks(model, blocks, noise, plan.num_examples, plan.delta, plan.seed)

        if kept is None:
            center()
        else:
            kept.centred(model, center)
    features = features_of(model, blocks)
    head = kd.make_private(model.head_model(), trainable="head")
    # What the features cost, and what they come from, is the head's to state too.
    head.start_from(model.privacy_ledger, model.privacy_notes)
    return head, features


def optimizer_of(plan: PrivacyPlan, settings: RunSettings) -> Any:
    """The private optimizer that the settings name."""
    import keras_dpvit as kd

    rate = settings.learning_rate
    if settings.optimizer == "adam":
        default = _DEFAULT_LEARNING_RATES["adam"]
        return kd.DPKerasAdamOptimizer(plan, learning_rate=default if rate is None else rate)
    if rate is None and settings.weights is not None and settings.l2_norm_clip is not None:
        per_record = _RATES_PER_RECORD_AND_EPSILON * min(settings.epsilon, _LARGEST_EPSILON)
        total = per_record * plan.num_examples / settings.l2_norm_clip
        rate = total * (1 - settings.momentum) / plan.steps
    elif rate is None:
        rate = _DEFAULT_LEARNING_RATES["sgd"]
    return kd.DPKerasSGDOptimizer(plan, learning_rate=rate, momentum=settings.momentum)
