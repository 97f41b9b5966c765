"""`python -m trainers.plan`."""

import json
import math
import subprocess
import sys

import dp_accounting
import pytest

BUDGET = ("--epsilon=3", "--delta=1e-5")
SCHEDULE = ("--num_examples=60000", "--batch_size=2048", "--epochs=30")


def by_hand(noise_multiplier, probability, steps, delta, accountant="rdp"):
    cls = {"rdp": dp_accounting.rdp.RdpAccountant, "pld": dp_accounting.pld.PLDAccountant}
    release = dp_accounting.GaussianDpEvent(noise_multiplier)
    event = dp_accounting.PoissonSampledDpEvent(probability, release)
    return cls[accountant]().compose(event, steps).get_epsilon(delta)


def strict_json(text):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def planned(run, tmp_path_factory):
    result = run("plan", *BUDGET, *SCHEDULE, "--json", cwd=tmp_path_factory.mktemp("plan"))
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return strict_json(result.stdout)


def test_noise_of_the_plan_costs_the_budget_and_hardly_less(planned):
    probability, steps = 2048 / 60000, math.ceil(30 * 60000 / 2048)
    assert planned["sampling_probability"] == probability
    assert planned["steps"] == steps == 879
    noise = planned["noise_multiplier"]
    for name in ("rdp", "pld"):
        expected = by_hand(noise, probability, steps, 1e-5, name)
        assert planned[f"epsilon_{name}"] == pytest.approx(expected, rel=1e-6)
    assert planned["epsilon_rdp"] <= 3
    assert by_hand(noise - 3e-4, probability, steps, 1e-5) > 3
    # The gradient and the count together are the one release that is paid for.
    z, sigma = planned["gradient_noise_multiplier"], planned["count_noise_stddev"]
    assert z**-2 + (2 * sigma) ** -2 == pytest.approx(noise**-2, rel=1e-6)
    assert planned["adjacency"] == "ADD_OR_REMOVE_ONE"
    assert planned["sampling"] == "poisson"


def test_table_says_what_json_says(run, planned, tmp_path):
    result = run("plan", *BUDGET, *SCHEDULE, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    table = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert set(table) == set(planned)
    for name, value in planned.items():
        if isinstance(value, float):
            assert float(table[name]) == pytest.approx(value, rel=1e-3)
        else:
            assert table[name] == str(value)
    # A printed bound must still be a bound.
    assert float(table["epsilon_rdp"]) >= planned["epsilon_rdp"]


def test_members_share_the_budget(run, tmp_path):
    result = run("plan", *BUDGET, *SCHEDULE, "--members=2", "--json", cwd=tmp_path)
    plan = strict_json(result.stdout)
    expected = by_hand(plan["noise_multiplier"], 2048 / 60000, 2 * 879, 1e-5)
    assert plan["epsilon_rdp"] == pytest.approx(expected, rel=1e-6)
    assert 2.9 < plan["epsilon_rdp"] <= 3


def test_noise_gives_epsilon_instead(run, tmp_path):
    flags = ("--num_examples=60000", "--batch_size=256", "--epochs=15", "--delta=1e-5")
    result = run("plan", "--noise_multiplier=1.1", *flags, "--json", cwd=tmp_path)
    plan = strict_json(result.stdout)
    assert plan["noise_multiplier"] == 1.1
    expected = by_hand(1.1, 256 / 60000, math.ceil(15 * 60000 / 256), 1e-5)
    assert plan["epsilon_rdp"] == pytest.approx(expected, rel=1e-6)


def test_delta_auto_is_a_power_of_ten_below_a_tenth_of_one_record(run, tmp_path):
    for number, delta in ((60000, 1e-6), (1400, 1e-5), (1000, 1e-4), (999, 1e-4)):
        flags = (f"--num_examples={number}", "--batch_size=100", "--epochs=1", "--delta=auto")
        plan = strict_json(run("plan", *flags, "--json", cwd=tmp_path).stdout)
        assert plan["delta"] == pytest.approx(delta, rel=1e-9)
        assert plan["delta"] * number <= 0.1 * (1 + 1e-9)


def test_no_noise_is_infinite_in_strict_json(run, tmp_path):
    result = run("plan", "--noise_multiplier=0", *SCHEDULE, "--json", cwd=tmp_path)
    plan = strict_json(result.stdout)
    assert plan["epsilon_rdp"] == plan["epsilon_pld"] == "infinite"


def test_planning_does_not_load_tensorflow(tmp_path):
    # The whole job, and then a look at what it has imported.
    code = (
        "import runpy, sys\n"
        "try:\n"
        "    runpy.run_module('trainers.plan', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "heavy = {'tensorflow', 'keras', 'tensorflow_privacy', 'sklearn', 'PIL'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *BUDGET, *SCHEDULE, "--json"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert '"noise_multiplier"' in result.stdout
    assert result.stdout.splitlines()[-1] == "loaded: []"


BAD = [
    (["--batch_size=10"], "--num_examples must be given: a whole number above 0"),
    (["--num_examples=10"], "--batch_size must be given: a whole number above 0"),
    ([*SCHEDULE, "--epsilon=0"], "epsilon must be a finite number above 0, got 0.0"),
    ([*SCHEDULE, "--epsilon=-1"], "epsilon must be a finite number above 0, got -1.0"),
    ([*SCHEDULE, "--epsilon=nan"], "epsilon must be a finite number above 0, got nan"),
    ([*SCHEDULE, "--epsilon=inf"], "epsilon must be a finite number above 0, got inf"),
    ([*SCHEDULE, "--delta=0"], "delta must lie strictly between 0 and 1, got 0.0"),
    ([*SCHEDULE, "--delta=1"], "delta must lie strictly between 0 and 1, got 1.0"),
    ([*SCHEDULE, "--delta=nan"], "delta must lie strictly between 0 and 1, got nan"),
    ([*SCHEDULE, "--epochs=0"], "epochs must be a finite number above 0, got 0.0"),
    ([*SCHEDULE, "--members=0"], "members must be a whole number above 0, got 0"),
    ([*SCHEDULE, "--noise_multiplier=-1"], "noise_multiplier must be a finite number, 0 or above"),
    (
        ["--num_examples=100", "--batch_size=101"],
        "batch_size must not exceed the number of examples (100), got 101",
    ),
    (["--num_examples=0", "--batch_size=1"], "num_examples must be a whole number above 0, got 0"),
    (["--num_examples=ten"], "--num_examples=ten"),
    ([*SCHEDULE, "--accountant=mine"], "--accountant=mine: value should be one of <rdp|pld>"),
    (["--epsilonn=3"], "Unknown command line flag 'epsilonn'"),
    (["3"], "unknown argument '3'"),
]


@pytest.mark.parametrize(("flags", "message"), BAD, ids=[" ".join(flags) for flags, _ in BAD])
def test_bad_input_is_one_line_and_status_2(run, flags, message, tmp_path):
    result = run("plan", *flags, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
