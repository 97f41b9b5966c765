"""Edits of a signed export: every one of them shows, and what counts them can say no."""

import json
import pathlib

import pytest

from benchmarks import signature_edits

ROOT = pathlib.Path(__file__).parents[2]
SHIPPED = ROOT / "savedmodels" / "fashion_mnist" / "1"
HOLDS = {"none_undetected": True, "untouched_verifies": True}


def test_edits_of_the_shipped_model_show():
    found = signature_edits.prove(SHIPPED, 240)
    assert found["bars"] == HOLDS
    assert found["edits_by_file"]["assets.extra/privacy_card.json"] == 20


@pytest.mark.proof
def test_ten_thousand_edits_of_the_shipped_model_show():
    found = signature_edits.prove(SHIPPED, 10_000)
    assert found["bars"] == HOLDS
    assert sum(found["edits_by_file"].values()) == 10_000
    assert min(found["edits_by_file"].values()) >= 800


def test_the_result_that_the_documentation_quotes():
    report = json.loads((ROOT / "docs/results/signature_edits.json").read_text("utf-8"))
    assert report["edits"] == sum(report["edits_by_file"].values()) == 10_000
    assert report["undetected"] == []
    assert report["bars"] == HOLDS


def test_edits_that_nothing_notices_are_counted(tmp_path):
    (tmp_path / "a").write_bytes(b"0" * 50)
    found = signature_edits.edit(tmp_path, 40, lambda: None)
    assert len(found["undetected"]) == 40
    assert (tmp_path / "a").read_bytes() == b"0" * 50


def test_each_edit_is_of_one_byte(tmp_path):
    (tmp_path / "a").write_bytes(b"0" * 50)
    (tmp_path / "b").write_bytes(b"0" * 9)
    seen = []

    def problem():
        seen.append(b"".join((tmp_path / name).read_bytes() for name in "ab"))
        return "seen"

    signature_edits.edit(tmp_path, 40, problem)
    assert len(seen) == 40
    assert all(len(content) == 59 for content in seen)
    assert all(sum(byte != ord("0") for byte in content) == 1 for content in seen)
