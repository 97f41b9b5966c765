"""The comparison of systems: cells of system, budget and seed, each computed once."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from keras_dpvit import _files
from keras_dpvit.reproduction import comparison_cell, comparison_page
from keras_dpvit.reproduction.compared_systems import SYSTEMS, Images, Scale
from keras_dpvit.reproduction.finished import Finished
from keras_dpvit.reproduction.trainings import Bench
from keras_dpvit.runs.settings import RunSettings

SCALES = ("smoke", "small")
RECIPES = {"smoke": "digits", "small": "fashion_mnist"}


def scale_named(name: str, preset: str, recipe: RunSettings) -> Scale:
    """A scale of the comparison.

    Args:
        name: "smoke", scikit-learn's digits in minutes; "small", Fashion-MNIST in an hour or two.
        preset: of the recipe `RECIPES[name]`.
        recipe: its settings.
    """
    if name == "smoke":
        return Scale(
            name=name,
            dataset="digits",
            image_shape=(8, 8, 1),
            preset=preset,
            recipe=dataclasses.replace(recipe, delta=1e-4, epochs=20.0),
            network_preset="dpvit_tiny_8",
            network=RunSettings(accountant="pld", delta=1e-4, epochs=5.0),
            clients=5,
            rounds=5,
            local_steps=4,
            mpc_images=20,
            ppgan_steps=20,
            ppgan_images=500,
        )
    return Scale(
        name=name,
        dataset="fashion_mnist",
        image_shape=(28, 28, 1),
        preset=preset,
        recipe=recipe,
        network_preset="dpvit_small_28",
        network=RunSettings(accountant="pld", delta=recipe.delta, epochs=10.0),
        clients=10,
        rounds=20,
        local_steps=10,
        mpc_images=1000,
        ppgan_steps=1000,
        ppgan_images=30_000,
    )


def compare(
    scale: Scale,
    systems: Sequence[str],
    epsilons: Sequence[float],
    seeds: int,
    images: Callable[[], Images],
    cells_dir: pathlib.Path,
    output: pathlib.Path,
) -> dict[str, Any]:
    """Computes the cells that are missing, and writes figures, a page and a picture after each.

    Args:
        scale: what systems are trained with.
        systems: names of `SYSTEMS`.
        epsilons: whole budgets.
        seeds: int, trainings of each system and budget.
        images: gives the images; asked once something has to be trained.
        cells_dir: folder of finished cells.
        output: folder of comparison_SCALE.json, .md and .png.

    Returns:
        The content of the JSON file.
    """
    finished = Finished(cells_dir)
    benches: list[tuple[Images, Bench]] = []
    total, done = len(systems) * len(epsilons) * seeds, 0
    content: dict[str, Any] = {
        "scale": scale.name,
        "dataset": scale.dataset,
        "systems": {
            name: {"title": SYSTEMS[name].title, "protects": SYSTEMS[name].protects}
            for name in systems
        },
        "cells": [],
    }
    for seed in range(seeds):
        for epsilon in epsilons:
            for name in systems:
                place = {"system": name, "epsilon": float(epsilon), "seed": seed}
                key = {**place, "scale": dataclasses.asdict(scale)}
                result = finished.result(key)
                if result is None:
                    if not benches:
                        found = images()
                        bench = Bench(found.train, found.test, found.num_classes)
                        benches.append((found, bench))
                    result = comparison_cell.run(name, scale, *benches[0], epsilon, seed)
                    finished.keep(key, result)
                done += 1
                print(
                    f"{done} of {total}: {SYSTEMS[name].title}, epsilon {epsilon:g}, seed {seed}: "
                    f"{result['accuracy'][-1]:.4f}, {result['seconds']:.0f} s",
                    flush=True,
                )
                content["cells"].append({**place, "result": result})
    stem = f"comparison_{scale.name}"
    _files.write_json(output / f"{stem}.json", content)
    _files.write_whole(output / f"{stem}.png", comparison_page.picture(content))
    _files.write_whole(output / f"{stem}.md", comparison_page.page(content, f"{stem}.png"))
    return content
