"""`trainers.check`: what is in a folder, before any budget is spent on it."""

import json
import pathlib
import sys

import numpy as np
import PIL.Image
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "datasets"))
import zoo


@pytest.fixture
def folder(tmp_path):
    for part, number in (("train", 6), ("test", 3)):
        for label in ("cat", "dog"):
            place = tmp_path / "data" / part / label
            place.mkdir(parents=True)
            for i in range(number):
                PIL.Image.fromarray(np.full((8, 9 + i // 5), 9, np.uint8)).save(place / f"{i}.png")
    return tmp_path / "data"


def test_a_good_folder(run, folder, tmp_path):
    (folder / "train" / "cat" / "list.csv").write_text("x")
    result = run("check", "--data_dir=data", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == ("left out: 1 that are no pictures (.csv): train/cat/list.csv")
    assert [line.split() for line in lines[1:5]] == [
        ["class", "train", "test"], ["cat", "6", "3"], ["dog", "6", "3"], ["all", "12", "6"]
    ]  # fmt: skip
    assert lines[5] == "16 pictures are 8 high, 9 wide, gray."
    assert "--image_size" in lines[-1]


def test_everything_that_is_wrong_is_told_at_once(run, folder, tmp_path):
    zoo.write(folder / "train" / "cat" / "more")
    result = run("check", "--data_dir=data", "--json", cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    found = json.loads(result.stdout)
    bad = zoo.names(readable=False)
    assert len(found["unreadable"]) == len(bad)
    for name in bad:
        assert any(f"more/{name}'" in line for line in found["unreadable"])
    assert found["classes"][0] == {
        "name": "cat", "train": 6 + len(zoo.FILES), "test": 3
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--data_dir must be given"),
        (["--data_dir=nowhere"], "does not exist"),
        (["--data_dir=data/train/cat"], "at least 2 sub-folders"),
        (["--data_dir=data", "--classes=cat,cow"], "not a folder"),
        (["--data_dir=data", "--bit_depth=3"], "bit_depth must be"),
    ],
)
def test_bad_input_is_one_line(run, folder, tmp_path, flags, message):
    result = run("check", *flags, cwd=tmp_path)
    assert result.returncode == 2, result.stdout
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_class_without_pictures_to_train_on_is_refused(run, folder, tmp_path):
    for path in (folder / "train" / "dog").iterdir():
        path.unlink()
    result = run("check", "--data_dir=data", cwd=tmp_path)
    assert result.returncode == 2
    assert "data/train/dog' has none" in result.stderr
