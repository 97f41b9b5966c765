"""`trainers.federated`: a run with its files, and bad input in one line."""

import json
import sys

import pytest

import keras_dpvit as kd
from trainers import federated

QUICK = ("--dataset=digits", "--clients=3", "--rounds=2", "--local_epochs=0.1")


def test_a_run_prints_and_writes_what_came_of_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ("--privacy=client", "--epsilon=5", "--delta=0.01", "--clients_per_round=2")
    federated.run([*QUICK, *flags, "--output=out.json", "--model_output=model.keras"])
    said = capsys.readouterr().out
    assert "digits: 3 clients, dpvit_tiny_8, privacy: client" in said
    assert said.count("accuracy on held-out images") == 3
    assert "ADD_OR_REMOVE_ONE adjacency of one client with all" in " ".join(said.split())
    written = json.loads((tmp_path / "out.json").read_text())
    assert len(written["accuracies"]) == 3
    assert written["bytes_from_clients"] > 0
    assert written["unit"] == "client"
    assert 4.8 < written["epsilon"]["rdp"] <= 5
    assert "seed" not in written["flags"]
    ledger = kd.load_model(tmp_path / "model.keras").privacy_ledger
    assert [entry.unit for entry in ledger.all_entries()] == ["client"]
    assert ledger.epsilon(0.01) == written["epsilon"]["rdp"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--clients=0"], "clients must be a whole number above 0"),
        (["--alpha=-1"], "alpha must be a finite number above 0"),
        (["--clients_per_round=11"], "clients_per_round must not exceed clients=10, got 11"),
        (["--epsilon=3"], "epsilon must be left out with --privacy=none"),
        (["--privacy=person"], "value should be one of <none|client|record>"),
        (["--output=out.txt"], "output must be a .json file that can be written"),
        (["--model_output=/dev/null/a.keras"], "model_output must be a .keras file"),
        (["--secure_aggregation"], "secure_aggregation is not available: Flower's SecAgg+"),
        (["--preset=huge"], "preset must be one of"),
        (["--privacy=client", "--delta=2"], "delta must lie strictly between 0 and 1"),
    ],
)
def test_bad_input_is_one_line(flags, said, capsys):
    with pytest.raises(SystemExit) as ended:
        federated.run(flags)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_without_the_extra_one_line_names_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "flwr", None)
    with pytest.raises(SystemExit) as ended:
        federated.run([])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "error: Federated training needs the package flwr: pip install 'keras_dpvit[federated]'.\n"
    )
