"""The step benchmark: what its numbers are made of, and its workers on a tiny network."""

import io
import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks import sides, summary
from benchmarks.pacing import Pacer
from keras_dpvit.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]


def made_up(*round_means, built=1024, peak=3072):
    rounds = [[0.9 * mean, 1.1 * mean] for mean in round_means]
    memory = {"built_kib": built, "peak_kib": peak}
    return summary.side_summary(rounds, [[60, 70]] * len(rounds), [9.0, 2.0], memory)


class TestSummary:
    def test_side(self):
        side = summary.side_summary(
            [[1.0, 2.0], [3.0, 6.0]],
            [[60, 64], [64, 72]],
            [30.0, 2.5, 2.0],
            {"built_kib": 2048, "peak_kib": 5120},
        )
        assert side == {
            "mean_seconds": 3.0,
            "median_seconds": 2.5,
            "min_seconds": 1.0,
            "max_seconds": 6.0,
            "round_mean_seconds": [1.5, 4.5],
            "timed_steps": 4,
            "mean_batch_size": 65.0,
            "first_step_seconds": 30.0,
            "next_steps_seconds": [2.5, 2.0],
            "peak_mib": 5.0,
            "training_mib": 3.0,
        }

    def test_ratio_is_taken_round_by_round(self):
        # The machine is three times slower in the last round, for both.
        numbers = summary.ratio(made_up(2.0, 2.4, 6.6), made_up(1.0, 2.0, 6.0))
        assert numbers["measured"] == pytest.approx(1.2)
        assert (numbers["min"], numbers["max"]) == pytest.approx((1.1, 2.0))
        assert numbers["of_means"] == pytest.approx(11 / 9)

    def test_ratio_of_memory(self):
        over, under = made_up(1.0, built=1000, peak=4000), made_up(1.0, built=2000, peak=3000)
        assert summary.ratio(over, under, summary.MEMORY_TRAINING) == {"measured": 3.0}
        assert summary.ratio(over, under, summary.MEMORY_PEAK)["measured"] == pytest.approx(4 / 3)

    def test_rounds_must_match(self):
        with pytest.raises(ValueError, match="zip"):
            summary.ratio(made_up(1.0, 1.0), made_up(1.0))

    def test_fastest_by_mean(self):
        measured = {"a": made_up(2.0), "b": made_up(1.0)}
        assert summary.fastest(("a", "b", "c"), measured) == "b"
        assert summary.fastest(("c",), measured) is None


class TestBars:
    @pytest.mark.parametrize(("limit", "holds"), [(1.5, True), (1.4, False), (None, None)])
    def test_at_most(self, limit, holds):
        measured = {"dp": made_up(3.0), "plain": made_up(2.0)}
        (entry,) = summary.judge(measured, [summary.Bar("t", ("dp",), ("plain",), limit)])
        assert entry["measured"] == pytest.approx(1.5)
        assert entry["holds"] is holds

    @pytest.mark.parametrize(("limit", "holds"), [(25.0, True), (31.0, False)])
    def test_at_least(self, limit, holds):
        measured = {"theirs": made_up(30.0), "ours": made_up(1.0)}
        bar = summary.Bar("t", ("theirs",), ("ours",), at_least=limit)
        assert summary.judge(measured, [bar])[0]["holds"] is holds

    def test_each_side_in_its_better_mode(self):
        bar = summary.Bar("t", ("dp", "dp_xla"), ("plain", "plain_xla"), 1.3)
        measured = {
            "dp": made_up(1.2),
            "dp_xla": made_up(2.0),
            "plain": made_up(1.1),
            "plain_xla": made_up(1.0),
        }
        (entry,) = summary.judge(measured, [bar])
        assert (entry["over"], entry["under"]) == ("dp", "plain_xla")
        assert entry["measured"] == pytest.approx(1.2)
        del measured["plain_xla"]  # a better mode that was not tried may be the better one
        (entry,) = summary.judge(measured, [bar])
        assert "measured" not in entry
        assert entry["holds"] is None

    def test_bars_name_sides_that_there_are(self):
        names = {side.name for side in sides.SIDES}
        assert len(names) == len(sides.SIDES)
        assert {n for bar in summary.BARS for n in (*bar.over, *bar.under)} == names

    def test_tables(self):
        measured = {side.name: made_up(1.0, 1.0) for side in sides.SIDES}
        lines = summary.bar_table(summary.judge(measured))
        assert len(lines) == len(summary.BARS) + 1
        assert [line.split()[-1] for line in lines if ">= 25.00" in line] == ["NO"]
        assert len(summary.side_table(measured)) == len(sides.SIDES) + 2
        assert all("not measured" in line for line in summary.bar_table(summary.judge({}))[1:])


class TestSides:
    def test_only(self):
        assert sides.chosen_sides(None) == list(sides.SIDES)
        chosen = sides.chosen_sides(["opacus", "vit_dp"])
        names = [side.name for side in chosen]
        assert names == ["vit_dp", "torch_plain", "opacus_flat", "opacus_per_layer"]
        with pytest.raises(InputError, match="only must name some of vit, small"):
            sides.chosen_sides(["jax"])

    def test_peers_are_left_out_where_they_are_not(self, monkeypatch, capsys, tmp_path):
        monkeypatch.setattr(sides, "PEERS_PYTHON", tmp_path / "python")
        left, absent = sides.without_absent(sides.chosen_sides(["vit_dp", "tf_privacy"]))
        assert [side.name for side in left] == ["vit_dp"]
        assert absent == ["tf_privacy_plain", "tf_privacy_dp"]
        assert capsys.readouterr().err.count("\n") == 1
        with pytest.raises(InputError, match="make peers"):
            sides.without_absent(sides.chosen_sides(["opacus"]))

    def test_steps_of_a_turn(self):
        steps = {side.name: side.steps(10) for side in sides.SIDES}
        assert (steps["vit_dp"], steps["small_dp"], steps["tf_privacy_dp"]) == (10, 40, 1)
        assert all(side.steps(1) >= 1 for side in sides.SIDES)


class TestPacer:
    def test_turns(self):
        commands = [
            {"command": "run", "warm_up": 1, "steps": 2},
            {"command": "memory"},
            {"command": "run", "warm_up": 0, "steps": 1},
            {"command": "stop"},
        ]
        answers = io.StringIO()
        pacer = Pacer(io.StringIO("".join(json.dumps(c) + "\n" for c in commands)), answers)
        assert pacer.ready(parameters=7)
        assert [pacer.step_done(size) for size in (5, 6, 7, 8)] == [True, True, True, False]
        facts, first, memory, second = map(json.loads, answers.getvalue().splitlines())
        assert facts == {"parameters": 7}
        assert [len(first[k]) for k in ("warm_up", "seconds", "records")] == [1, 2, 2]
        assert first["records"] == [6, 7]
        assert second["records"] == [8]
        assert 0 < memory["built_kib"] <= memory["peak_kib"]

    def test_end_of_input_ends_the_run(self):
        assert not Pacer(io.StringIO(""), io.StringIO()).ready()


@pytest.mark.slow
@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
def test_keras_worker(private):
    side = sides.keras_side("tiny", private, jit_compile=False, batch_size=32, records=64)
    worker = sides.Worker(side)
    try:
        assert worker.facts["versions"].keys() >= {"keras", "tensorflow"}
        first = worker.run(0, warm_up=1)
        turn = worker.run(2, warm_up=1)  # over the end of an epoch
        memory = worker.memory()
    finally:
        worker.close()
    assert first["seconds"] == []
    assert first["warm_up"][0] > max(turn["seconds"]) > 0
    assert len(turn["seconds"]) == 2
    assert all(0 < size <= 64 for size in turn["records"])
    if not private:
        assert turn["records"] == [32, 32]
    assert memory["peak_kib"] >= memory["built_kib"] > 0


def test_worker_that_fails_says_why():
    side = sides.Side("broken", "none", "benchmarks.nowhere", {})
    with pytest.raises(sides.WorkerError, match=r"broken ended early:\n.*No module named"):
        sides.Worker(side)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--rounds=0", "rounds must be a whole number above 0, got 0"),
        ("--steps=-1", "steps must be a whole number above 0, got -1"),
        ("--only=jax", "only must name some of"),
        ("--output=nowhere/x.json", "output must be a file that can be written"),
        ("rounds", "unknown argument 'rounds'"),
    ],
)
def test_bad_flags(flag, message):
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.dp_step", flag],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
