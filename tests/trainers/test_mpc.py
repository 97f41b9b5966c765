"""`trainers.mpc` as a user types it: parties, a model for them, pictures, and sudden deaths."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest

from keras_dpvit.baselines import mpc_addresses, mpc_local
from keras_dpvit.errors import InputError

START_SECONDS = 180


@pytest.fixture(scope="module")
def place(tmp_path_factory, digit_images):
    """A model for digits, names of its classes, and pictures."""
    import keras

    import keras_dpvit as kd

    folder = tmp_path_factory.mktemp("mpc")
    keras.utils.set_random_seed(1)
    kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=3).save(folder / "model.keras")
    (folder / "assets").mkdir()
    (folder / "assets" / "class_names.txt").write_text("zero\none\ntwo\n")
    (folder / "photos").mkdir()
    for index in range(3):
        picture = PIL.Image.fromarray(digit_images.x_test[index, ..., 0].astype("uint8"))
        picture.save(folder / "photos" / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def start(environment, place):
    """Starts the program and waits until it listens; kills it at the end."""
    with contextlib.ExitStack() as stack:

        def start_program(*flags):
            process = subprocess.Popen(
                [sys.executable, "-m", "trainers.mpc", *flags],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=place,
                env=environment,
            )
            stack.callback(process.stdout.close)
            stack.callback(process.wait)
            stack.callback(process.kill)
            said = []
            for line in process.stdout:
                said.append(line)
                if "(Ctrl-C ends)" in line:
                    return process, "".join(said)
            raise AssertionError("".join(said))

        yield start_program


def free_parties(count):
    return "--parties=" + ",".join(map(mpc_addresses.shown, mpc_addresses.free(count)))


def descendants(pid):
    """Process ids below a process, by the kernel's own list."""
    found = []
    with contextlib.suppress(OSError):
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def is_alive(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_parties_one_by_one_a_model_dealt_to_them_and_pictures(
    start, run_by_itself, environment, place
):
    parties = free_parties(2)
    semi2k = ["--protocol=semi2k", parties]
    for rank in (0, 1):
        _, said = start("serve", f"--party={rank}", *semi2k)
        assert said.startswith("semi2k: The second party learns nothing; the first deals")
    early = run_by_itself("mpc", "predict", parties, "--image=photos", cwd=place)
    assert (early.returncode, early.stdout) == (2, "")
    assert "refuses: no model is loaded yet.\n" in early.stderr
    deal = ["serve", "--deal", "--model=model.keras", "--batch_size=2", *semi2k]
    dealt = run_by_itself("mpc", *deal, cwd=place)
    assert (dealt.returncode, dealt.stderr) == (0, "")
    assert "hold the model." in dealt.stdout

    # A client that goes away in the middle leaves the parties to the next.
    gone = "from keras_dpvit.baselines import mpc_addresses, mpc_client; import os, sys; parties = "
    gone += "mpc_client.Parties(mpc_addresses.parsed(sys.argv[1].split(','))); parties.open(); "
    gone += "os._exit(9)"
    command = [sys.executable, "-c", gone, parties.removeprefix("--parties=")]
    assert subprocess.run(command, cwd=place, env=environment, timeout=60).returncode == 9
    asked = run_by_itself("mpc", "predict", parties, "--image=photos", "--json", cwd=place)
    assert (asked.returncode, asked.stderr) == (0, "")
    found = json.loads(asked.stdout)
    expected = plain_probabilities(place)
    assert [p["image"] for p in found["predictions"]] == [f"photos/{i}.png" for i in range(3)]
    for prediction, probabilities in zip(found["predictions"], expected, strict=True):
        for answer in prediction["top"]:
            assert answer["label"] == ["zero", "one", "two"][answer["class_id"]]
            assert abs(answer["probability"] - probabilities[answer["class_id"]]) < 0.01
    assert found["protocol"] == "semi2k"
    assert len(found["bytes_per_image"]) == 2
    again = run_by_itself("mpc", *deal, cwd=place)
    assert again.returncode == 2
    assert "refuses: a model is loaded already.\n" in again.stderr


def plain_probabilities(place):
    import keras

    import keras_dpvit as kd

    model = kd.load_model(place / "model.keras")
    pictures = [np.asarray(PIL.Image.open(place / "photos" / f"{i}.png")) for i in range(3)]
    logits = model.predict(np.stack(pictures)[..., None], verbose=0)
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits))


@pytest.mark.slow
def test_all_parties_end_with_a_server_that_is_killed(start, run_by_itself, place):
    flags = [free_parties(3), "--batch_size=1"]
    server, said = start("serve", "--model=model.keras", *flags)
    assert "aby3: No single party learns anything" in said
    asked = run_by_itself("mpc", "predict", flags[0], "--image=photos/0.png", cwd=place)
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout.startswith("photos/0.png  ")
    assert "\naby3: " in asked.stdout
    parties = descendants(server.pid)
    assert len(parties) == 3
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, parties)), 10)


@pytest.mark.slow
def test_all_processes_end_with_a_caller_that_is_killed(environment, place):
    code = "import numpy as np; from keras_dpvit.baselines import mpc; "
    code += "mpc.private_inference('model.keras', np.zeros((400, 8, 8, 1)), batch_size=1, "
    code += "processes=True)"
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=place, env=environment)
    try:
        # The worker, and under it three parties.
        wait_until(lambda: len(descendants(caller.pid)) == 4, START_SECONDS)
        others = descendants(caller.pid)
        assert all(map(is_alive, others))
    finally:
        caller.kill()
        caller.wait()
    wait_until(lambda: not any(map(is_alive, others)), 10)


def test_a_party_that_dies_is_told():
    # Other tests' processes live too, and their numbers may be above or below those of the parties.
    others = set(descendants(os.getpid()))
    with mpc_local.LocalParties("semi2k") as parties:
        started = set(descendants(os.getpid())) - others
        assert len(started) == 2
        os.kill(min(started), signal.SIGKILL)
        with pytest.raises(InputError, match=r"party . at 127.0.0.1:\d+ ended: it said nothing."):
            parties.wait(10)
    assert not any(map(is_alive, started))


def test_a_port_that_is_taken_is_told():
    with (
        mpc_local.LocalParties("semi2k") as parties,
        pytest.raises(InputError, match=r"ended: .*Address already in use"),
    ):
        mpc_local.LocalParties("semi2k", parties.addresses)


TWO = "--parties=127.0.0.1:9401,127.0.0.1:9403"
REFUSED = [
    (["serve"], "--model must be given, or --party for one party that waits for a model."),
    (["serve", "--model=no.keras"], "model must be a .keras file that exists, got 'no.keras'."),
    (["serve", "--party=3"], "party must be 0..2 for this protocol, got 3."),
    (["serve", "--party=-1"], "party must be a whole number, 0 or above, got -1."),
    (["serve", "--party=0", "--model=a.keras"], "--party takes no --model"),
    (["serve", "--party=0", TWO], "parties must be 3 addresses for this protocol, got 2."),
    (["serve", "--protocol=bgv"], "value should be one of <aby3|cheetah|semi2k>"),
    (["serve", "--batch_size=0", "--model=x"], "batch_size must be a whole number above 0, got 0."),
    (["predict"], "--image must be given: a picture file, or a folder of them."),
    (["predict", "--image=nowhere"], "image"),
    (["predict", "--image=x.png", "--model=m.keras", TWO], "--parties must be left out with"),
    (["predict", "--image=photos", "--top=0"], "top must be a whole number above 0, got 0."),
    (["train"], "command must be one of serve, predict, got 'train'."),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED, ids=[" ".join(f) for f, _ in REFUSED])
def test_bad_flags_are_one_line(run, place, flags, message):
    result = run("mpc", *flags, cwd=place)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_parties_that_are_not_there_are_one_line(run_by_itself, place):
    result = run_by_itself("mpc", "predict", free_parties(3), "--image=photos", cwd=place)
    assert (result.returncode, result.stdout) == (2, "")
    assert "error: party 0 at 127.0.0.1:" in result.stderr
    assert result.stderr.endswith("cannot be reached: Connection refused.\n")


@pytest.mark.parametrize("flags", [["serve", "--model=model.keras"], ["serve", "--party=0"]])
def test_a_missing_extra_is_named_in_one_line(environment, place, tmp_path, flags):
    (tmp_path / "spu.py").write_text("raise ModuleNotFoundError('No module named spu')\n")
    paths = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])
    result = subprocess.run(
        [sys.executable, "-m", "trainers.mpc", *flags],
        capture_output=True,
        text=True,
        cwd=place,
        env={**environment, "PYTHONPATH": paths},
        timeout=300,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == ("error: MPC needs the package spu: pip install 'keras_dpvit[mpc]'.\n")


@pytest.mark.parametrize("command", ["serve", "predict"])
def test_help_has_examples(run, place, command):
    result = run("mpc", command, "--help", cwd=place)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"python -m trainers.mpc {command} --" in result.stdout
    for flag in ("model", "protocol", "parties", "batch_size"):
        assert f"  --{flag}:" in result.stdout
