"""The membership program: its refusals, a private training and a control, as a user types them."""

import json

import pytest


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epsilon=0"], "epsilon must be a finite number above 0, got 0.0"),
        (["--references=5"], "references must be even and at least 4, got 5"),
        (["--references=0"], "references must be a whole number above 0, got 0"),
        (["--delta=2"], "delta must lie strictly between 0 and 1, got 2.0"),
        (["--noprivate", "--epsilon=3"], "epsilon must be left out with --noprivate"),
        (["--model=resnet"], "resnet"),
        (["--dataset=image_folder"], "model must name a preset for dataset=image_folder"),
        (["--output=found.txt"], "output must be a file ending in .json in a directory"),
    ],
)
def test_flags_are_refused_before_anything(run, flags, message, tmp_path):
    result = run("membership", *flags, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_private_head_is_attacked(run, tmp_path):
    flags = ("--dataset=digits", "--references=4", "--epochs=5", "--output=found.json", "--seed=1")
    result = run("membership", *flags, "--epsilon=1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "5 trainings, each epsilon 1 at delta 0.0001" in result.stdout
    written = json.loads((tmp_path / "found.json").read_text())
    assert written["command"] == "python -m trainers.membership " + " ".join(
        [*flags, "--epsilon=1"]
    )
    assert (written["records"], written["num_references"]) == (1437, 4)
    assert (written["epsilon"], written["delta"]) == (1.0, 1e-4)
    assert written["accuracy"] > 0.5
    # Seeded; of 1,437 records with epsilon 1 the largest AUC is 0.73.
    assert all(found["auc"] < 0.6 for found in written["attacks"].values())
    assert not written["contradicted"]


@pytest.mark.slow
def test_a_whole_network_is_attacked_without_privacy(run, tmp_path):
    flags = ("--model=dpvit_tiny_8", "--noprivate", "--references=4", "--epochs=1", "--seed=1")
    result = run("membership", "--dataset=digits", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "each without privacy" in result.stdout
    assert "allowed, nothing claimed" in result.stdout
    assert list(tmp_path.iterdir()) == []
