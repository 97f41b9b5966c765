"""Strategies of tf.distribute: every way into them is refused in one line."""

import json
import pathlib
import subprocess
import sys

import pytest

SIDE = pathlib.Path(__file__).with_name("strategies_side.py")
WAYS = (
    "all_in_scope",
    "fit_outside",
    "network_in_scope",
    "fit_alone_in_scope",
    "classifier_in_scope",
    "part_in_scope",
    "own_loop",
    "own_apply",
)


@pytest.fixture(scope="module")
def endings():
    result = subprocess.run([sys.executable, SIDE], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("strategy", "words"),
    [("two", "MirroredStrategy (2 replicas)"), ("one", "OneDeviceStrategy (1 replica)")],
)
@pytest.mark.parametrize("way", WAYS)
def test_a_strategy_is_refused(endings, way, strategy, words):
    assert endings[strategy].keys() == set(WAYS)
    assert str(endings[strategy][way]).startswith(
        f"private training takes no strategy of tf.distribute, got {words}: each replica would add "
        "noise of its own."
    )


def test_a_process_that_has_strategies_trains_without_them(endings):
    assert endings["none"] == endings["plan"]
