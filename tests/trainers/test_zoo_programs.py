"""Every program that reads pictures meets the zoo: the same table of what is read and refused."""

import itertools
import json
import os
import pathlib
import shutil
import sys

import numpy as np
import PIL.Image
import pytest

import keras_dpvit as kd

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "datasets"))
import zoo

pytestmark = pytest.mark.slow

GOOD, BAD = zoo.names(readable=True), zoo.names(readable=False)
NAMED = 5  # files that one message names
NAMES = [str(i) for i in range(10)]
BATCHES = [BAD[i : i + NAMED] for i in range(0, len(BAD), NAMED)]
SIZE = ("--image_size=8,8,1",)
FOLDER = ("--dataset=image_folder", "--data_dir=data", *SIZE)
TRAINING = (*FOLDER, "--recipe=none", "--optimizer=sgd", "--epochs=1", "--members=1",
            "--output_dir=out")  # fmt: skip

# Each by its flags; the pictures are in data/train/cat and, as `flat`, in flat/.
PROGRAMS = {
    "check": ("check", "--data_dir=data"),
    "train": ("train", *TRAINING),
    "evaluate": ("evaluate", "--tflite=m.tflite", *FOLDER, "--by_number"),
    "audit": ("audit", *FOLDER, "--canaries=4", "--epochs=1", "--batch_size=8"),
    "attention": ("attention", "--model=m.keras", *FOLDER, "--output=maps.png"),
    "report": ("report", "--model=m.keras", "--dataset=image_folder", "--data_dir=data",
               "--output=page.html"),
    "predict": ("predict", "--saved_model=served", "--image=flat", "--json"),
    "verify": ("verify", "--saved_model=served", "--images=flat"),
    "export": ("export", "--model=m.keras", "--tflite=x.tflite", "--quantize=int8",
               "--calibration=flat"),
    "edge": ("edge", "--model=m.tflite", "--source=flat", "--json"),
    "encrypt": ("encrypt", "encrypt", "--key=key.json", "--input=flat", "--output=hidden",
                "--size=12,16", "--jobs=1"),
    "attack": ("attack", "--scheme=pe", "--attack=fr", "--images=flat", "--keys=1",
               "--image_size=12,16,3"),
    "attack_learned": ("attack", "--scheme=le", "--attack=itn", "--images=data",
                       "--image_size=16,16,3", "--epochs=1"),
}  # fmt: skip
# Programs that get by with a model, which some of the data's classes do not fit, are tried on
# refusals alone: they read all pictures first.
WITH_CLASSES = ("check", "train", "evaluate", "audit", "attention", "report", "attack_learned")


@pytest.fixture(scope="module")
def models(trained_members, run, tmp_path_factory):
    place = tmp_path_factory.mktemp("zoo_models")
    trained_members[0].save(place / "m.keras")
    kd.export.tflite(trained_members[0], place / "m.tflite", class_names=NAMES)
    kd.export.saved_model(trained_members[0], place / "served" / "1", class_names=NAMES)
    made = run("encrypt", "keygen", "--output=key.json", "--scheme=pe", cwd=place)
    assert made.returncode == 0, made.stderr
    return place


@pytest.fixture
def cage(models, tmp_path):
    """A working directory with the models; `fill` puts these files of the zoo in it."""
    for path in models.iterdir():
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, tmp_path / path.name)
    (tmp_path / "key.json").chmod(0o600)
    for part, label in itertools.product(("train", "test"), ("cat", "dog")):
        (tmp_path / "data" / part / label).mkdir(parents=True)
        (tmp_path / "data" / part / label / "plain.png").write_bytes(zoo.PNG)
    (tmp_path / "flat").mkdir()

    def fill(names):
        for name in names:
            for folder in ("flat", "data/train/cat"):
                (tmp_path / folder / name).write_bytes(zoo.FILES[name][0])
        return tmp_path

    return fill


@pytest.mark.parametrize("batch", BATCHES, ids=lambda names: names[0])
@pytest.mark.parametrize("program", PROGRAMS)
def test_what_cannot_be_read_is_named_whole_by_every_program(run, cage, program, batch):
    """All files that are wrong in one message, none that is right, each with its reason."""
    good = ["colour.png", "phone.jpg", "scan.dcm"]
    place = cage([*batch, *good])
    result = run(*PROGRAMS[program], cwd=place)
    assert result.returncode == (1 if program == "check" else 2), result.stderr
    told = result.stdout if program == "check" else result.stderr
    assert "Traceback" not in told
    assert "<_io" not in told
    if program not in ("check", "encrypt"):
        lines = [line for line in told.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
    for name in batch:
        assert name in told
        assert zoo.FILES[name][1] in told
    for name in good:
        assert f"{name}'" not in told
    for made in ("out", "x.tflite", "page.html", "maps.png"):  # nothing is written, none is spent
        assert not (place / made).exists()


def test_all_that_can_be_read_is_read_by_check_and_training(run, cage):
    place = cage(GOOD)
    found = json.loads(run("check", "--data_dir=data", "--json", cwd=place).stdout)
    assert found["unreadable"] == []
    assert found["classes"][0]["train"] == len(GOOD) + 1
    result = run("train", *TRAINING, "--delta=1e-3", cwd=place)
    assert result.returncode == 0, result.stderr
    card = json.loads((place / "out" / "1" / "privacy_card.json").read_text())
    assert card["dataset"]["num_training_examples"] == len(GOOD) + 2
    assert "left out" not in result.stderr


def test_all_that_can_be_read_has_an_answer(run, cage):
    place = cage(GOOD)
    result = run(*PROGRAMS["predict"], cwd=place)
    assert result.returncode == 0, result.stderr
    predicted = {os.path.basename(p["image"]): p["top"] for p in json.loads(result.stdout)}
    result = run(*PROGRAMS["edge"], cwd=place)
    assert result.returncode == 0, result.stderr
    seen = {frame["frame"]: frame for frame in json.loads(result.stdout)["frames"]}
    assert set(predicted) == set(seen) == set(GOOD)
    for name in GOOD:  # the server decodes by itself, the camera's side by Pillow
        best = predicted[name][0]
        assert (best["class_id"] == seen[name]["class_id"]) or best["probability"] < 0.2
        if best["class_id"] == seen[name]["class_id"]:
            assert abs(best["probability"] - seen[name]["probability"]) < 0.02
    result = run(*PROGRAMS["encrypt"], cwd=place)
    assert result.returncode == 0, result.stderr
    assert f"{len(GOOD)} images in {len(GOOD)} files are encrypted" in result.stdout
    for program in ("verify", "export", "attack"):
        result = run(*PROGRAMS[program], cwd=place)
        assert result.returncode == 0, result.stdout + result.stderr


# What people call their files, and what they put beside them.
LATIN = os.fsdecode(b"caf\xe9.png")
LONG = "n" * 247 + ".png"  # 251 bytes
SHOWN = "caf\N{REPLACEMENT CHARACTER}.png"


@pytest.fixture
def odd(cage):
    place = cage([])
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "linked.png").write_bytes(zoo.PNG)
    for folder in (place / "flat", place / "data" / "train" / "cat"):
        (folder / LATIN).write_bytes(zoo.PNG)
        (folder / LONG).write_bytes(zoo.PNG)
        (folder / ".hidden").mkdir()
        (folder / ".hidden" / "secret.png").write_bytes(b"none")
        (folder / ".hidden.png").write_bytes(b"none")
        (folder / "link").symlink_to(elsewhere)
    (place / "data" / "train" / "fox").symlink_to(elsewhere)
    (place / "data" / "test" / "fox").symlink_to(elsewhere)
    return place


@pytest.mark.parametrize("kind", ["--json", ""])
@pytest.mark.parametrize("program", ["predict", "edge"])
def test_names_of_every_kind_are_printed(run, odd, program, kind):
    flags = [flag for flag in PROGRAMS[program] if flag != "--json"]
    result = run(*flags, *([kind] if kind else []), cwd=odd)
    assert result.returncode == 0, result.stderr
    shown = json.loads(result.stdout) if kind else result.stdout
    text = json.dumps(shown, ensure_ascii=False) if kind else shown
    for name in (SHOWN, LONG, "linked.png"):
        assert name in text
    assert "secret" not in text
    assert ".hidden" not in text
    text.encode("utf-8")  # no surrogates


@pytest.mark.parametrize("hashed", [True, False])
def test_encryption_takes_names_of_every_kind(run, odd, hashed):
    flags = PROGRAMS["encrypt"] + (("--hash_names",) if hashed else ())
    if not hashed:
        longest = odd / "flat" / ("n" * 251 + ".png")
        longest.write_bytes(zoo.PNG)
        result = run(*flags, cwd=odd)
        assert result.returncode == 2
        assert "too long for a suffix more" in result.stderr
        assert not (odd / "hidden").exists()
        longest.unlink()
    result = run(*flags, cwd=odd)
    assert result.returncode == 0, result.stderr
    assert "3 images in 3 files" in result.stdout
    back = ("encrypt", "decrypt", "--key=key.json", "--input=hidden", "--output=back")
    result = run(*back, cwd=odd)
    assert result.returncode == 0, result.stderr
    pictures = [p for p in (odd / "back").rglob("*.png") if p.is_file()]
    assert len(pictures) == 3
    for path in pictures:
        assert np.abs(np.asarray(PIL.Image.open(path)).astype(int) - zoo.LEVEL).max() <= 1


def test_hidden_and_linked_folders_in_training(run, odd):
    result = run("check", "--data_dir=data", "--json", cwd=odd)
    assert result.returncode == 0, result.stdout + result.stderr
    counts = {c["name"]: (c["train"], c["test"]) for c in json.loads(result.stdout)["classes"]}
    # plain, the two odd names and the link's; hidden ones are no pictures of anybody's.
    assert counts == {"cat": (4, 1), "dog": (1, 1), "fox": (1, 1)}
    result = run("train", *TRAINING, "--delta=1e-3", cwd=odd)
    assert result.returncode == 0, result.stderr
    assert "fox" in (odd / "out" / "1" / "assets" / "class_names.txt").read_text()


@pytest.mark.parametrize("program", WITH_CLASSES)
def test_a_class_whose_name_is_no_text_is_refused_before_anything_is_spent(run, cage, program):
    place = cage([])
    for part in ("train", "test"):
        folder = place / "data" / part / os.fsdecode(b"b\xff")
        folder.mkdir()
        (folder / "x.png").write_bytes(zoo.PNG)
    result = run(*PROGRAMS[program], cwd=place)
    assert result.returncode == 2, result.stdout
    assert "printable UTF-8" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (place / "out").exists()
