"""Sixty kinds of picture files through every reader: one answer, or one line of refusal."""

import os
import pathlib
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_dpvit import encryption
from keras_dpvit.datasets import Reading, image_files, load
from keras_dpvit.encryption import folders
from keras_dpvit.errors import InputError

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import zoo

SHAPE = (12, 16, 3)


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    return zoo.write(tmp_path_factory.mktemp("zoo"))


def test_there_are_sixty():
    assert len(zoo.FILES) >= 60


@pytest.mark.parametrize("name", zoo.names(readable=True))
def test_a_file_is_read(animals, name):
    assert zoo.is_right(name, image_files.read_image(animals / name))
    assert image_files.read_shape(animals / name) == image_files.read_image(animals / name).shape
    whole = image_files.read_image(animals / name, SHAPE)
    assert whole.shape == SHAPE
    assert whole.dtype == np.uint8


@pytest.mark.parametrize("name", zoo.names(readable=False))
def test_a_file_is_refused_in_one_line(animals, name):
    for read in (image_files.read_image, image_files.servable_bytes):
        with pytest.raises(InputError, match=zoo.FILES[name][1]) as caught:
            read(animals / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "<_io" not in str(caught.value)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_served_model_gets_what_training_read(animals, channels):
    from keras_dpvit.export.decoding import decode_and_resize

    shape, names = (8, 6, channels), zoo.names(readable=True)
    content = [image_files.servable_bytes(animals / name) for name in names]
    found = decode_and_resize(tf.constant(content), shape).numpy()
    for name, pixels in zip(names, found, strict=True):
        expected = image_files.read_image(animals / name, shape)
        # libjpeg's versions round a colour by one.
        assert np.abs(pixels - expected).max() <= 1, name


def test_cameras_encryption_and_attacks_read_the_same(animals, tmp_path):
    from keras_dpvit.edge import frames
    from trainers import _attack_output

    good = tmp_path / "good"
    good.mkdir()
    for name in zoo.names(readable=True):
        os.link(animals / name, good / name)
    expected = {name: image_files.read_image(good / name, SHAPE) for name in os.listdir(good)}
    seen = {f.name: f.pixels for f in frames.open_source(str(good)).frames(SHAPE, False)}
    key_file = encryption.KeyFile(encryption.SecretKey.generate(), "pe", {}, SHAPE)
    folders.encrypt_folder(good, tmp_path / "hidden", key_file, size=SHAPE[:2])
    folders.decrypt_folder(tmp_path / "hidden", tmp_path / "back", key_file)
    assert sorted(seen) == sorted(expected)
    for name, pixels in expected.items():
        np.testing.assert_array_equal(seen[name], pixels)
        np.testing.assert_array_equal(_attack_output.read(good / name, SHAPE), pixels)
        stem = pathlib.Path(name).stem
        back = [tmp_path / "back" / f"{n}.png" for n in (stem, name)]
        (path,) = [p for p in back if p.exists()]
        np.testing.assert_array_equal(image_files.read_image(path), pixels)


def test_a_folder_of_them_is_loaded_whole(animals, tmp_path, caplog):
    """At any depth, by links, in train and val; what is hidden or no picture stays out."""
    for part in ("train", "val"):
        for label in ("cat", "dog"):
            (tmp_path / part / label / "deep" / "er").mkdir(parents=True)
    good = zoo.names(readable=True)
    for name in good:
        os.link(animals / name, tmp_path / "train" / "cat" / "deep" / "er" / name)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    os.link(animals / "gray.png", elsewhere / "linked.png")
    (tmp_path / "train" / "dog" / "link").symlink_to(elsewhere)
    (tmp_path / "train" / "dog" / "link" / "loop").symlink_to(tmp_path / "train" / "dog")
    os.link(animals / "gray.png", tmp_path / "val" / "cat" / "a.png")
    os.link(animals / "gray.png", tmp_path / "val" / "dog" / "a.png")
    (tmp_path / "train" / "dog" / ".hidden").mkdir()
    os.link(animals / "text.jpg", tmp_path / "train" / "dog" / ".hidden" / "text.jpg")
    (tmp_path / "train" / "dog" / "notes.txt").write_text("notes")
    data = load("image_folder", tmp_path, image_shape=SHAPE)
    assert np.bincount(data.y_train).tolist() == [len(good), 1]
    assert data.y_test.tolist() == [0, 1]
    (message,) = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert "1 that are no pictures (.txt)" in message
    assert "outside of train and val, in elsewhere" in message


def test_twelve_bits_in_sixteen(tmp_path):
    import PIL.Image

    levels = (np.arange(256, dtype=np.uint16) * 16 + 5).reshape(16, 16)
    PIL.Image.fromarray(levels).save(tmp_path / "a.png")
    usual = image_files.read_image(tmp_path / "a.png")
    assert len(np.unique(usual)) == 16
    found = image_files.read_image(tmp_path / "a.png", reading=Reading(bit_depth=12))
    np.testing.assert_array_equal(found[..., 0], levels >> 4)
    with pytest.raises(InputError, match="not of 10 bits"):
        image_files.read_image(tmp_path / "a.png", reading=Reading(bit_depth=10))


@pytest.mark.parametrize(("transparency", "level"), [("drop", 200), ("white", 255), ("black", 0)])
@pytest.mark.parametrize("name", ["clear.png", "gray_clear.png", "clear.webp"])
def test_transparency(animals, name, transparency, level):
    reading = Reading(transparency)
    found = image_files.read_image(animals / name, reading=reading)
    assert np.abs(found.astype(int) - level).max() <= 1
    assert found.shape[-1] == (1 if name == "gray_clear.png" else 3)
    content = image_files.servable_bytes(animals / name, reading)
    (animals / "again.tmp").write_bytes(content)
    np.testing.assert_array_equal(image_files.read_image(animals / "again.tmp"), found)


@pytest.mark.parametrize("options", [{"transparency": "pink"}, {"bit_depth": 8}, {"bit_depth": 17}])
def test_other_readings_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        Reading(**options)


def test_names_that_are_no_text_are_shown(tmp_path):
    name = os.fsdecode(b"caf\xe9\n.png")
    path = tmp_path / name
    path.write_bytes(zoo.PNG)
    assert image_files.read_image(path).shape == (*zoo.SIDES, 3)
    assert image_files.shown(name).encode("utf-8") == "caf\N{REPLACEMENT CHARACTER}" \
        "\N{REPLACEMENT CHARACTER}.png".encode()  # fmt: skip
    for label in ("a", os.fsdecode(b"b\xff")):
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / "x.png").write_bytes(zoo.PNG)
    with pytest.raises(InputError, match="printable UTF-8"):
        load("image_folder", tmp_path / "data")


def test_a_folder_that_cannot_be_listed_is_no_silent_loss(tmp_path, monkeypatch):
    for label in ("cat", "dog"):
        for place in (tmp_path / label, tmp_path / label / "more"):
            place.mkdir()
            (place / "x.png").write_bytes(zoo.PNG)
    listed = os.scandir

    def refuse(place):
        if str(place).endswith("more"):
            raise PermissionError(13, "Permission denied", str(place))
        return listed(place)

    monkeypatch.setattr(os, "scandir", refuse)  # what a folder of another user does
    with pytest.raises(InputError, match="more' cannot be read: Permission denied"):
        load("image_folder", tmp_path)
