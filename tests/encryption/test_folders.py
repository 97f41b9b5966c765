"""Folders of images: what of a picture goes on, what comes back, and runs that are cut short."""

import json
import os
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest

from keras_dpvit import InputError, encryption
from keras_dpvit.encryption import folders, manifest, pictures, workers

SHAPE = (16, 24, 3)


@pytest.fixture(scope="module")
def key_file():
    return encryption.KeyFile(encryption.SecretKey.generate(), "vit_block", {"block_size": 8})


@pytest.fixture(scope="module")
def pixels():
    """Images by the stem of their path."""
    generator = np.random.default_rng(0)
    return {
        name: generator.integers(0, 256, SHAPE, dtype=np.uint8)
        for name in ("cat/1", "cat/2", "dog/1", "dog/deep/1", "top")
    }


@pytest.fixture
def source(tmp_path, pixels):
    root = tmp_path / "plain"
    for name, image in pixels.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image).save(root / f"{name}.png")
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.png").write_text("no image either")
    return root


def shown(folder, names, suffix="png"):
    if suffix == "npy":
        return {name: np.load(folder / f"{name}.npy") for name in names}
    return {name: pictures.read_plain(folder / f"{name}.{suffix}") for name in names}


@pytest.mark.parametrize(
    ("file_format", "jobs"), [("png", 1), ("png", 2), ("webp", 1), ("npy", 1), ("tfrecord", 1)]
)
def test_round_trip(source, tmp_path, key_file, pixels, file_format, jobs):
    hidden, back = tmp_path / "hidden", tmp_path / "back"
    calls = []
    report = folders.encrypt_folder(
        source,
        hidden,
        key_file,
        file_format=file_format,
        jobs=jobs,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert (report.num_images, report.failures, report.ignored) == (5, (), 2)
    assert calls[0] == (0, 5)
    assert calls[-1] == (5, 5)
    read = manifest.read_manifest(hidden)
    assert read.header["kid"] == key_file.key.kid
    assert read.num_images == 5
    on_disk = {p.relative_to(hidden).as_posix() for p in hidden.rglob("*") if p.is_file()}
    assert on_disk == {entry.file for entry in read.entries} | {"manifest.json"}
    cipher = key_file.cipher(SHAPE)
    if file_format != "tfrecord":
        for name, image in shown(hidden, pixels, file_format).items():
            np.testing.assert_array_equal(image, cipher.encrypt(pixels[name]))
    for out in ("png", "npy"):
        folders.decrypt_folder(hidden, back / out, key_file, file_format=out, jobs=jobs)
        for name, image in shown(back / out, pixels, out).items():
            np.testing.assert_array_equal(image, pixels[name])


def test_records_are_readable_by_tensorflow_alone(source, tmp_path, key_file, pixels, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(folders, "SHARD_IMAGES", 2)
    folders.encrypt_folder(source, tmp_path / "hidden", key_file, file_format="tfrecord")
    files = sorted(map(str, (tmp_path / "hidden").glob("*.tfrecord")))
    assert [pathlib.Path(file).name for file in files] == [
        f"images-{i:05d}-of-00003.tfrecord" for i in range(3)
    ]
    spec = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "name": tf.io.FixedLenFeature([], tf.string),
        "kid": tf.io.FixedLenFeature([], tf.string),
        **{n: tf.io.FixedLenFeature([], tf.int64) for n in ("height", "width", "channels")},
    }
    found = {}
    for record in tf.data.TFRecordDataset(files):
        example = tf.io.parse_single_example(record, spec)
        image = tf.io.decode_png(example["image"]).numpy()
        assert image.shape == tuple(int(example[n]) for n in ("height", "width", "channels"))
        assert example["kid"].numpy().decode() == key_file.key.kid
        found[example["name"].numpy().decode()] = image
    cipher = key_file.cipher(SHAPE)
    assert set(found) == set(pixels)
    for name, image in found.items():
        np.testing.assert_array_equal(image, cipher.encrypt(pixels[name]))


@pytest.mark.parametrize("file_format", ["png", "webp"])
@pytest.mark.parametrize("scheme", ["vit_block", "le", "ele", "etc", "pe"])
def test_gray_images_stay_gray(tmp_path, file_format, scheme):
    key_file = encryption.KeyFile(encryption.SecretKey.generate(), scheme, {})
    image = np.random.default_rng(1).integers(0, 256, (16, 16), dtype=np.uint8)
    (tmp_path / "plain").mkdir()
    PIL.Image.fromarray(image).save(tmp_path / "plain" / "a.png")
    folders.encrypt_folder(
        tmp_path / "plain", tmp_path / "hidden", key_file, file_format=file_format
    )
    folders.decrypt_folder(tmp_path / "hidden", tmp_path / "back", key_file)
    with PIL.Image.open(tmp_path / "back" / "a.png") as back:
        assert back.mode == "L"
        np.testing.assert_array_equal(np.asarray(back), image)


def with_thumbnail(path, orientation):
    """A JPEG with EXIF (orientation, maker, a thumbnail of the picture), XMP and a comment."""
    image = np.zeros((16, 24, 3), np.uint8)
    image[:8, :8] = 250  # one bright corner
    picture = PIL.Image.fromarray(image)
    exif = PIL.Image.Exif()
    exif[274] = orientation
    exif[271] = "SECRETCAMERA"
    exif[306] = "2001:01:01 00:00:00"
    thumbnail = pathlib.Path(f"{path}.thumb")
    picture.save(thumbnail, "JPEG")
    exif[37510] = b"THUMB" + thumbnail.read_bytes()
    thumbnail.unlink()
    picture.save(
        path, "JPEG", exif=exif, quality=95, xmp=b"<x>SECRETXMP</x>", comment=b"SECRETCOMMENT"
    )


@pytest.mark.parametrize("file_format", folders.FILE_FORMATS)
def test_orientation_is_applied_and_all_else_is_left_behind(tmp_path, file_format):
    plain = tmp_path / "plain"
    plain.mkdir()
    with_thumbnail(plain / "a.jpg", orientation=6)  # stored turned left: 24 high, 16 wide upright
    raw = (plain / "a.jpg").read_bytes()
    for mark in (b"SECRETCAMERA", b"THUMB", b"SECRETXMP", b"SECRETCOMMENT"):
        assert mark in raw
    key_file = encryption.KeyFile(encryption.SecretKey.generate(), "pe", {})
    folders.encrypt_folder(plain, tmp_path / "hidden", key_file, file_format=file_format)
    folders.decrypt_folder(tmp_path / "hidden", tmp_path / "back", key_file)
    back = pictures.read_plain(tmp_path / "back" / "a.png")
    assert back.shape == (24, 16, 3)
    assert back[:7, 9:].min() > 200  # the corner, now at the upper right
    assert back[:, :7].max() < 50
    for path in (tmp_path / "hidden").rglob("*"):
        data = path.read_bytes()
        for mark in (b"SECRET", b"THUMB", b"Exif", b"eXIf", b"JFIF", b"2001:01"):
            assert mark not in data, path
    for path in (tmp_path / "hidden").glob("a.*"):
        if file_format in ("png", "webp"):
            with PIL.Image.open(path) as image:
                assert dict(image.getexif()) == {}
            assert pictures.read_kid(path) == key_file.key.kid


def test_resizing_rounds_to_bytes_before_it_encrypts(source, tmp_path, key_file, pixels):
    folders.encrypt_folder(source, tmp_path / "hidden", key_file, size=(32, 8))
    expected = PIL.Image.fromarray(pixels["top"]).resize((8, 32), PIL.Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(
        pictures.read_plain(tmp_path / "hidden" / "top.png"),
        key_file.cipher((32, 8, 3)).encrypt(np.asarray(expected)),
    )


def test_hashed_names_keep_the_tree_and_tell_nothing(source, tmp_path, key_file, pixels):
    folders.encrypt_folder(source, tmp_path / "hidden", key_file, hash_names=True)
    names = sorted(p.relative_to(tmp_path / "hidden") for p in (tmp_path / "hidden").rglob("*.png"))
    assert len(names) == 5
    assert sorted(len(name.parts) for name in names) == [1, 2, 2, 2, 3]
    text = (tmp_path / "hidden" / "manifest.json").read_text()
    for word in ("cat", "dog", "deep", "top", "1.png"):
        assert f'"{word}' not in text
        assert f"{word}/" not in text
    folders.decrypt_folder(tmp_path / "hidden", tmp_path / "back", key_file)
    back = {pictures.read_plain(p).tobytes() for p in (tmp_path / "back").rglob("*.png")}
    assert back == {image.tobytes() for image in pixels.values()}
    other = encryption.KeyFile(encryption.SecretKey.generate(), "pe")
    folders.encrypt_folder(source, tmp_path / "other", other, hash_names=True)
    assert not {n.name for n in names} & {p.name for p in (tmp_path / "other").rglob("*.png")}


def test_two_sources_of_one_stem_both_stay(tmp_path, key_file):
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("a.png", "a.bmp", "b.png"):
        PIL.Image.fromarray(np.full(SHAPE, len(name), np.uint8)).save(plain / name)
    folders.encrypt_folder(plain, tmp_path / "hidden", key_file)
    assert sorted(p.name for p in (tmp_path / "hidden").iterdir()) == [
        "a.bmp.png",
        "a.png.png",
        "b.png",
        "manifest.json",
    ]
    PIL.Image.fromarray(np.zeros(SHAPE, np.uint8)).save(plain / "a.bmp.webp", lossless=True)
    with pytest.raises(InputError, match=r"two images which would both be called 'a\.bmp'"):
        folders.encrypt_folder(plain, tmp_path / "again", key_file)
    assert not (tmp_path / "again").exists()


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def killed_after(monkeypatch, files):
    """Lets so many files be written, and dies in the middle of the next."""
    write = pictures.write_atomically
    written = []

    def dying(path, data):
        if path.name != "manifest.json":
            if len(written) == files:
                path.parent.mkdir(parents=True, exist_ok=True)
                (path.parent / f"{pictures.partial_prefix(path.name)}1").write_bytes(data[:20])
                raise Killed
            written.append(path)
        write(path, data)

    monkeypatch.setattr(pictures, "write_atomically", dying)


def test_a_run_that_was_cut_short_goes_on(source, tmp_path, key_file, pixels, monkeypatch):
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
    refused(tmp_path, "16x24, no multiple of the block size 16: give", source, hidden, large)
    PIL.Image.fromarray(np.zeros((16, 24), np.uint8)).save(source / "gray.png")
    gray = encryption.KeyFile(key_file.key, "etc", {"mode": "grayscale"})
    refused(tmp_path, "3 channels", source, hidden, gray)
    (source / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    refused(tmp_path, "broken.png' must be one whole image", source, hidden, key_file)


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
def test_rotation(source, tmp_path, key_file, pixels, file_format):
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


def test_a_job_carries_no_key_to_its_processes_by_pickling(key_file, tmp_path):
    import pickle

    job = workers.Job(tmp_path, tmp_path, "png", new=key_file)
    assert key_file.key.reveal().hex() not in repr(job)
    with pytest.raises(pickle.PicklingError):
        pickle.dumps(job)


def test_sixteen_bit_and_palette_images(tmp_path):
    deep = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
    PIL.Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(pictures.read_plain(tmp_path / "deep.png")[..., 0], deep >> 8)
    colour = PIL.Image.fromarray(np.full((8, 8, 3), (10, 200, 30), np.uint8))
    colour.quantize(4).save(tmp_path / "palette.png")
    colour.convert("RGBA").save(tmp_path / "alpha.png")
    for name in ("palette", "alpha"):
        image = pictures.read_plain(tmp_path / f"{name}.png")
        assert image[0, 0].tolist() == [10, 200, 30]
        assert pictures.plain_shape(tmp_path / f"{name}.png", None) == image.shape
    frames = [PIL.Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "two.tiff", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="several pictures"):
        pictures.read_plain(tmp_path / "two.tiff")


def test_a_folder_that_cannot_be_written_is_named(source, tmp_path, key_file):
    if os.geteuid() == 0:
        target = pathlib.Path("/proc/none")
    else:
        target = tmp_path / "locked" / "hidden"
        target.parent.mkdir(mode=0o500)
    with pytest.raises(InputError, match=f"output {target} cannot be written"):
        folders.encrypt_folder(source, target, key_file)
