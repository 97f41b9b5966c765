"""What of a picture goes on into the output, in each format, and what comes back."""

import pathlib

import numpy as np
import PIL.Image
import pytest

from keras_dpvit import InputError, encryption
from keras_dpvit.datasets import image_files
from keras_dpvit.encryption import ciphertext_files, folders, manifest, workers

SHAPE = (16, 24, 3)


@pytest.mark.parametrize(
    ("file_format", "jobs"), [("png", 1), ("png", 2), ("webp", 1), ("npy", 1), ("tfrecord", 1)]
)
def test_round_trip(source, tmp_path, key_file, pixels, file_format, jobs, shown):
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
    assert (report.num_images, report.failures, report.ignored) == (5, (), 1)
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
    back = image_files.read_image(tmp_path / "back" / "a.png")
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
            assert ciphertext_files.read_kid(path) == key_file.key.kid


def test_resizing_rounds_to_bytes_before_it_encrypts(source, tmp_path, key_file, pixels):
    folders.encrypt_folder(source, tmp_path / "hidden", key_file, size=(32, 8))
    expected = PIL.Image.fromarray(pixels["top"]).resize((8, 32), PIL.Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(
        image_files.read_image(tmp_path / "hidden" / "top.png"),
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
    back = {image_files.read_image(p).tobytes() for p in (tmp_path / "back").rglob("*.png")}
    assert back == {image.tobytes() for image in pixels.values()}
    other = encryption.KeyFile(encryption.SecretKey.generate(), "pe")
    folders.encrypt_folder(source, tmp_path / "other", other, hash_names=True)
    assert not {n.name for n in names} & {p.name for p in (tmp_path / "other").rglob("*.png")}


def test_long_names_are_kept_or_refused_before_anything_is_written(tmp_path, key_file):
    plain = tmp_path / "plain"
    plain.mkdir()
    pixels = PIL.Image.fromarray(np.full(SHAPE, 5, np.uint8))
    pixels.save(plain / f"{'a' * 247}.png")
    folders.encrypt_folder(plain, tmp_path / "hidden", key_file)
    folders.decrypt_folder(tmp_path / "hidden", tmp_path / "back", key_file)
    assert (tmp_path / "back" / f"{'a' * 247}.png").exists()
    pixels.save(plain / f"{'a' * 247}.bmp")
    with pytest.raises(InputError, match="name too long"):
        folders.encrypt_folder(plain, tmp_path / "again", key_file)
    assert not (tmp_path / "again").exists()
    folders.encrypt_folder(plain, tmp_path / "again", key_file, hash_names=True)


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


def test_a_job_carries_no_key_to_its_processes_by_pickling(key_file, tmp_path):
    import pickle

    job = workers.Job(tmp_path, tmp_path, "png", new=key_file)
    assert key_file.key.reveal().hex() not in repr(job)
    with pytest.raises(pickle.PicklingError):
        pickle.dumps(job)


def test_sixteen_bit_and_palette_images(tmp_path):
    deep = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
    PIL.Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(image_files.read_image(tmp_path / "deep.png")[..., 0], deep >> 8)
    colour = PIL.Image.fromarray(np.full((8, 8, 3), (10, 200, 30), np.uint8))
    colour.quantize(4).save(tmp_path / "palette.png")
    colour.convert("RGBA").save(tmp_path / "alpha.png")
    for name in ("palette", "alpha"):
        image = image_files.read_image(tmp_path / f"{name}.png")
        assert image[0, 0].tolist() == [10, 200, 30]
        assert image_files.read_shape(tmp_path / f"{name}.png") == image.shape
    frames = [PIL.Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "two.tiff", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="several pictures"):
        image_files.read_image(tmp_path / "two.tiff")
