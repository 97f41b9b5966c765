"""Training the members of a fused model within one budget."""

import dataclasses
import math
import pathlib
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dpvit import _quiet
from keras_dpvit._types import Array
from keras_dpvit.datasets import ImageData
from keras_dpvit.privacy import batch_sizes, statement
from keras_dpvit.privacy.accounting import auto_delta
from keras_dpvit.privacy.clipping import clipping_from_dict
from keras_dpvit.privacy.head_plan import HeadPlan
from keras_dpvit.privacy.ledger import PrivacyLedger
from keras_dpvit.privacy.ledger_entries import mean_entry
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.privacy.sensitivity import DynamicSensitivity, FixedSensitivity, Sensitivity
from keras_dpvit.runs import heads
from keras_dpvit.runs.heads import Plan
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
    lines = []
    if settings.solver == "optimizer":
        lines = [
            "Training curves in run.json: losses and accuracies on the records, without noise."
        ]
    if settings.num_examples is None:
        lines.append("The number of records, rounded to two digits, is taken as public.")
    if data.name == "image_folder" and settings.classes is None:
        lines.append("Class names were read from the private folders and ship with the model.")
    return lines


def plans(num_examples: int, settings: RunSettings, num_means: int = 0) -> list[Plan]:
    """One plan for each member, all of them together within the budget.

    Args:
        num_examples: the public number of records.
        settings: of the run.
        num_means: means that each member releases before its steps, within the budget too.
    """
    shared = settings.members_data == "shared" or settings.members == 1
    records = num_examples if shared else max(1, num_examples // settings.members)
    delta, prior = _delta(num_examples, settings), None
    noise = heads.center_noise(settings, records)
    if noise is not None:
        mean = mean_entry(noise, records, delta)
        prior = PrivacyLedger((mean,) * num_means)
    shared_arguments: dict[str, Any] = {
        "epsilon": settings.epsilon,
        "delta": delta,
        "num_examples": records,
        "prior": prior,
        "compositions": settings.members if shared else 1,
        "accountant": settings.accountant,
    }
    plan: Plan
    if settings.solver != "optimizer":
        plan = HeadPlan.for_target(**shared_arguments, solver=settings.solver)
    else:
        plan = _plan_of_steps(settings, shared_arguments)
    seeds = [None if settings.seed is None else settings.seed + i for i in range(settings.members)]
    return [dataclasses.replace(plan, seed=seed) for seed in seeds]


def _plan_of_steps(settings: RunSettings, arguments: dict[str, Any]) -> PrivacyPlan:
    batch_size = settings.batch_size
    if batch_size is None:
        batch_size = default_batch_size(arguments["num_examples"], settings.trainable)
    sensitivity: Sensitivity = DynamicSensitivity()
    if settings.l2_norm_clip is not None:
        sensitivity = FixedSensitivity(settings.l2_norm_clip)
    return PrivacyPlan.for_target(
        **arguments,
        batch_size=batch_size,
        epochs=settings.epochs,
        clipping=clipping_from_dict({"name": settings.clipping}),
        sensitivity=sensitivity,
    )


def _delta(num_examples: int, settings: RunSettings) -> float:
    return auto_delta(num_examples) if settings.delta is None else settings.delta


def describe(
    plan: Plan, data: ImageData, preset: str, settings: RunSettings, num_examples: int
) -> str:
    """The coming training in a few lines, with the public number of records."""
    part = {"all": "", "head": ", the head alone", "bias": ", biases and the head alone"}[
        settings.trainable
    ]
    noise = f"noise multiplier {plan.noise_multiplier:.4g}"
    if isinstance(plan, HeadPlan):
        sums = "one sum" if plan.num_steps == 1 else f"{plan.num_steps} sums"
        each = f"{plan.solver}, a covariance matrix and {sums} over all records, {noise}"
    else:
        each = f"{plan.steps} steps, expected batch {plan.batch_size}, {noise}"
    return (
        f"{data.name}: planned for {num_examples} images, {len(data.x_test)} held out, "
        f"{len(data.class_names)} classes\n"
        f"{settings.members} x {preset} ({settings.members_data} data){part}, budget epsilon "
        f"{settings.epsilon:g} at delta {plan.delta:g}\n"
        f"each: {each}"
    )


def train_all(
    data: ImageData,
    parts: Any,
    preset: str,
    plans: list[Plan],
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
    plan: Plan,
    settings: RunSettings,
    kept: "KeptMember | None",
) -> tuple[Any, dict[str, list[float]]]:
    import keras

    import keras_dpvit as kd
    from keras_dpvit.runs.first_steps import FirstSteps
    from keras_dpvit.runs.interrupts import Interrupts

    if plan.seed is not None:
        keras.utils.set_random_seed(plan.seed)
    model = heads.new_member(data, preset, settings)
    _start(model, settings, plan.delta)
    inputs, labels = records
    if isinstance(plan, HeadPlan):
        for line in disclosures(data, settings):
            model.disclose(line)
        heads.solved(model, inputs, labels, plan, settings)
        return model, {}
    trained = model
    if heads.is_frozen_below(settings):
        trained, inputs = heads.features_head(model, inputs, plan, settings, kept)
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
    round_to_half(model)
    return model, curves


def round_to_half(model: Any) -> None:
    """Rounds a trained model's weights to numbers that half precision holds.

    Its files are half as large and hold the same numbers in every format. A variable whose rounding
    would move it by more than a part in 2^11 of its largest value stays as it is. Post-processing
    of released weights: it costs no privacy.
    """
    import keras

    from keras_dpvit.models import provenance

    for variable in model.variables:
        value = keras.ops.convert_to_numpy(variable.value)
        if value.dtype != np.float32 or not value.size:
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            half = value.astype("float16").astype("float32")
            moved, largest = np.abs(half - value).max(), np.abs(value).max()
        if moved <= largest / 2**11:  # not so beside a NaN or an infinite number
            variable.assign(half)
    provenance.settle(model)


def optimizer_of(plan: PrivacyPlan, settings: RunSettings) -> Any:
    """The private optimizer that the settings name."""
    import keras_dpvit as kd

    rate = rate_of(plan, settings)
    if settings.optimizer == "adam":
        return kd.DPKerasAdamOptimizer(plan, learning_rate=rate)
    return kd.DPKerasSGDOptimizer(plan, learning_rate=rate, momentum=settings.momentum)


def rate_of(plan: PrivacyPlan, settings: RunSettings) -> float:
    """The learning rate: the settings' own, or the default for what is trained."""
    if settings.learning_rate is not None:
        return settings.learning_rate
    clip = settings.l2_norm_clip
    if settings.optimizer == "sgd" and settings.weights is not None and clip is not None:
        per_record = _RATES_PER_RECORD_AND_EPSILON * min(settings.epsilon, _LARGEST_EPSILON)
        total = per_record * plan.num_examples / clip
        return total * (1 - settings.momentum) / plan.steps
    return _DEFAULT_LEARNING_RATES[settings.optimizer]
