"""The comparison of systems: cells are computed once, and the page has all of them."""

import json
import pathlib

import numpy as np
import pytest

from keras_dpvit.errors import InputError
from keras_dpvit.reproduction import (
    compared_systems,
    comparison,
    comparison_cell,
    comparison_page,
)
from keras_dpvit.runs.settings import RunSettings

SYSTEMS = ["dpvit", "fedavg", "mpc"]


@pytest.fixture
def scale():
    return comparison.scale_named("smoke", "dpvit_scatter_32", RunSettings(epochs=2.0))


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    parts = [(rng.integers(0, 256, (n, 8, 8, 1), "uint8"), np.arange(n) % 3) for n in (12, 6)]
    return lambda: compared_systems.Images(*parts, 3)


@pytest.fixture
def runs(monkeypatch):
    """The cells that were computed; each takes no time, and `fail` ends the next one."""
    made = []

    def run(name, scale, images, bench, epsilon, seed):
        if run.fail_at == len(made):
            raise KeyboardInterrupt
        made.append((name, epsilon, seed))
        accuracy = 0.5 + 0.01 * seed + 0.02 * epsilon
        return {
            "steps": [1, 2],
            "accuracy": [0.1, accuracy],
            "epsilon": {"rdp": epsilon, "pld": 0.9 * epsilon},
            "membership": {"auc": 0.5},
            "trained_parameters": 10,
            "parameters": 2_000,
            "macs": 3_000_000,
            "seconds": 1.0,
            "training_bytes": 64,
            "answer_bytes": 8,
        }

    run.fail_at, run.made = None, made
    monkeypatch.setattr(comparison_cell, "run", run)
    return run


def compare(scale, images, folder, seeds=2, systems=SYSTEMS):
    places = (folder / "cells", folder / "output")
    return comparison.compare(scale, systems, [2.0, 8.0], seeds, images, *places)


def test_a_killed_comparison_goes_on_and_computes_no_cell_twice(scale, images, runs, tmp_path):
    runs.fail_at = 5
    with pytest.raises(KeyboardInterrupt):
        compare(scale, images, tmp_path)
    assert len(runs.made) == 5
    runs.fail_at = None
    content = compare(scale, images, tmp_path)
    assert len(runs.made) == len(set(runs.made)) == 12 == len(content["cells"])
    compare(scale, images, tmp_path)
    assert len(runs.made) == 12
    compare(scale, images, tmp_path, seeds=3)
    assert len(runs.made) == len(set(runs.made)) == 18


def test_the_page_has_every_row_with_its_interval(scale, images, runs, tmp_path):
    content = compare(scale, images, tmp_path)
    rows = comparison_page.table(content).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == 2 * [
        "| " + compared_systems.SYSTEMS[name].title for name in SYSTEMS
    ]
    # Two seeds, 54 and 55 %: the half interval is t(1) = 12.706 times half a point.
    assert rows[0].split(" | ")[1:4] == ["2 (1.80)", "2", "54.5 ± 6.4"]
    assert "| 2 k | 3 M | 1 ± 0 | 64 | 8 |" in rows[0]
    page = (tmp_path / "output" / "comparison_smoke.md").read_text("utf-8")
    assert comparison_page.table(content) in page
    for name in SYSTEMS:
        assert compared_systems.SYSTEMS[name].protects in page
    picture = (tmp_path / "output" / "comparison_smoke.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 5_000


def test_another_scale_is_another_cell(scale, images, runs, tmp_path):
    compare(scale, images, tmp_path, seeds=1)
    other = comparison.scale_named("smoke", "dpvit_scatter_32", RunSettings(momentum=0.5))
    compare(other, images, tmp_path, seeds=1)
    assert len(runs.made) == 12


def test_a_missing_package_is_told_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'keras_dpvit\[federated\]'"):
        compared_systems.require(["dpvit", "fedavg"])
    with pytest.raises(InputError, match=r"pip install 'keras_dpvit\[mpc\]'"):
        compared_systems.require(["mpc"])
    compared_systems.require(["dpvit", "fused"])


def test_the_page_of_the_docs_has_the_kept_table():
    docs = pathlib.Path(__file__).parents[2] / "docs"
    kept = docs / "results" / "comparison" / "comparison_smoke.json"
    content = json.loads(kept.read_text("utf-8"))
    assert list(content["systems"]) == list(compared_systems.SYSTEMS)
    page = (docs / "comparison.md").read_text("utf-8")
    assert comparison_page.table(content) in page
