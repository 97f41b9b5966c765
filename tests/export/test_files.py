"""Directories that appear whole or not at all, and version numbers."""

import os

import pytest

from keras_dpvit._files import new_directory
from keras_dpvit.errors import InputError
from keras_dpvit.export.files import next_version


def test_directory_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "a" / "b" / "1"
    with new_directory(target) as work:
        (work / "file").write_text("x")
        assert not target.exists()
        assert work.parent == target.parent  # one file system, so that the move is one step
    assert (target / "file").read_text() == "x"
    assert [path.name for path in target.parent.iterdir()] == ["1"]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_failure_leaves_nothing(tmp_path, error):
    def fail():
        with new_directory(tmp_path / "1") as work:
            (work / "deep").mkdir()
            (work / "deep" / "file").write_text("x")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [os.mkdir, lambda path: open(path, "w").close()])
def test_existing_target_is_refused_before_anything(tmp_path, make):
    make(tmp_path / "1")
    ran = []
    with pytest.raises(InputError, match="exists already"), new_directory(tmp_path / "1"):
        ran.append(True)
    assert ran == []
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_target_taken_meanwhile_is_not_written_over(tmp_path):
    target = tmp_path / "1"

    def two_at_once():
        with new_directory(target) as work:
            (work / "file").write_text("mine")
            target.mkdir()
            (target / "file").write_text("theirs")

    with pytest.raises(OSError):
        two_at_once()
    assert (target / "file").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_place_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"), new_directory(tmp_path / "file/1"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], 1),
        (["1"], 2),
        (["1", "2", "10"], 11),
        (["3"], 4),  # above all there are: TF Serving serves the highest
        (["0"], 1),
        (["latest", "1.5", ".2-abc", "-7", "v4"], 1),
        (["007"], 8),
    ],
)
def test_next_version_is_above_all_taken(tmp_path, names, expected):
    for name in names:
        (tmp_path / name).mkdir()
    assert next_version(tmp_path) == expected


def test_next_version_of_nothing_is_1_and_makes_nothing(tmp_path):
    assert next_version(tmp_path / "new") == 1
    assert list(tmp_path.iterdir()) == []


def test_base_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file, not a directory for versions"):
        next_version(tmp_path / "file")
