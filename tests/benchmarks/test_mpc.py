"""The bars of private inference, on the results that are kept and on worse ones."""

import json
import pathlib

import pytest

from benchmarks import mpc

RESULTS = pathlib.Path(__file__).parents[2] / "docs" / "results" / "mpc.json"
REPORT = json.loads(RESULTS.read_text("utf-8"))


def test_the_kept_results_hold_the_bars():
    first = REPORT["rows"][0]
    assert (first["protocol"], first["images"], first["as"]) == ("aby3", 1000, "simulation")
    assert mpc.judge(first) == REPORT["bars"]
    assert all(REPORT["bars"].values())


@pytest.mark.parametrize(
    "worse",
    [
        {"agreement": 0.998},
        {"largest_error": 0.051},
        {"seconds_per_image": 0.51},
        {"megabytes_per_image_and_party": [1.0, 10.1, 1.0]},
    ],
)
def test_a_bar_that_is_missed_is_seen(worse):
    bars = mpc.judge({**REPORT["rows"][0], **worse})
    assert sorted(bars.values()) == [False, True, True, True]


def test_the_kept_results_are_of_all_rows():
    rows = [(row["model"], row["protocol"]) for row in REPORT["rows"]]
    assert rows == [(settings[0], settings[2]) for settings in mpc.ROWS]
    assert {row["protects"] for row in REPORT["rows"]} == {
        protocol.protects for protocol in mpc.mpc_runtime.PROTOCOLS.values()
    }
