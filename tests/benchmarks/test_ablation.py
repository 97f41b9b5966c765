"""The ablation's levers are trainings that there are, and its table counts seed by seed."""

import json
import pathlib

import pytest

from benchmarks import ablation

ROOT = pathlib.Path(__file__).parents[2]
FINISHED = ("recipe", "no_transformer", "no_whitening", "no_means", "short_pretraining")


@pytest.mark.parametrize("lever", ablation.LEVERS)
def test_a_lever_changes_one_thing(lever):
    key = ablation.training(lever, "w.npz").key()
    recipe = ablation.training("recipe", "w.npz").key()
    changed = {name for name in key.keys() | recipe.keys() if key.get(name) != recipe.get(name)}
    assert len(changed) == (lever != "recipe"), changed


def test_rates_are_relative_to_the_recipe_s():
    rates = [
        ablation.training(name, "w.npz").settings.learning_rate
        for name in ("rate_a_third", "rate_threefold")
    ]
    assert rates[1] == pytest.approx(9 * rates[0])


def test_differences_are_taken_seed_by_seed():
    scores = {"recipe": [0.90, 0.92, 0.91], "no_mirror": [0.89, 0.91, 0.90], "adam": [0.85]}
    found = [
        {"lever": lever, "seed": seed, "accuracy": score}
        for lever, each in scores.items()
        for seed, score in enumerate(each)
    ]
    assert ablation.table(found)[2:] == [
        "| `recipe` | 3 | 0.9100 |  |",
        "| `no_mirror` | 3 | 0.9000 | -1.00 ± 0.00 |",
        "| `adam` | 1 | 0.8500 | -5.00 |",
    ]


def test_the_page_has_the_table():
    found = json.loads((ROOT / "docs" / "results" / "ablation.json").read_text("utf-8"))
    page = (ROOT / "docs" / "data_and_accuracy.md").read_text("utf-8")
    assert "\n".join(ablation.table(found)) in page
    assert {run["lever"] for run in found} <= set(ablation.LEVERS)
    seeds = {lever: [run["seed"] for run in found if run["lever"] == lever] for lever in FINISHED}
    assert all(sorted(each) == [0, 1, 2, 3, 4] for each in seeds.values())
