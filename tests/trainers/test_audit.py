"""The audit program: its refusals, its verdicts, what it writes, runs as a user types them."""

import dataclasses
import json
import math

import pytest

from keras_dpvit.auditing import audit_run
from keras_dpvit.errors import InputError

SCHEDULE = {"num_examples": 1500, "batch_size": 250, "epochs": 10, "delta": 1e-5}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epsilon=0"], "epsilon must be a finite number above 0, got 0.0"),
        (["--canaries=7"], "canaries must be even, got 7"),
        (["--canaries=1000", "--delta=1e-3"], "delta must be below 1/(2 canaries) = 0.0005"),
        (["--guesses=3"], "guesses must be even numbers from 2 to the number of canaries (1000)"),
        (["--guesses=many"], "guesses must be whole numbers, got 'many'"),
        (["--output=audit.txt"], "output must be a file ending in .json in a directory"),
        (["--output=nowhere/audit.json"], "output must be a file ending in .json in a directory"),
        (["--attack=step", "--epochs=3"], "epochs must be left out with --attack=step"),
        (["--attack=step", "--trials=11"], "trials must be even, got 11"),
        (["--canaries=1438"], "canaries must be below the number of records (1437), got 1438"),
        (["--num_examples=500"], "num_examples must be at most 437, which the canaries leave"),
        (["--mechanism=none"], "value should be one of <certified|as_published|no_noise>"),
    ],
)
def test_flags_are_refused_before_anything(run, flags, message, tmp_path):
    result = run("audit", *flags, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_has_examples_and_every_flag(run, tmp_path):
    result = run("audit", "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert "python -m trainers.audit --" in result.stdout
    for name in ("attack", "canaries", "delta", "epsilon", "guesses", "mechanism", "output"):
        assert f"  --{name}:" in result.stdout


def test_a_certified_plan_claims_its_own_epsilon_by_both_accountants():
    plan, claim = audit_run.plan_under_test("certified", 2.0, "rdp", 3, **SCHEDULE)
    assert claim.name == "claimed"
    assert claim.epsilons == {"rdp": plan.epsilon(), "pld": plan.epsilon(accountant="pld")}
    assert claim.least == claim.epsilons["pld"] < claim.epsilons["rdp"] <= 2.0
    assert plan.seed == 3


def test_the_published_formulas_get_the_noise_of_the_nominal_epsilon():
    plan, claim = audit_run.plan_under_test("as_published", 2.0, "rdp", None, **SCHEDULE)
    assert claim.name == "nominal"
    assert 1.99 < claim.epsilons["rdp"] <= 2.0
    assert plan.epsilon() == math.inf
    assert not plan.sensitivity.certified
    certified, _ = audit_run.plan_under_test("certified", 2.0, "rdp", None, **SCHEDULE)
    assert plan.noise_multiplier == pytest.approx(certified.noise_multiplier, rel=1e-3)


def test_without_noise_nothing_is_claimed():
    plan, claim = audit_run.plan_under_test("no_noise", 2.0, "rdp", None, **SCHEDULE)
    assert plan.noise_multiplier == 0.0
    assert claim.least == math.inf


def a_report(epsilon, name="claimed", **epsilons):
    claim = audit_run.Claim(name, epsilons or {"rdp": 2.0, "pld": 1.8})
    return audit_run.Report(claim, epsilon, {"correct": "139"}, {"guesses": 200})


def test_a_bound_above_the_strictest_claim_contradicts_it():
    assert not a_report(1.8).contradicted
    assert a_report(1.8001).contradicted
    assert not a_report(60.0, rdp=math.inf).contradicted
    assert "verdict               CONTRADICTS the claim" in a_report(1.9).text()
    assert "does not contradict the claim" in a_report(0.4).text()
    assert "CONTRADICTS the nominal epsilon" in a_report(7.0, "nominal", rdp=2.0).text()


def test_the_table_rounds_each_bound_to_its_safe_side():
    text = a_report(0.53399, rdp=1.99941).text()
    assert "claimed epsilon, RDP  2.000" in text
    assert "lower bound (95 %)    0.533" in text
    assert "proves nothing" in text


def test_a_report_is_written_whole(tmp_path):
    target = tmp_path / "audit.json"
    a_report(0.5, rdp=math.inf).write(str(target))
    written = json.loads(target.read_text())
    assert written["claimed_epsilon"] == {"rdp": "infinite"}
    assert written["lower_bound"] == 0.5
    assert written["guesses"] == 200
    broken = dataclasses.replace(a_report(0.7), record={"settings": object()})
    with pytest.raises(TypeError):
        broken.write(str(target))
    assert json.loads(target.read_text()) == written
    assert [path.name for path in tmp_path.iterdir()] == ["audit.json"]
    with pytest.raises(InputError, match="output must be a file"):
        audit_run.check_output(str(tmp_path))


@pytest.mark.slow
def test_the_program_contradicts_what_is_false_and_nothing_else(run, tmp_path):
    """One step of the published formulas, then one training of a certified plan.

    Seeded: without, the weights decide how much the formulas leak (no bound in two runs of five),
    and a true claim is contradicted in one audit of twenty.
    """
    flags = ("--dataset=fashion_mnist", "--model=linear", "--output=audit.json", "--seed=1")
    step = ("--attack=step", "--mechanism=as_published", "--trials=2000")
    result = run("audit", *flags, *step, cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    assert "CONTRADICTS the nominal epsilon" in result.stdout
    written = json.loads((tmp_path / "audit.json").read_text())
    assert written["lower_bound"] > max(written["nominal_epsilon"].values())
    assert written["trials"] == 1000

    result = run("audit", *flags, "--canaries=500", "--epochs=2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "does not contradict the claim" in result.stdout
    written = json.loads((tmp_path / "audit.json").read_text())
    assert written["lower_bound"] <= written["claimed_epsilon"]["pld"] <= 2.0
    assert written["guesses"] in written["guesses_fixed_before"] == [100, 250]
    # 1000 records and half of the canaries, whatever the coins.
    assert written["settings"]["sampling_probability"] == (1250 // 6) / 1250
    assert [path.name for path in tmp_path.iterdir()] == ["audit.json"]
