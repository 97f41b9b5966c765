"""Files are whole or absent, and infinite numbers survive JSON."""

import json
import math
import os

import hypothesis
import pytest
from hypothesis import strategies as st

from keras_dpvit import _files
from keras_dpvit.errors import InputError


def test_a_file_is_replaced_whole_and_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b.txt"
    _files.write_whole(path, "first")
    _files.write_whole(path, b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(fails, tmp_path, monkeypatch):
    path = tmp_path / "b.txt"
    _files.write_whole(path, "first")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(InputError, match=r"b\.txt cannot be written: No space left on device"):
        _files.write_whole(path, "second")
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"]


NUMBERS = st.one_of(st.floats(allow_nan=False), st.integers(), st.text(max_size=3), st.none())


@hypothesis.given(
    st.recursive(
        NUMBERS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner)
    )
)
def test_what_json_gives_back_is_what_it_was_given(value):
    hypothesis.assume("infinite" not in repr(value))  # a text may be the word itself
    text = json.dumps(_files.jsonable(value), allow_nan=False)
    assert _files.from_jsonable(json.loads(text)) == value


def test_a_nan_becomes_nothing_or_is_refused(tmp_path):
    assert _files.jsonable([math.nan, -math.inf]) == [None, "-infinite"]
    with pytest.raises(ValueError):
        _files.write_json(tmp_path / "a.json", [math.nan], nan_as_none=False)
    assert list(tmp_path.iterdir()) == []


def test_places_that_can_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    assert _files.is_writable(tmp_path)
    assert not _files.is_writable(file)
    assert not _files.is_writable(tmp_path / "none")
    assert _files.can_be_made(tmp_path / "new" / "newer" / "newest")
    assert not _files.can_be_made(file / "new")
