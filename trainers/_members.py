"""Training the members of a fused model from flags."""

import dataclasses
import math
import sys
from typing import Any

from absl import flags

from keras_dpvit.datasets import ImageData
from keras_dpvit.privacy.clipping import clipping_from_dict
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.privacy.sensitivity import DynamicSensitivity, FixedSensitivity, Sensitivity

_DEFAULT_LEARNING_RATES = {"adam": 5e-3, "sgd": 0.5}


def default_batch_size(num_examples: int) -> int:
    """A power of two near six steps an epoch for small data, 1024 at the most."""
    return int(min(1024, 2 ** round(math.log2(max(1, num_examples / 6)))))


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


def describe(plan: PrivacyPlan, data: ImageData, preset: str, options: flags.FlagValues) -> str:
    """What will be trained, in a few lines."""
    return (
        f"{data.name}: {len(data.x_train)} images to train on, {len(data.x_test)} held out, "
        f"{len(data.class_names)} classes\n"
        f"{options.members} x {preset} ({options.members_data} data), budget epsilon "
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
    make = {"adam": kd.DPKerasAdamOptimizer, "sgd": kd.DPKerasSGDOptimizer}[options.optimizer]
    rate = options.learning_rate
    if rate is None:
        rate = _DEFAULT_LEARNING_RATES[options.optimizer]
    model.compile(
        optimizer=make(plan, learning_rate=rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
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
