"""The threat model's page says what was measured, and is measured again the same."""

import dataclasses
import json
import pathlib

import numpy as np
import PIL.Image
import pytest

from benchmarks import threat_model, threat_model_learned, threat_model_page
from keras_dpvit.attacks import evaluation, trained_attacks

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def groups():
    return {
        name: json.loads((ROOT / f"docs/results/attack_{name}.json").read_text("utf-8"))
        for name in (*threat_model.GROUPS, threat_model.LEARNED)
    }


def test_the_page_is_that_of_the_files(groups):
    page = (ROOT / "docs" / "threat_model.md").read_text("utf-8")
    assert page == threat_model_page.page(groups)
    assert "visual obfuscation, not confidentiality" in page
    changed = json.loads(json.dumps(groups))
    changed["photographs"]["rows"][-1]["exact_keys"] = 0.05
    assert threat_model_page.page(changed) != page
    # What an interrupted measurement left out is told.
    rows = groups[threat_model.LEARNED]["rows"]
    fewer = [r for r in rows if (r["scheme"], r["attack"]) != ("pe", "dcgan")]
    changed = {**groups, threat_model.LEARNED: {**groups[threat_model.LEARNED], "rows": fewer}}
    assert "DCGAN on `pe`" in threat_model_page.page(changed)


def test_every_measurement_has_its_row_and_the_bars_hold(groups):
    for name, rows in threat_model.GROUPS.items():
        measured = [(r["scheme"], r["attack"], r["observed"]) for r in groups[name]["rows"]]
        assert measured == [row[:3] for row in rows]
    by_attack = {(r["attack"], r["observed"]): r for r in groups["photographs"]["rows"]}
    assert by_attack["known_plaintext", 1]["exact_keys"] >= 0.95
    assert by_attack["correlation_jigsaw", 2]["exact_keys"] >= 0.9
    assert all(row["keys"] >= 20 for name in threat_model.GROUPS for row in groups[name]["rows"])


def test_figures_are_measured_again(groups):
    saved = next(
        r for r in groups["small_photographs"]["rows"] if (r["scheme"], r["attack"]) == ("pe", "fr")
    )
    setting = evaluation.Setting("pe", "fr", (32, 32, 3))
    draw = threat_model._source("small_photographs", saved["observed"])
    done = list(evaluation.run(setting, draw, saved["keys"], threat_model._SEED))
    again = evaluation.summarize(setting, done)
    assert again["ssim_uniform7"] == pytest.approx(saved["ssim_uniform7"], abs=1e-6)


def test_trained_attacks_do_what_the_literature_says(groups):
    """GANs break LE, known pairs break LE, PE and the ViT cipher; settings are today's."""
    group = groups[threat_model.LEARNED]
    rows = {(row["scheme"], row["attack"]): row for row in group["rows"]}
    every = [(s, a) for s in threat_model_learned.SCHEMES for a in threat_model_learned.ATTACKS]
    assert list(rows) == every
    assert rows["le", "dcgan"]["broken"]
    for scheme in ("le", "pe", "vit_block"):
        assert rows[scheme, "itn_paired"]["broken"]
    for row in rows.values():
        assert row["images_scored_per_key"] == group["images"]["test"] >= 1000
        assert threat_model_learned._told_settings(row) == row.get("settings")
        accuracy = row["accuracy"]
        assert accuracy["plain"] > 0.8
        assert accuracy["ciphertext"] < 0.3
        # What looks right to a classifier is no proof: the picture has to be that of the image.
        if row["broken"]:
            own, other = (row[f"ssim_uniform7{of}"]["median"] for of in ("", "_other_image"))
            assert own > other + 0.2


def test_an_interrupted_measurement_goes_on(tmp_path, monkeypatch):
    images = np.zeros((3, 16, 16, 3), np.uint8)
    asked = []

    def attack(name, scheme, options, parts, judge, settings, seed, folder):
        asked.append((scheme, name))
        if len(asked) == 13:
            raise KeyboardInterrupt
        summary = {"scheme": scheme, "attack": name}
        if settings:
            summary |= {"settings": dataclasses.asdict(settings), "history": [{"a": 1}, {"a": 2}]}
        return trained_attacks.Outcome(images, images + 1, images + 2, summary)

    monkeypatch.setattr(trained_attacks, "attack_test_images", attack)
    monkeypatch.setattr(
        trained_attacks, "make_parts", lambda *_: trained_attacks.Parts(*[images] * 6)
    )
    monkeypatch.setattr(trained_attacks, "train_judge", lambda *_: None)
    path = tmp_path / "attack_learned.json"
    with pytest.raises(KeyboardInterrupt):
        threat_model_learned.measure(path, tmp_path / "work")
    half = json.loads(path.read_text("utf-8"))
    found = [(row["scheme"], row["attack"]) for row in half["rows"]]
    assert found[:5] == [(s, a) for s in ("le", "ele") for a in ("fr", "fr_advanced", "itn")][:5]
    assert len(found) == 12
    assert half["rows"][2]["last_losses"] == {"a": 2}
    # A row that was measured with other settings is measured again, the others are not.
    half["rows"][2]["settings"]["epochs"] += 1
    path.write_text(json.dumps(half), "utf-8")
    asked[:] = [("", "")] * 13
    threat_model_learned.measure(path, tmp_path / "work")
    every = [(s, a) for s in threat_model_learned.SCHEMES for a in threat_model_learned.ATTACKS]
    assert len(asked[13:]) == len(every) - 11
    assert set(asked[13:]) == set(every) - set(found) | {("le", "itn")}
    rows = json.loads(path.read_text("utf-8"))["rows"]
    assert [(row["scheme"], row["attack"]) for row in rows] == every
    threat_model_learned.picture(tmp_path / "sheet.png", tmp_path / "work")
    columns, lines = len(threat_model_learned.ATTACKS) + 2, 2 * len(threat_model_learned.SCHEMES)
    size = (columns * 32 + (columns - 1) * 4, lines * 32 + (lines - 1) * 4)
    assert PIL.Image.open(tmp_path / "sheet.png").size == size
