"""The TFLite benchmark: what it judges, its table, and that docs/edge.md quotes its results."""

import json
import pathlib

import numpy as np
import pytest

from benchmarks import tflite_sides

DOCS = pathlib.Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def report():
    return json.loads((DOCS / "results" / "tflite.json").read_text("utf-8"))


def test_page_has_the_measured_table(report):
    page = (DOCS / "edge.md").read_text("utf-8")
    assert "\n".join(tflite_sides.table(report)) in page
    assert f"right on {100 * report['keras_accuracy']:.1f} %" in page
    ops = report["sides"]["int8"]["ops"]
    assert f"{ops['integer']} ops compute in integers and {ops['float']} in float32" in page
    assert report["epsilon"] <= 3


def test_measured_bars_hold_and_are_those_of_the_issue(report):
    assert tflite_sides.judge(report["sides"]) == report["bars"]
    assert all(bar["holds"] for bar in report["bars"])
    least = {"float32": 0.999, "float16": 0.995, "dynamic": 0.98, "int8": 0.97}
    for name, bar in least.items():
        side = report["sides"][name]
        assert side["top_1_agreement"] >= bar
        assert side["median_ms"] <= report["sides"]["SavedModel"]["by session"]["median_ms"]


def sides(agreement=1.0, milliseconds=1.0):
    return {
        "SavedModel": {"median_ms": 2.0, "by session": {"median_ms": 1.0}},
        "int8, digits": {"top_1_agreement": agreement, "median_ms": milliseconds},
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [True, True]),
        ({"agreement": 0.969}, [False, True]),
        ({"agreement": 0.97}, [True, True]),
        ({"milliseconds": 1.01}, [True, False]),  # the session's time is the one to beat
    ],
)
def test_judge_can_say_no(changes, expected):
    assert [bar["holds"] for bar in tflite_sides.judge(sides(**changes))] == expected


def test_all_sides_take_the_same_turns():
    called = []
    images = np.arange(100).reshape(100, 1, 1, 1)
    calls = {name: lambda x, name=name: called.append((name, int(x[0, 0, 0, 0]))) for name in "ab"}
    times = tflite_sides.interleaved(calls, images, rounds=3)
    assert set(times) == {"a", "b"}
    assert all(0 <= t["median_ms"] <= t["p90_ms"] for t in times.values())
    of_a, of_b = ([place for name, place in called if name == side] for side in "ab")
    assert of_a == of_b
    timed = [name for name, _ in called[40:]]
    turn = tflite_sides.PER_TURN
    assert timed[::turn] == ["a", "b", "b", "a", "a", "b"]


def test_calibration_sets_are_images():
    for images in tflite_sides.calibration_sets().values():
        assert images.shape == (300, 28, 28, 1)
        assert images.dtype == np.uint8
        assert images.std() > 30
