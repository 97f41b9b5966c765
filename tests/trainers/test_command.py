"""The command `keras-dpvit`, and programs that run in one process."""

import json
import pathlib
import subprocess
import sys

import pytest
from absl import flags

import trainers.main
from trainers import _cli, audit, plan, train

SCHEDULE = ["--num_examples=1000", "--batch_size=100", "--epochs=1"]


@pytest.fixture
def output(capsys):
    """Runs something in this process; returns its exit status, stdout and stderr."""

    def call(function, *arguments):
        status = 0
        try:
            function(*arguments)
        except SystemExit as end:
            status = end.code
        told = capsys.readouterr()
        return status, told.out, told.err

    return call


def test_the_installed_command_lists_the_programs(environment, tmp_path):
    command = pathlib.Path(sys.executable).with_name("keras-dpvit")
    result = subprocess.run(
        [command], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == trainers.main.help_text() + "\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_program_it_lists_them_all(output, arguments):
    status, out, err = output(trainers.main.main, arguments)
    assert (status, err) == (0, "")
    names = (
        "attack attention audit check compare describe edge encrypt evaluate export federated "
        "membership mpc plan ppgan predict pretrain"
    )
    others = ["report", "reproduce", "train", "verify", "web"]
    assert trainers.main.programs() == [*names.split(), *others]
    for module in (audit, plan, train):
        name = module.__name__.removeprefix("trainers.")
        assert f"  {name:10}  {module.__doc__.splitlines()[0]}\n" in out
    assert len(out.splitlines()) == 3 + len(trainers.main.programs())


@pytest.mark.parametrize("name", ["frobnicate", "main", "_cli", "--epsilon=3"])
def test_another_program_is_one_line_and_status_2(output, name):
    status, out, err = output(trainers.main.main, [name])
    assert (status, out) == (2, "")
    assert err.startswith("error: program must be one of attack, attention")
    assert err.endswith(f", got {name!r}.\n")
    assert err.count("\n") == 1


def test_it_runs_a_program_as_python_m_does(output, run, tmp_path):
    status, out, err = output(trainers.main.main, ["plan", *SCHEDULE, "--json"])
    assert (status, err) == (0, "")
    assert out == run("plan", *SCHEDULE, "--json", cwd=tmp_path).stdout
    status, out, err = output(trainers.main.main, ["plan", "--epsilon=0", *SCHEDULE])
    assert (status, out) == (2, "")
    assert err == "error: epsilon must be a finite number above 0, got 0.0.\n"


def test_it_runs_commands_of_a_program(output, tmp_path):
    arguments = ["encrypt", "keygen", f"--output={tmp_path / 'key.json'}", "--scheme=ele"]
    status, out, err = output(trainers.main.main, arguments)
    assert (status, err) == (0, "")
    assert json.loads((tmp_path / "key.json").read_text())["scheme"] == "ele"
    # The flags of one command are not those of another.
    status, out, err = output(trainers.main.main, ["encrypt", "inspect", "--scheme=ele"])
    assert (status, out) == (2, "")
    assert "Unknown command line flag 'scheme'" in err


def test_a_program_that_runs_twice_has_its_defaults_again(output):
    status, out, _ = output(plan.run, [*SCHEDULE, "--members=2", "--epsilon=8", "--json"])
    assert (status, json.loads(out)["members"]) == (0, 2)
    status, out, _ = output(plan.run, SCHEDULE)
    assert status == 0
    assert plan.FLAGS.members == 1
    assert plan.FLAGS.epsilon == 3.0
    assert not plan.FLAGS["epsilon"].present
    assert not out.startswith("{")


def test_programs_in_one_process_have_flags_of_their_own(output):
    assert output(plan.run, [*SCHEDULE, "--epsilon=8"])[0] == 0
    assert output(train.run, ["--epsilon=0", "--epochs=7"])[0] == 2
    assert output(audit.run, ["--canaries=3"])[0] == 2
    told = [(program.FLAGS.epsilon, program.FLAGS.epochs) for program in (plan, train, audit)]
    assert told == [(8.0, 1.0), (0.0, 7.0), (2.0, 10.0)]
    status, _, err = output(plan.run, ["--optimizer=adam"])
    assert status == 2
    assert err.startswith("error: Unknown command line flag 'optimizer'")
    assert "epsilon" not in flags.FLAGS


def test_a_program_sees_its_arguments_and_leaves_those_of_the_process():
    seen, before = [], sys.argv
    values = flags.FlagValues()
    flags.DEFINE_integer("number", 1, "A number.", flag_values=values)
    _cli.run(lambda: seen.append(sys.argv[1:]), values, "", ["--number=2"])
    assert seen == [["--number=2"]]
    assert sys.argv is before


def test_control_c_is_status_130(output):
    def interrupted():
        raise KeyboardInterrupt

    assert output(_cli.run, interrupted, flags.FlagValues(), "", []) == (130, "", "")


def test_help_does_not_load_tensorflow(environment, tmp_path):
    code = (
        "import sys\n"
        "from trainers import main\n"
        "main.main(['--help'])\n"
        "for name in main.programs():\n"
        "    main.main([name, '--help'])\n"
        "heavy = {'tensorflow', 'keras', 'tensorflow_privacy', 'matplotlib', 'sklearn'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=300,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == "loaded: []"
