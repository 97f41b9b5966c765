"""Foreign engines: the bars hold, what judges them can say no, and docs/edge.md has the results."""

import json
import pathlib
import re

import numpy as np
import pytest

from benchmarks import engines
from keras_dpvit.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]
ENGINES = {"OpenVINO": 5, "LiteRT.js": 3, "MediaPipe": 4, "ovmsclient": 2}


@pytest.fixture(scope="module")
def report():
    return json.loads((ROOT / "docs" / "results" / "engines.json").read_text("utf-8"))


def check_rows(found, number):
    rows = found["rows"]
    assert {name: sum(row["engine"] == name for row in rows) for name in ENGINES} == ENGINES
    assert all(row["images"] == number for row in rows)
    assert all(row["classes_predicted"] >= 8 for row in rows)
    for row in rows:
        if "labels" in row:
            assert len(set(row["labels"])) == 10
    assert engines.judge(rows) == found["bars"]
    assert all(found["bars"].values()), rows


@pytest.mark.proof
def test_every_engine_agrees_with_litert():
    found = engines.prove(1000)
    check_rows(found, 1000)
    # What computes in float32 on both sides differs by rounding alone.
    for row in found["rows"]:
        if row["file"] in ("SavedModel", "float32", "float16"):
            assert row["largest_difference"] <= 1e-4, row


def test_the_results_hold_and_the_page_has_their_table(report):
    check_rows(report, 1000)
    assert "\n".join(engines.table(report)) in (ROOT / "docs" / "edge.md").read_text("utf-8")


def test_results_are_of_the_pinned_versions(report):
    pins = dict(
        re.findall(
            r"^(\w+)==(\S+)$", (ROOT / "benchmarks" / "engines.txt").read_text(), re.MULTILINE
        )
    )
    versions = report["versions"]
    assert versions["openvino"].startswith(pins["openvino"])
    assert versions["mediapipe"] == pins["mediapipe"]
    assert versions["ovmsclient"] == pins["ovmsclient"]


def row(engine="OpenVINO", **changes):
    made_up = {"engine": engine, "top_1": 1.0, "largest_difference": 0.0}
    return {**made_up, "labels_right": True, "state": "AVAILABLE", **changes}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (row(), [True, True]),
        (row(top_1=0.995), [True, True]),
        (row(top_1=0.994), [False, True]),
        (row(largest_difference=0.5), [True, True]),
        (row("ovmsclient", largest_difference=2e-5), [True, False]),
        (row("ovmsclient", labels_right=False), [True, False]),
        (row("ovmsclient", state="LOADING"), [True, False]),
    ],
)
def test_judge_can_say_no(changed, expected):
    assert list(engines.judge([row(), changed]).values()) == expected


def test_rows_are_compared_image_by_image():
    expected = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    found = expected.copy()
    found[2] = [0.4, 0.6]
    numbers = engines.compared("an engine", "a file", found, expected)
    assert numbers["top_1"] == 0.75
    assert numbers["largest_difference"] == pytest.approx(0.2)
    assert numbers["classes_predicted"] == 2


def test_without_the_engines_it_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "PYTHON", tmp_path / "python")
    with pytest.raises(InputError, match="run `make engines`"):
        engines.prove(10)
