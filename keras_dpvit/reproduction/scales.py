"""The scales at which the DP-ViT paper's tables and figures are made."""

import dataclasses
from typing import Any

from keras_dpvit.reproduction.artifacts import Scale
from keras_dpvit.runs.settings import RunSettings

# Recipes of `trainers.train` that the scales take.
RECIPES = {"small": "fashion_mnist", "full": "cifar100"}


def scale_named(name: str, preset: str, recipe: RunSettings, **changes: Any) -> Scale:
    """A scale, with changes.

    Args:
        name: "small", Fashion-MNIST on two cores in minutes; "full", CIFAR-100 and the paper's own
            network sizes on an accelerator.
        preset: the recipe's.
        recipe: settings of the recipe.
        **changes: fields of `Scale`, and "epochs" of all trainings.
    """
    scale = _small(preset, recipe) if name == "small" else _full(preset, recipe)
    epochs = changes.pop("epochs", None)
    if epochs is not None:
        changes["recipe"] = dataclasses.replace(scale.recipe, epochs=epochs)
        changes["network"] = dataclasses.replace(scale.network, epochs=epochs)
    return dataclasses.replace(scale, **changes)


def _small(preset: str, recipe: RunSettings) -> Scale:
    return Scale(
        name="small",
        dataset="fashion_mnist",
        head_preset=preset,
        recipe=recipe,
        network_preset="dpvit_small_28",
        network=RunSettings(epsilon=8.0, accountant="pld", epochs=10.0),
        deep={"stage_depths": (2, 2)},
        by_heads={
            n: ("dpvit_small_28", {"num_heads": n, "hidden_dim": 16 * n}) for n in (4, 8, 12)
        },
        network_examples=20_000,
    )


def _full(preset: str, recipe: RunSettings) -> Scale:
    return Scale(
        name="full",
        dataset="cifar100",
        head_preset=preset,
        recipe=recipe,
        network_preset="dpvit_paper_h6",
        network=RunSettings(
            epsilon=8.0,
            accountant="pld",
            batch_size=4096,
            epochs=100.0,
            learning_rate=1e-3,
            physical_batch_size=64,
        ),
        deep={},
        by_heads={n: (f"dpvit_paper_h{n}", {}) for n in (4, 8, 12)},
        network_examples=None,
    )
