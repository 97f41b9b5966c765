"""Runs over a folder that are cut short, repeated, or meet a broken image."""

import shutil

import numpy as np
import pytest

from keras_dpvit import InputError, _files, encryption
from keras_dpvit.encryption import folders, manifest


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def killed_after(monkeypatch, files):
    """Lets so many files be written, and dies in the middle of the next."""
    write = _files.write_whole
    written = []

    def dying(path, data):
        if path.name != "manifest.json":
            if len(written) == files:
                path.parent.mkdir(parents=True, exist_ok=True)
                (path.parent / f"{_files.partial_prefix(path.name)}1").write_bytes(data[:20])
                raise Killed
            written.append(path)
        write(path, data)

    monkeypatch.setattr(_files, "write_whole", dying)


def test_a_run_that_was_cut_short_goes_on(source, tmp_path, key_file, pixels, monkeypatch, shown):
    hidden = tmp_path / "hidden"
    with monkeypatch.context() as patch:
        killed_after(patch, 3)
        with pytest.raises(Killed):
            folders.encrypt_folder(source, hidden, key_file)
    assert len(list(hidden.rglob("*.png"))) == 3
    assert list(hidden.rglob(".part-*"))
    with pytest.raises(InputError, match="is unfinished"):
        folders.decrypt_folder(hidden, tmp_path / "back", key_file)
    journal = hidden / manifest.JOURNAL_NAME
    journal.write_bytes(journal.read_bytes()[:-9])  # the last line torn
    first = min(hidden.rglob("*.png"))
    first.write_bytes(first.read_bytes()[:-1])  # and a finished file spoiled
    kept = {p: p.stat().st_mtime_ns for p in hidden.rglob("*.png")}
    report = folders.encrypt_folder(source, hidden, key_file)
    assert (report.num_images, report.resumed) == (5, 1)
    assert sum(p.stat().st_mtime_ns == when for p, when in kept.items()) == 1
    assert not list(hidden.rglob(".p*"))
    folders.decrypt_folder(hidden, tmp_path / "back", key_file)
    for name, image in shown(tmp_path / "back", pixels).items():
        np.testing.assert_array_equal(image, pixels[name])


def test_a_run_that_is_cut_short_twice_loses_nothing_that_was_noted(
    source, tmp_path, key_file, monkeypatch
):
    hidden = tmp_path / "hidden"
    journal = hidden / manifest.JOURNAL_NAME
    for files in (3, 2):
        with monkeypatch.context() as patch:
            killed_after(patch, files)
            with pytest.raises(Killed):
                folders.encrypt_folder(source, hidden, key_file)
        if files == 3:
            journal.write_bytes(journal.read_bytes()[:-9])  # the third file's line torn
    report = folders.encrypt_folder(source, hidden, key_file)
    assert (report.num_images, report.resumed) == (5, 4)


def test_decrypting_goes_on_too(source, tmp_path, key_file, pixels, monkeypatch):
    hidden, back = tmp_path / "hidden", tmp_path / "back"
    folders.encrypt_folder(source, hidden, key_file)
    with monkeypatch.context() as patch:
        killed_after(patch, 2)
        with pytest.raises(Killed):
            folders.decrypt_folder(hidden, back, key_file)
    report = folders.decrypt_folder(hidden, back, key_file)
    assert (report.num_images, report.resumed) == (5, 2)
    assert {p.relative_to(back).as_posix() for p in back.rglob("*") if p.is_file()} == {
        f"{name}.png" for name in pixels
    }


def test_a_finished_folder_is_taken_up_when_images_come_and_go(source, tmp_path, key_file):
    hidden = tmp_path / "hidden"
    folders.encrypt_folder(source, hidden, key_file)
    shutil.copy(source / "top.png", source / "new.png")
    (source / "cat" / "1.png").unlink()
    report = folders.encrypt_folder(source, hidden, key_file)
    assert (report.num_images, report.resumed) == (5, 4)
    listed = {entry.file for entry in manifest.read_manifest(hidden).entries}
    assert listed == {p.relative_to(hidden).as_posix() for p in hidden.rglob("*.png")}
    assert "new.png" in listed
    assert "cat/1.png" not in listed


def test_other_options_or_another_key_are_refused_in_a_folder(source, tmp_path, key_file):
    hidden = tmp_path / "hidden"
    folders.encrypt_folder(source, hidden, key_file)
    before = sorted(hidden.rglob("*"))
    other = encryption.KeyFile(encryption.SecretKey.generate(), "vit_block", {"block_size": 8})
    for key, options in (
        (other, {}),
        (key_file, {"size": (8, 8)}),
        (key_file, {"hash_names": True}),
    ):
        with pytest.raises(InputError, match="output must be a new or empty folder"):
            folders.encrypt_folder(source, hidden, key, **options)
    assert sorted(hidden.rglob("*")) == before


def test_two_runs_do_not_write_one_folder(source, tmp_path, key_file):
    header = {"some": "run"}
    with manifest.Journal(tmp_path / "hidden", header, True) as journal:
        journal.add(manifest.Entry.of("x.png", b"x", []))
        with pytest.raises(InputError, match="being written by another run"):
            folders.encrypt_folder(source, tmp_path / "hidden", key_file)
    with pytest.raises(InputError, match="belongs to a run with other options or another key"):
        folders.encrypt_folder(source, tmp_path / "hidden", key_file)


def test_an_image_that_cannot_be_decoded_is_named_and_the_others_are_kept(
    source, tmp_path, key_file
):
    whole = (source / "cat" / "2.png").read_bytes()
    (source / "cat" / "2.png").write_bytes(whole[: len(whole) // 2])  # its header is whole
    hidden = tmp_path / "hidden"
    report = folders.encrypt_folder(source, hidden, key_file)
    assert report.num_images == 4
    assert len(report.failures) == 1
    assert str(source / "cat" / "2.png") in report.failures[0]
    assert not (hidden / "manifest.json").exists()
    assert not list(hidden.rglob(".part-*"))
    (source / "cat" / "2.png").write_bytes(whole)
    report = folders.encrypt_folder(source, hidden, key_file)
    assert (report.num_images, report.resumed, report.failures) == (5, 4, ())


def test_neither_journal_nor_manifest_hold_the_key(source, tmp_path, key_file, monkeypatch):
    with monkeypatch.context() as patch:
        killed_after(patch, 3)
        with pytest.raises(Killed):
            folders.encrypt_folder(source, tmp_path / "hidden", key_file)
    secret = key_file.key.reveal()
    for path in (tmp_path / "hidden").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert secret not in data
            assert secret.hex().encode() not in data
