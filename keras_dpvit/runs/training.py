"""Training the members of a fused model within one budget."""

import dataclasses
import math
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from keras_dpvit import _quiet
from keras_dpvit._types import Array
from keras_dpvit.datasets import ImageData
from keras_dpvit.privacy import statement
from keras_dpvit.privacy.accounting import auto_delta
from keras_dpvit.privacy.clipping import clipping_from_dict
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.privacy.sensitivity import DynamicSensitivity, FixedSensitivity, Sensitivity
from keras_dpvit.runs.settings import RunSettings

if TYPE_CHECKING:  # Keras takes seconds
    from keras_dpvit.runs.kept_run import KeptMember, KeptRun

_DEFAULT_LEARNING_RATES = {"adam": 5e-3, "sgd": 0.5}


def default_batch_size(num_examples: int) -> int:
    """A power of two near six steps an epoch for small data, 1024 at the most."""
    return int(min(1024, 2 ** round(math.log2(max(1, num_examples / 6)))))


def public_number(num_records: int, settings: RunSettings) -> int:
    """The number of records that batches and noise are planned for.

    Where none is given, the number of records, rounded down to two digits; `disclosures` names it.
    """
    if settings.num_examples is not None:
        return int(settings.num_examples)
    unit: int = 10 ** max(0, len(str(num_records)) - 2)
    return max(1, num_records // unit * unit)


def disclosures(data: ImageData, settings: RunSettings) -> list[str]:
    """Lines on what such a training discloses beside its noisy sums, for the statement's limits."""
    lines = ["Training curves in run.json: losses and accuracies on the records, without noise."]
    if settings.num_examples is None:
        lines.append("The number of records, rounded to two digits, is taken as public.")
    if data.name == "image_folder" and settings.classes is None:
        lines.append("Class names were read from the private folders and ship with the model.")
    return lines


def plans(num_examples: int, settings: RunSettings) -> list[PrivacyPlan]:
    """One plan for each member, all of them together within the budget."""
    shared = settings.members_data == "shared" or settings.members == 1
    records = num_examples if shared else max(1, num_examples // settings.members)
    batch_size = settings.batch_size
    if batch_size is None:
        batch_size = default_batch_size(records)
    sensitivity: Sensitivity = DynamicSensitivity()
    if settings.l2_norm_clip is not None:
        sensitivity = FixedSensitivity(settings.l2_norm_clip)
    plan = PrivacyPlan.for_target(
        epsilon=settings.epsilon,
        delta=_delta(num_examples, settings),
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
    )
    _start(model, settings, plan.delta)
    for line in disclosures(data, settings):
        model.disclose(line)
    make = {"adam": kd.DPKerasAdamOptimizer, "sgd": kd.DPKerasSGDOptimizer}[settings.optimizer]
    losses = {
        "softmax": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "per_class": kd.PerClassBinaryCrossentropy(),
    }
    rate = settings.learning_rate
    if rate is None:
        rate = _DEFAULT_LEARNING_RATES[settings.optimizer]
    model.compile(
        optimizer=make(plan, learning_rate=rate),
        loss=losses[settings.loss],
        metrics=["accuracy"],
    )
    epochs = math.ceil(settings.epochs)
    with Interrupts() as interrupts:
        callbacks = [FirstSteps(plan.steps), interrupts]
        history = model.fit(
            *records,
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
