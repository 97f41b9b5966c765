"""serving/prove.sh with a docker that starts the stand-in, for there is no docker here."""

import os
import pathlib
import shutil
import socket
import subprocess
import sys

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
FILE = ROOT / "serving" / "compose.yaml"
UP, DOWN = "compose -f serving/compose.yaml up -d", "compose -f serving/compose.yaml down"


@pytest.fixture
def place(tmp_path):
    """A checkout to run in, and a docker on the path."""
    shutil.copytree(ROOT / "serving", tmp_path / "serving", ignore=lambda *_: ["work"])
    for name in ("benchmarks", "docs", "keras_dpvit", "savedmodels", "tests", "trainers"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "state").mkdir()
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin" / "docker", f'exec {sys.executable} {docker_file()} "$@"')
    return tmp_path


def docker_file():
    return pathlib.Path(__file__).with_name("fake_docker.py")


def program(path, script):
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)
    return path


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def prove(place, *flags, python=sys.executable, **variables):
    environment = {
        **os.environ,
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "FAKE_DOCKER": str(place / "state"),
        "PYTHON": str(python),
        "PYTHONPATH": str(place),
        **variables,
    }
    return subprocess.run(
        [place / "serving" / "prove.sh", *flags],
        capture_output=True,
        text=True,
        env=environment,
        cwd="/",
        timeout=600,
    )


def calls(place):
    file = place / "state" / "calls"
    return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def stub(place):
    """A Python that notes what it is asked to run; an export of it makes the folder."""
    script = f"""
echo "$2" "${{@:3}}" >> {place}/ran
case "$2" in
  trainers.export) mkdir -p serving/work/fmnist/1;;
  benchmarks.serving_proof) exit "${{PROOF_STATUS:-0}}";;
  trainers.predict) exit "${{PREDICT_STATUS:-0}}";;
esac"""
    return program(place / "bin" / "stub", script)


@pytest.mark.proof
def test_the_proof_runs_against_what_docker_serves(place):
    ports = {"REST_PORT": str(free_port()), "GRPC_PORT": str(free_port())}
    result = prove(place, "--images=100", "--requests=216", "--threads=8", **ports)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "162 good and 54 bad requests by 8 threads: 216 right, 0 wrong, 0 lost" in result.stdout
    assert result.stdout.count("holds") == 3
    assert result.stdout.count("Trouser") == 2
    assert f"http://127.0.0.1:{ports['REST_PORT']}/v1/models/fmnist has version 1" in result.stderr
    assert calls(place) == ["compose version", "info", UP, DOWN]
    assert not (place / "state" / "pid").exists()


def test_it_exports_starts_proves_asks_and_stops(place, stub):
    (place / "serving" / "work" / "old").mkdir(parents=True)
    result = prove(place, "--threads=3", python=stub, REST_PORT="81", GRPC_PORT="80")
    assert (result.returncode, result.stderr) == (0, "")
    export = "--run=savedmodels/fashion_mnist --saved_model=serving/work/fmnist/1"
    url = "http://127.0.0.1:81/v1/models/fmnist"
    picture = "--image=docs/figures/trouser.png --top=1"
    assert (place / "ran").read_text().splitlines() == [
        f"trainers.export {export}",
        f"benchmarks.serving_proof --saved_model=serving/work/fmnist/1 --url={url} --threads=3",
        f"trainers.predict --url={url} {picture}",
        f"trainers.predict --url=grpc://127.0.0.1:80/fmnist {picture}",
    ]
    assert calls(place) == ["compose version", "info", UP, DOWN]
    assert not (place / "serving" / "work" / "old").exists()


@pytest.mark.parametrize(
    ("variables", "status"),
    [({"PROOF_STATUS": "1"}, 1), ({"PROOF_STATUS": "2"}, 2), ({"PREDICT_STATUS": "2"}, 1)],
)
def test_a_failed_proof_shows_the_servers_log_and_stops_it(place, stub, variables, status):
    result = prove(place, python=stub, **variables)
    assert result.returncode == status
    assert result.stdout.endswith("The server's last lines:\na log's line\n")
    assert calls(place)[-1] == DOWN


@pytest.mark.parametrize(
    ("lacks", "message", "last"),
    [
        ("compose version", "docker has no compose plugin", "compose version"),
        ("info", "docker does not answer", "info"),
        (UP, "docker could not start serving/compose.yaml", DOWN),
    ],
)
def test_a_docker_that_cannot_is_said_in_one_line(place, stub, lacks, message, last):
    (place / "state" / "lacks").write_text(lacks)
    result = prove(place, python=stub)
    assert result.returncode == 2
    assert f"error: {message}" in result.stderr.splitlines()[-1]
    assert calls(place)[-1] == last


def test_missing_programs_are_said_in_one_line(place):
    result = prove(place, python="nowhere/python")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: nowhere/python is missing: run make try once, or set PYTHON.\n"
    (place / "bin" / "docker").unlink()
    for name in ("bash", "dirname", "env"):
        (place / "bin" / name).symlink_to(shutil.which(name))
    result = prove(place, PATH=str(place / "bin"))
    assert (result.returncode, result.stderr) == (2, "error: docker is missing.\n")


def test_the_script_is_bash():
    assert subprocess.run(["bash", "-n", ROOT / "serving" / "prove.sh"]).returncode == 0


def test_compose_mounts_what_the_script_writes_and_opens_nothing_to_others():
    (service,) = yaml.safe_load(FILE.read_text("utf-8"))["services"].values()
    assert service["image"] == "tensorflow/serving:${TF_SERVING_TAG:-latest}"
    (mount,) = service["volumes"]
    script = (ROOT / "serving" / "prove.sh").read_text("utf-8")
    written = (FILE.parent / mount["source"]).relative_to(ROOT)
    assert f"--saved_model={written}/1" in script
    assert mount == {
        "type": "bind",
        "source": "./work/fmnist",
        "target": f"/models/{service['environment']['MODEL_NAME']}",
        "read_only": True,
    }
    assert service["ports"] == [
        "127.0.0.1:${GRPC_PORT:-8500}:8500",
        "127.0.0.1:${REST_PORT:-8501}:8501",
    ]
