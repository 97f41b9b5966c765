"""The threat model's page says what was measured, and is measured again the same."""

import json
import pathlib

import pytest

from benchmarks import threat_model, threat_model_page
from keras_dpvit.attacks import trials

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def groups():
    return {
        name: json.loads((ROOT / f"docs/results/attack_{name}.json").read_text("utf-8"))
        for name in threat_model.GROUPS
    }


def test_the_page_is_that_of_the_files(groups):
    page = (ROOT / "docs" / "threat_model.md").read_text("utf-8")
    assert page == threat_model_page.page(groups)
    assert "visual obfuscation, not confidentiality" in page
    changed = json.loads(json.dumps(groups))
    changed["photographs"]["rows"][-1]["exact_keys"] = 0.05
    assert threat_model_page.page(changed) != page


def test_every_measurement_has_its_row_and_the_bars_hold(groups):
    for name, rows in threat_model.GROUPS.items():
        measured = [(r["scheme"], r["attack"], r["observed"]) for r in groups[name]["rows"]]
        assert measured == [row[:3] for row in rows]
    by_attack = {(r["attack"], r["observed"]): r for r in groups["photographs"]["rows"]}
    assert by_attack["known_plaintext", 1]["exact_keys"] >= 0.95
    assert by_attack["correlation_jigsaw", 2]["exact_keys"] >= 0.9
    assert all(row["keys"] >= 20 for group in groups.values() for row in group["rows"])


def test_figures_are_measured_again(groups):
    saved = next(
        r for r in groups["small_photographs"]["rows"] if (r["scheme"], r["attack"]) == ("pe", "fr")
    )
    setting = trials.Setting("pe", "fr", (32, 32, 3))
    draw = threat_model._source("small_photographs", saved["observed"])
    done = list(trials.run(setting, draw, saved["keys"], threat_model._SEED))
    again = trials.summarize(setting, done)
    assert again["ssim_uniform7"] == pytest.approx(saved["ssim_uniform7"], abs=1e-6)
