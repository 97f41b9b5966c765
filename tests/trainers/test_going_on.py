"""A training that is stopped with Ctrl-C and resumed by the same command."""

import contextlib
import json
import signal
import subprocess
import sys

import pytest

from keras_dpvit.privacy.ledger import ledger_from_dict

pytestmark = pytest.mark.slow

FLAGS = ("--dataset=digits", "--recipe=none", "--epsilon=2", "--delta=auto", "--accountant=pld",
         "--epochs=6", "--members=2", "--members_data=disjoint", "--output_dir=out",
         "--checkpoint_dir=kept")  # fmt: skip


@pytest.fixture(scope="module")
def stopped(environment, tmp_path_factory):
    """The directory of a run that got Ctrl-C in its third epoch, with what it printed."""
    place = tmp_path_factory.mktemp("going-on")
    process = subprocess.Popen(
        [sys.executable, "-m", "trainers.train", *FLAGS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=place,
        env=environment,
    )
    for line in process.stdout:
        if line.startswith("Epoch 3/"):
            break
    # As a person does: Python loses one that comes while it destroys an object.
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
    said = process.communicate(timeout=120)[1]
    return place, process.returncode, said


@pytest.fixture(scope="module")
def ended(run, stopped):
    place, _, _ = stopped
    result = run("train", *FLAGS, cwd=place)
    assert result.returncode == 0, result.stderr
    return result


def test_ctrl_c_says_in_one_line_what_is_kept(stopped):
    place, status, said = stopped
    assert status == 130
    assert said.strip() == (
        "Stopped. kept keeps it up to its last whole epoch: the same command resumes it."
    )
    assert {p.name for p in place.iterdir()} == {"kept"}


def test_another_run_does_not_go_on_there(run, stopped):
    place, _, _ = stopped
    result = run("train", *FLAGS, "--learning_rate=0.1", cwd=place)
    assert result.returncode == 2
    assert "holds a run with --learning_rate=None, not 0.1" in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_same_command_goes_on_to_the_plans_end(ended, stopped):
    place, _, _ = stopped
    assert "Epoch 1/6" not in ended.stdout.split("Member B")[0]
    record = json.loads((place / "out/1/run.json").read_text())
    for history in record["histories"]:
        assert len(history["loss"]) == len(history["accuracy"]) >= 5
        assert history["epsilon"] == sorted(history["epsilon"])
    card = json.loads((place / "out/1/privacy_card.json").read_text())
    assert card["delta"] == record["flags"]["delta"] == 1e-5  # 1,400 records
    assert card["epsilon"]["pld"] <= 2 < card["epsilon"]["rdp"]
    for part in ledger_from_dict(card["ledger"]).parts:
        steps = {entry.details["planned_steps"] for entry in part.entries}
        assert sum(entry.steps for entry in part.entries) == steps.pop()


def test_log_and_headline_are_by_the_budgets_accountant(ended, stopped):
    place, _, _ = stopped
    record = json.loads((place / "out/1/run.json").read_text())
    card = json.loads((place / "out/1/privacy_card.json").read_text())
    assert max(h["epsilon"][-1] for h in record["histories"]) == card["epsilon"]["pld"]
    assert "Not covered by epsilon:" not in ended.stdout
    assert " by PLD at delta 1e-05, ADD_OR_REMOVE_ONE adjacency." in " ".join(ended.stdout.split())


def test_a_run_that_has_ended_exports_again(run, ended, stopped):
    place, _, _ = stopped
    result = run("train", *FLAGS, "--statement", cwd=place)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Every step of it was taken before.") == 2
    assert "Not covered by epsilon:" in result.stdout
    one, two = (json.loads((place / f"out/{i}/run.json").read_text()) for i in (1, 2))
    assert one["histories"] == two["histories"]
