"""What is refused in one line, what a changed file does, and changing the key."""

import json
import os
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest

from keras_dpvit import InputError, encryption
from keras_dpvit.encryption import folders, manifest


def refused(tmp_path, told, *arguments, turn=folders.encrypt_folder, **options):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=told) as caught:
        turn(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before  # nothing half-written, nothing lost


def test_what_is_refused_before_anything_is_written(source, tmp_path, key_file):
    hidden = tmp_path / "hidden"
    for target in (source, source / "below", tmp_path):
        refused(tmp_path, "output must not be the input folder", source, target, key_file)
    link = tmp_path / "link"
    link.symlink_to(source)
    refused(tmp_path, "output must not be the input folder", source, link, key_file)
    refused(tmp_path, "input must be a folder", tmp_path / "none", hidden, key_file)
    (tmp_path / "empty").mkdir()
    refused(tmp_path, "input must have image files", tmp_path / "empty", hidden, key_file)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("precious")
    refused(tmp_path, "output must be a new or empty", source, tmp_path / "full", key_file)
    refused(tmp_path, "is a file", source, tmp_path / "full" / "x", key_file)
    refused(tmp_path, "multiple of the block size 8", source, hidden, key_file, size=(20, 16))
    refused(tmp_path, "jobs must be a whole", source, hidden, key_file, jobs=0)
    refused(tmp_path, "file_format must be one of", source, hidden, key_file, file_format="jpg")
    fixed = encryption.KeyFile(key_file.key, "vit_block", {"block_size": 8}, (16, 16, 3))
    refused(tmp_path, "16x24, but this key is for 16x16: give", source, hidden, fixed)
    refused(tmp_path, "size must be 16,16", source, hidden, fixed, size=(8, 8))
    large = encryption.KeyFile(key_file.key, "vit_block", {"block_size": 16})
    refused(tmp_path, "16x24, not a multiple of the block size 16: give", source, hidden, large)
    PIL.Image.fromarray(np.zeros((16, 24), np.uint8)).save(source / "gray.png")
    gray = encryption.KeyFile(key_file.key, "etc", {"mode": "grayscale"})
    refused(tmp_path, "3 channels", source, hidden, gray)
    (source / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    refused(tmp_path, "broken.png' must be one whole picture", source, hidden, key_file)


def test_what_decrypting_refuses(source, tmp_path, key_file):
    hidden, back = tmp_path / "hidden", tmp_path / "back"
    refused(tmp_path, "has no manifest", source, back, key_file, turn=folders.decrypt_folder)
    folders.encrypt_folder(source, hidden, key_file)
    other = encryption.KeyFile(encryption.SecretKey.generate(), "vit_block", {"block_size": 8})
    refused(
        tmp_path,
        f"key is {other.key.kid}, but .* was encrypted with key {key_file.key.kid}",
        hidden,
        back,
        other,
        turn=folders.decrypt_folder,
    )
    refused(tmp_path, "output must not be", hidden, hidden, key_file, turn=folders.decrypt_folder)


def test_a_changed_ciphertext_is_named(source, tmp_path, key_file):
    hidden, back = tmp_path / "hidden", tmp_path / "back"
    folders.encrypt_folder(source, hidden, key_file)
    shutil.copy(hidden / "cat" / "1.png", hidden / "cat" / "2.png")
    (hidden / "top.png").unlink()
    report = folders.decrypt_folder(hidden, back, key_file)
    assert report.num_images == 3
    first, second = report.failures
    assert "cat/2.png was changed" in first
    assert "top.png cannot be read" in second


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(version=2),
        lambda c: c["files"].pop(),
        lambda c: c["files"][0].update(file="../../etc/passwd"),
        lambda c: c["files"][0].update(file="/etc/passwd"),
        lambda c: c["files"][0].pop("sha256"),
        lambda c: c.pop("num_files"),
        lambda c: c["files"][0]["images"][0].update(name="../out"),
    ],
)
def test_a_changed_manifest_is_refused(source, tmp_path, key_file, change):
    hidden = tmp_path / "hidden"
    folders.encrypt_folder(source, hidden, key_file)
    path = hidden / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    refused(
        tmp_path,
        r"manifest.json is damaged",
        hidden,
        tmp_path / "back",
        key_file,
        turn=folders.decrypt_folder,
    )


@pytest.mark.parametrize("file_format", ["png", "tfrecord"])
def test_rotation(source, tmp_path, key_file, pixels, file_format, shown):
    hidden, again, back = (tmp_path / name for name in ("hidden", "again", "back"))
    folders.encrypt_folder(source, hidden, key_file, file_format=file_format)
    new = encryption.KeyFile(encryption.SecretKey.generate(), "ele", {"block_size": 4})
    report = folders.rotate_folder(hidden, again, key_file, new)
    assert report.num_images == 5
    read = manifest.read_manifest(again)
    assert (read.header["kid"], read.header["scheme"]) == (new.key.kid, "ele")
    assert read.header["file_format"] == file_format
    folders.decrypt_folder(again, back, new)
    for name, image in shown(back, pixels).items():
        np.testing.assert_array_equal(image, pixels[name])
    turn = folders.rotate_folder
    refused(tmp_path, "wrong key", hidden, tmp_path / "x", new, key_file, turn=turn)
    refused(
        tmp_path, "new_key must be another", hidden, tmp_path / "x", key_file, key_file, turn=turn
    )
    bad = encryption.KeyFile(encryption.SecretKey.generate(), "le", {"block_size": 5})
    refused(tmp_path, "multiples of the block", hidden, tmp_path / "x", key_file, bad, turn=turn)


def test_rotation_refuses_what_was_encrypted_with_loss(source, tmp_path, key_file):
    lossy = encryption.KeyFile(
        encryption.SecretKey.generate(), "etc", {"mode": "grayscale", "color_transform": "ycbcr"}
    )
    folders.encrypt_folder(source, tmp_path / "hidden", lossy)
    refused(
        tmp_path,
        "encrypted with loss",
        tmp_path / "hidden",
        tmp_path / "again",
        lossy,
        key_file,
        turn=folders.rotate_folder,
    )


def test_a_folder_that_cannot_be_written_is_named(source, tmp_path, key_file):
    if os.geteuid() == 0:
        target = pathlib.Path("/proc/none")
    else:
        target = tmp_path / "locked" / "hidden"
        target.parent.mkdir(mode=0o500)
    with pytest.raises(InputError, match=f"output {target} cannot be written"):
        folders.encrypt_folder(source, target, key_file)
