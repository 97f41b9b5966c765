"""The benchmark that kills trainings: it kills for real, and it would see what it looks for."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import kill_resume

ROOT = pathlib.Path(__file__).parents[2]
PACE = kill_resume.Pace(life=8.0, step=0.02, checkpoint=0.01, steps=32, checkpoints=12)


def test_moments_are_drawn_over_everything_that_a_run_does():
    drawn = {kind: [PACE.moment(kind) for _ in range(400)] for kind in kill_resume.KINDS}
    seconds = [moment.seconds for moment in drawn["life"]]
    assert min(seconds) < 1 < 7 < max(seconds) <= 8
    for kind, numbers, length in (("step", 32, 0.02), ("checkpoint", 12, 0.01)):
        assert {moment.number for moment in drawn[kind]} == set(range(1, numbers + 1))
        seconds = [moment.seconds for moment in drawn[kind]]
        assert 0 <= min(seconds) < 0.2 * length < 0.8 * length < max(seconds) <= length


def test_one_noise_on_two_sums_is_seen():
    seen = {0: {"a"}, 1: {"b"}}
    assert kill_resume.reused(seen, [(0, "a"), (1, "b"), (2, "c")]) == []
    assert kill_resume.reused(seen, [(2, "c"), (1, "other")]) == [1]


@pytest.mark.parametrize("changed", ["weights", "optimizer", "state", "ledger", "epsilon", None])
def test_every_part_of_the_end_is_compared(changed, tmp_path):
    def end(name, **other):
        place = tmp_path / name
        place.mkdir()
        arrays = {"weights": np.zeros(3), "optimizer": np.zeros(2), "state": np.zeros(())}
        record = {"ledger": {"entries": [{"steps": 3, "release_id": name}]}, "epsilon": 1.0}
        for part, value in other.items():
            (record if part in record else arrays)[part] = value
        text = np.frombuffer(json.dumps(record).encode(), np.uint8)
        np.savez(place / "end.npz", record=text, **{f"{k}_0": v for k, v in arrays.items()})
        return kill_resume.read_end(place)

    values = {
        "weights": np.array([0.0, 0.0, -0.0]),  # equal as a number, not as bits
        "optimizer": np.zeros(2, "float32"),
        "state": np.ones(()),
        "ledger": {"entries": [{"steps": 4, "release_id": "one"}]},
        "epsilon": 1.0 + 1e-15,
    }
    one = end("one")
    other = end("other", **({changed: values[changed]} if changed else {}))
    assert {part for part in one if one[part] != other[part]} == ({changed} - {None})


@pytest.mark.proof
def test_runs_that_are_killed_end_as_the_one_that_is_not(tmp_path):
    def place(name):
        (tmp_path / name).mkdir()
        return tmp_path / name

    pace, expected, seen = kill_resume.reference(place("whole"), kill_resume.SEED)
    assert (pace.steps, len(seen)) == (32, 32)
    assert set(expected) == {"weights", "optimizer", "state", "ledger", "epsilon"}
    report = kill_resume.judged(place("killed"), pace, expected, seen, ["checkpoint"])
    assert len(report["kills"]) == 1
    assert report["holds"], report


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--kills=0", "kills must be a whole number above 0"),
        ("--output=/nowhere/file.json", "output must be a file that can be written"),
    ],
)
def test_bad_flags_end_in_one_line(flag, message):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kill_resume", flag],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_run_that_fails_says_why(tmp_path):
    (tmp_path / "checkpoints").write_text("not a directory")
    with pytest.raises(kill_resume.RunError, match="checkpoint_dir must be a directory"):
        kill_resume.Run(tmp_path, 1).finish()
