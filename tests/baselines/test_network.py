"""A SuperLink, SuperNodes and clients as processes: the same training, and none left behind."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.baselines import federated
from keras_dpvit.baselines.federated import network as parts

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]


def children_of(pid):
    """Process ids of all processes below one."""
    found, parents = [], {}
    for place in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            fields = (place / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(place.name))
    waiting = [pid]
    while waiting:
        own = parents.get(waiting.pop(), [])
        found += own
        waiting += own
    return found


def is_running(pid):
    """False for a process that has ended, whether or not somebody has waited for it."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_network_gives_what_the_simulation_gives(private_network, deal, digit_vectors):
    """DP-FedAvg, noise and all; when it ends, no process and no file of it is left."""
    plan = federated.client_plan(
        num_clients=2, clients_per_round=2, rounds=2, delta=0.1, noise_multiplier=1.0, seed=6
    )
    before, results, models = children_of(os.getpid()), [], []
    for runtime in ("network", "simulation"):
        models.append(private_network())
        arguments = {"client_plan": plan, "test_data": digit_vectors[1], "local_steps": 5}
        results.append(federated.train(models[-1], deal(2), seed=1, runtime=runtime, **arguments))
        assert results[-1].failures == [[], []]
    assert children_of(os.getpid()) == before
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert results[0].accuracies == pytest.approx(results[1].accuracies, abs=0.01)
    for name in ("bytes_to_clients", "bytes_from_clients"):
        one, other = (getattr(result, name) for result in results)
        assert one == pytest.approx(other, rel=0.01)
    assert models[0].privacy_ledger.epsilon(0.1) == models[1].privacy_ledger.epsilon(0.1)


def test_a_part_that_ends_is_named(monkeypatch, private_network, deal):
    monkeypatch.setattr(parts, "_HOST", "256.0.0.1")
    monkeypatch.setattr(parts, "_free_ports", lambda count: [1] * count)
    others = set(children_of(os.getpid()))  # of other tests
    with pytest.raises(kd.InputError, match=r"^(SuperLink|SuperNode 0) ended with status "):
        federated.train(private_network(), deal(1), rounds=1, runtime="network")
    started = set(children_of(os.getpid())) - others
    assert not [pid for pid in started if is_running(pid)]


def test_every_process_ends_with_the_program_that_was_killed(tmp_path):
    """`kill -9` of the parent in the midst of a training."""
    command = [sys.executable, "-m", "trainers.federated", "--clients=1", "--rounds=500"]
    with open(tmp_path / "out", "wb") as out:
        program = subprocess.Popen(
            [*command, "--runtime=network"],
            stdout=out,
            stderr=out,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        )
    try:
        end = time.monotonic() + 150
        while b"round    0" not in (tmp_path / "out").read_bytes():
            assert program.poll() is None, (tmp_path / "out").read_text()
            assert time.monotonic() < end
            time.sleep(0.5)
        started = children_of(program.pid)
        assert len(started) == 3  # SuperLink, SuperNode, client
        assert all(map(is_running, started))
    finally:
        program.send_signal(signal.SIGKILL)
        program.wait()
    end = time.monotonic() + 30
    while (left := [pid for pid in started if is_running(pid)]) and time.monotonic() < end:
        time.sleep(0.2)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []
