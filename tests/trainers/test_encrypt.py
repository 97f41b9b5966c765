"""`trainers.encrypt` as a user types it."""

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

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path):
    """A key for blocks of 16 and a folder of five images, as a user has them."""
    generator = np.random.default_rng(0)
    for name in ("cat/1", "cat/2", "dog/1", "dog/2", "dog/3"):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = generator.integers(0, 256, (32, 48, 3), dtype=np.uint8)
        PIL.Image.fromarray(image).save(path)
    return tmp_path


def pixels(folder):
    return {
        path.relative_to(folder).as_posix(): np.asarray(PIL.Image.open(path)).tobytes()
        for path in folder.rglob("*.png")
    }


@pytest.fixture
def encrypt(run, place):
    """Runs one command of the program in that folder."""

    def run_command(*arguments):
        return run("encrypt", *arguments, cwd=place)

    return run_command


def expect_one_line(result, told):
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert told in result.stderr


def test_from_key_to_decrypted_folder(encrypt, place):
    made = encrypt("keygen", "--output=key.json")
    assert made.returncode == 0, made.stderr
    assert (place / "key.json").stat().st_mode & 0o777 == 0o600
    key = json.loads((place / "key.json").read_text())
    assert key["secret"] not in made.stdout
    hidden = encrypt("encrypt", "--key=key.json", "--input=photos", "--output=hidden", "--jobs=2")
    assert hidden.returncode == 0, hidden.stderr
    assert f"5 images in 5 files are encrypted with key {key['kid']}" in hidden.stdout
    assert hidden.stderr == ""
    assert set(pixels(place / "hidden")) == set(pixels(place / "photos"))
    assert not set(pixels(place / "hidden").values()) & set(pixels(place / "photos").values())
    again = encrypt("encrypt", "--key=key.json", "--input=photos", "--output=hidden")
    assert "5 files were there already, intact." in again.stdout
    shown = encrypt("decrypt", "--key=key.json", "--input=hidden", "--output=shown")
    assert shown.returncode == 0, shown.stderr
    assert pixels(place / "shown") == pixels(place / "photos")


def test_rotate_and_inspect(encrypt, place):
    encrypt("keygen", "--output=old.json")
    encrypt("keygen", "--output=new.json", "--scheme=ele", "--block_size=8")
    encrypt("encrypt", "--key=old.json", "--input=photos", "--output=hidden", "--format=webp")
    turned = encrypt(
        "rotate", "--key=old.json", "--new_key=new.json", "--input=hidden", "--output=again"
    )
    assert turned.returncode == 0, turned.stderr
    new = json.loads((place / "new.json").read_text())
    told = encrypt("inspect", "--input=again", "--verify", "--json")
    summary = json.loads(told.stdout)
    assert (summary["kid"], summary["num_images"], summary["verified"]) == (new["kid"], 5, True)
    told = encrypt("inspect", "--input=again/dog/3.webp")
    assert told.stdout.split() == ["kid", new["kid"]]
    told = encrypt("inspect", "--input=new.json")
    assert new["kid"] in told.stdout
    assert new["secret"] not in told.stdout
    encrypt("decrypt", "--key=new.json", "--input=again", "--output=shown")
    assert pixels(place / "shown") == pixels(place / "photos")


def test_passphrase_from_a_file_and_from_the_environment(encrypt, place, monkeypatch):
    (place / "words.txt").write_text("correct horse\n")
    made = encrypt("keygen", "--output=key.json", "--passphrase_file=words.txt")
    assert made.returncode == 0, made.stderr
    assert "wrapped" in json.loads((place / "key.json").read_text())
    arguments = ("encrypt", "--key=key.json", "--input=photos")
    opened = encrypt(*arguments, "--output=a", "--passphrase_file=words.txt")
    assert opened.returncode == 0, opened.stderr
    (place / "wrong.txt").write_text("correct mule")
    wrong = encrypt(*arguments, "--output=b", "--passphrase_file=wrong.txt")
    expect_one_line(wrong, "passphrase is wrong")
    assert not (place / "b").exists()
    monkeypatch.setenv("KERAS_DPVIT_PASSPHRASE", "correct horse")
    # The fixture copied the environment when it was made.
    done = subprocess.run(
        [sys.executable, "-m", "trainers.encrypt", *arguments, "--output=c"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["frobnicate"], "command must be one of keygen, encrypt"),
        (["keygen"], "--output must be given"),
        (["keygen", "--output=key.json"], "exists already"),
        (["keygen", "--output=none/k.json"], "cannot be written"),
        (["keygen", "--output=k.json", "--block_size=15"], "block_size must be even"),
        (["keygen", "--output=k.json", "--scheme=le", "--unit=patch"], "has no option 'unit'"),
        (["keygen", "--output=k.json", "--image_size=30,32,3"], "multiples of the block size 16"),
        (["keygen", "--output=k.json", "--passphrase"], "KERAS_DPVIT_PASSPHRASE or a terminal"),
        (["keygen", "--output=k.json", "--passphrase_file=none"], "passphrase_file 'none' cannot"),
        (["encrypt", "--input=photos", "--output=x"], "--key must be given"),
        (["encrypt", "--key=key.json", "--input=photos"], "--output must be given"),
        (["encrypt", "--key=none.json", "--input=photos", "--output=x"], "cannot be read"),
        (["encrypt", "--key=loose.json", "--input=photos", "--output=x"], "chmod 600"),
        (["encrypt", "--key=changed.json", "--input=photos", "--output=x"], "was changed"),
        (["encrypt", "--key=key.json", "--input=none", "--output=x"], "input must be a folder"),
        (["encrypt", "--key=key.json", "--input=photos", "--output=photos"], "output must not be"),
        (["encrypt", "--key=key.json", "--input=odd", "--output=x"], "not a multiple of the block"),
        (
            ["encrypt", "--key=key.json", "--input=photos", "--output=x", "--size=20"],
            "not a multiple of the block",
        ),
        (
            ["encrypt", "--key=key.json", "--input=photos", "--output=x", "--size=a"],
            "size must be height,width",
        ),
        (["encrypt", "--key=key.json", "--input=broken", "--output=x"], "broken/a.png"),
        (["encrypt", "--key=key.json", "--input=photos", "--output=x", "--jobs=0"], "jobs"),
        (["encrypt", "--key=key.json", "--input=photos", "--output=x", "--format=jpg"], "format"),
        (["decrypt", "--key=key.json", "--input=photos", "--output=x"], "no manifest.json"),
        (["decrypt", "--key=other.json", "--input=hidden", "--output=x"], "wrong key"),
        (["decrypt", "--key=key.json", "--input=hidden", "--output=hidden"], "output must not be"),
        (
            ["rotate", "--key=other.json", "--new_key=key.json", "--input=hidden", "--output=x"],
            "wrong key",
        ),
        (["inspect", "--input=none"], "must be a file or a folder"),
        (["inspect", "--input=photos/cat/1.png"], "names no key"),
        (["inspect", "--input=changed", "--verify"], "1 of 5 files"),
        (["encrypt", "photos"], "unknown argument 'photos'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_leaves_nothing(bad_place, run, arguments, told):
    before = {path: path.stat().st_mtime_ns for path in bad_place.rglob("*")}
    expect_one_line(run("encrypt", *arguments, cwd=bad_place), told)
    assert {path: path.stat().st_mtime_ns for path in bad_place.rglob("*")} == before


@pytest.fixture(scope="module")
def bad_place(tmp_path_factory, run):
    """Everything that can be wrong, made once."""
    import shutil

    place = tmp_path_factory.mktemp("bad")
    for name in ("cat/1", "cat/2", "dog/1", "dog/2", "dog/3"):
        path = place / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (48, 32), (9, 8, 7)).save(path)
    for name in ("odd", "broken"):
        (place / name).mkdir()
    PIL.Image.new("RGB", (30, 32)).save(place / "odd" / "a.png")
    (place / "broken" / "a.png").write_bytes(b"no image")
    for name in ("key", "other", "loose", "changed"):
        assert run("encrypt", "keygen", f"--output={name}.json", cwd=place).returncode == 0
    (place / "loose.json").chmod(0o644)
    text = (place / "changed.json").read_text()
    (place / "changed.json").write_text(text.replace('"block_size": 16', '"block_size": 8'))
    flags = ("--key=key.json", "--input=photos", "--output=hidden")
    assert run("encrypt", "encrypt", *flags, cwd=place).returncode == 0
    shutil.copytree(place / "hidden", place / "changed")
    (place / "changed" / "cat" / "1.png").write_bytes(b"")
    return place


def test_an_image_that_breaks_off_is_named_and_the_rest_is_done(encrypt, place):
    encrypt("keygen", "--output=key.json")
    path = place / "photos" / "dog" / "2.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    arguments = ("encrypt", "--key=key.json", "--input=photos", "--output=hidden")
    result = encrypt(*arguments)
    expect_one_line(result, "photos/dog/2.png")
    assert "4 images are done" in result.stderr
    assert len(pixels(place / "hidden")) == 4
    path.write_bytes(whole)
    assert encrypt(*arguments).returncode == 0
    encrypt("decrypt", "--key=key.json", "--input=hidden", "--output=shown")
    assert pixels(place / "shown") == pixels(place / "photos")


def test_a_killed_run_is_resumed(encrypt, place):
    generator = np.random.default_rng(1)
    for i in range(60):  # large enough that the kill comes in time
        image = generator.integers(0, 256, (224, 224, 3), dtype=np.uint8)
        PIL.Image.fromarray(image).save(place / "photos" / f"{i}.png", compress_level=1)
    encrypt("keygen", "--output=key.json")
    arguments = ("encrypt", "--key=key.json", "--input=photos", "--output=hidden", "--jobs=2")
    run = subprocess.Popen(
        [sys.executable, "-m", "trainers.encrypt", *arguments],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    journal = place / "hidden" / ".progress.jsonl"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 8:
        assert run.poll() is None
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    run.wait()
    # Its processes end by themselves; the session has no member then.
    while True:
        try:
            os.killpg(run.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.01)
    assert not (place / "hidden" / "manifest.json").exists()
    done = len(pixels(place / "hidden"))
    assert 7 <= done < 65
    again = encrypt(*arguments)
    assert again.returncode == 0, again.stderr
    assert "files were there already, intact." in again.stdout
    left = [path.name for path in (place / "hidden").iterdir() if path.name.startswith(".")]
    assert left == []
    assert encrypt("inspect", "--input=hidden", "--verify").returncode == 0
    encrypt("decrypt", "--key=key.json", "--input=hidden", "--output=shown", "--jobs=2")
    assert pixels(place / "shown") == pixels(place / "photos")


@pytest.mark.parametrize("command", ["keygen", "encrypt", "decrypt", "rotate", "inspect"])
def test_each_command_has_help_with_examples(run, tmp_path, command):
    result = run("encrypt", command, "--help", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"python -m trainers.encrypt {command} --" in result.stdout
    assert f"  --{'input' if command != 'keygen' else 'output'}:" in result.stdout
    assert ("  --passphrase_file:" in result.stdout) == (command != "inspect")
    assert list(tmp_path.iterdir()) == []


def test_the_program_lists_its_commands(run, tmp_path):
    for arguments in ([], ["--help"]):
        result = run("encrypt", *arguments, cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        for command in ("keygen", "encrypt", "decrypt", "rotate", "inspect"):
            assert f"\n  {command}  " in result.stdout
