"""Training the members of a fused model from flags."""

import dataclasses
import math
import pathlib
import sys
from typing import Any

from absl import flags

from keras_dpvit.datasets import ImageData
from keras_dpvit.privacy import statement
from keras_dpvit.privacy.clipping import clipping_from_dict
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.privacy.sensitivity import DynamicSensitivity, FixedSensitivity, Sensitivity
from trainers import _cli

_DEFAULT_LEARNING_RATES = {"adam": 5e-3, "sgd": 0.5}


def default_batch_size(num_examples: int) -> int:
    """A power of two near six steps an epoch for small data, 1024 at the most."""
    return int(min(1024, 2 ** round(math.log2(max(1, num_examples / 6)))))


def public_number(num_records: int, options: flags.FlagValues) -> int:
    """The number of records that batches and noise are planned for: --num_examples.

    Without the flag the number of records, rounded down to two digits; `disclosures` names it.
    """
    if options.num_examples is not None:
        return int(options.num_examples)
    unit = 10 ** max(0, len(str(num_records)) - 2)
    return max(1, num_records // unit * unit)


def disclosures(data: ImageData, options: flags.FlagValues) -> list[str]:
    """What a training by these flags tells beside its noisy sums, for the statement's limits."""
    lines = ["Training curves in run.json: losses and accuracies on the records, without noise."]
    if options.num_examples is None:
        lines.append("The number of records, rounded to two digits, is taken as public.")
    if data.name == "image_folder" and options.classes is None:
        lines.append("Class names were read from the private folders and ship with the model.")
    return lines


def plans(num_examples: int, options: flags.FlagValues) -> list[PrivacyPlan]:
    """One plan for each member, all of them together within --epsilon and --delta."""
    shared = options.members_data == "shared" or options.members == 1
    records = num_examples if shared else max(1, num_examples // options.members)
    batch_size = options.batch_size
    if batch_size is None:
        batch_size = default_batch_size(records)
    sensitivity: Sensitivity = DynamicSensitivity()
    if options.l2_norm_clip is not None:
        sensitivity = FixedSensitivity(options.l2_norm_clip)
    plan = PrivacyPlan.for_target(
        epsilon=options.epsilon,
        delta=options.delta,
        num_examples=records,
        batch_size=batch_size,
        epochs=options.epochs,
        compositions=options.members if shared else 1,
        accountant=options.accountant,
        clipping=clipping_from_dict({"name": options.clipping}),
        sensitivity=sensitivity,
    )
    seeds = [None if options.seed is None else options.seed + i for i in range(options.members)]
    return [dataclasses.replace(plan, seed=seed) for seed in seeds]


def describe(
    plan: PrivacyPlan, data: ImageData, preset: str, options: flags.FlagValues, num_examples: int
) -> str:
    """What will be trained, in a few lines; of the number of records the public one."""
    part = {"all": "", "head": ", the head alone", "bias": ", biases and the head alone"}[
        options.trainable
    ]
    return (
        f"{data.name}: planned for {num_examples} images, {len(data.x_test)} held out, "
        f"{len(data.class_names)} classes\n"
        f"{options.members} x {preset} ({options.members_data} data){part}, budget epsilon "
        f"{options.epsilon:g} at delta {options.delta:g}\n"
        f"each: {plan.steps} steps, expected batch {plan.batch_size}, noise multiplier "
        f"{plan.noise_multiplier:.4g}"
    )


def train_all(
    data: ImageData, parts: Any, preset: str, plans: list[PrivacyPlan], options: flags.FlagValues
) -> tuple[list[Any], list[dict[str, list[float]]]]:
    """The trained members and what `fit` showed of each."""
    members, histories = [], []
    for index, plan in enumerate(plans):
        print(f"\nMember {'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[index % 26]} of {len(plans)}", flush=True)
        rows = slice(None) if parts is None else parts == index
        model, history = _train(data, data.x_train[rows], data.y_train[rows], preset, plan, options)
        members.append(model)
        histories.append(history)
    return members, histories


def _start(model: Any, options: flags.FlagValues) -> None:
    """Gives a new member the weights and the choice of variables that the flags name."""
    import keras_dpvit as kd

    if options.init_weights is not None:
        with _cli.quiet_stderr():
            initial = kd.load_initial_weights(model, options.init_weights)
        _describe_start(initial, options)
    kd.choose_trainable(model, options.trainable)


def _describe_start(initial: Any, options: flags.FlagValues) -> None:
    name = pathlib.Path(options.init_weights).name
    head = "with its head" if initial.has_head else "the head is new: the file's does not fit"
    print(f"Starts from {name}, {head}.", flush=True)
    if not initial.has_ledger:
        print("It has no privacy ledger: the records behind it are taken as public.", flush=True)
    elif initial.ledger.all_entries():
        epsilon = initial.ledger.epsilon(options.delta)
        if math.isinf(epsilon):
            print(
                f"warning: {name} was trained without privacy, so the epsilon of what starts from "
                "it is infinite.",
                file=sys.stderr,
            )
        else:
            print(
                f"Its training cost epsilon {statement.format_epsilon(epsilon)} at delta "
                f"{options.delta:g}, which is added to this one's.",
                flush=True,
            )


def _train(
    data: ImageData, x: Any, y: Any, preset: str, plan: PrivacyPlan, options: flags.FlagValues
) -> tuple[Any, dict[str, list[float]]]:
    import keras

    import keras_dpvit as kd

    if plan.seed is not None:
        keras.utils.set_random_seed(plan.seed)
    model = kd.DPViTClassifier.from_preset(
        preset,
        num_classes=len(data.class_names),
        image_shape=data.image_shape,
        attention_noise_stddev=options.attention_noise_stddev,
        norm_noise_stddev=options.norm_noise_stddev,
    )
    _start(model, options)
    for line in disclosures(data, options):
        model.disclose(line)
    make = {"adam": kd.DPKerasAdamOptimizer, "sgd": kd.DPKerasSGDOptimizer}[options.optimizer]
    losses = {
        "softmax": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "per_class": kd.PerClassBinaryCrossentropy(),
    }
    rate = options.learning_rate
    if rate is None:
        rate = _DEFAULT_LEARNING_RATES[options.optimizer]
    model.compile(
        optimizer=make(plan, learning_rate=rate),
        loss=losses[options.loss],
        metrics=["accuracy"],
    )
    history = model.fit(
        x,
        y,
        epochs=math.ceil(options.epochs),
        physical_batch_size=options.physical_batch_size,
        # A bar on a terminal, a line an epoch in a log.
        verbose=1 if sys.stdout.isatty() else 2,
    )
    return model, history.history
