"""Folders of images, all of them made here with Pillow."""

import io
import sys

import hypothesis
import numpy as np
import PIL.Image
import pytest
from hypothesis import strategies as st

from keras_dpvit.datasets import folder_survey, image_folder, load
from keras_dpvit.errors import InputError


def picture(value, size=(4, 3), mode="RGB"):
    """One image of a single value; size is (width, height) as Pillow has it."""
    return PIL.Image.new(mode, size, value if mode != "RGB" else (value,) * 3)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes of 20 PNG files each, gray level 100 * class + file number."""
    for label, name in enumerate(("cat", "dog")):
        for number in range(20):
            save(tmp_path / name / f"{number:02}.png", picture(100 * label + number))
    return tmp_path


def values(images):
    """The gray levels of images of a single value."""
    assert (images == images[:, :1, :1, :1]).all()
    return images[:, 0, 0, 0].tolist()


def test_a_folder_of_classes(folder):
    data = load("image_folder", folder)
    assert data.class_names == ("cat", "dog")
    assert data.image_shape == (3, 4, 3)
    train, test = values(data.x_train), values(data.x_test)
    assert train == sorted(train)
    assert test == sorted(test)
    assert sorted(train + test) == [*range(20), *range(100, 120)]
    assert data.y_train.tolist() == [value // 100 for value in train]
    assert data.y_test.tolist() == [value // 100 for value in test]


def test_the_parts_are_those_of_the_published_rule(folder):
    # As sha256sum has it: "cat/10.png" begins 03d143, "cat/09.png" 04886c, and no other of the
    # 40 paths begins below 26.
    assert not folder_survey.in_test_part("cat/10.png", 0x03D143 / 2**24)
    assert folder_survey.in_test_part("cat/10.png", 0x03D144 / 2**24)
    assert not folder_survey.in_test_part("cat/09.png", 0x04886C / 2**24)
    assert folder_survey.in_test_part("cat/09.png", 0x04886D / 2**24)
    assert values(load("image_folder", folder, test_fraction=0.05).x_test) == [9, 10]


@hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=15,
)
@hypothesis.given(removed=st.sampled_from([*range(20), *range(100, 120)]))
def test_removing_one_file_moves_no_other(folder, removed):
    before = load("image_folder", folder)
    path = folder / ("cat", "dog")[removed // 100] / f"{removed % 100:02}.png"
    content = path.read_bytes()
    path.unlink()
    try:
        after = load("image_folder", folder)
    finally:
        path.write_bytes(content)
    for old, new in ((before.x_train, after.x_train), (before.x_test, after.x_test)):
        assert values(new) == [value for value in values(old) if value != removed]
    assert len(after.x_train) + len(after.x_test) == 39


@hypothesis.given(
    paths=st.sets(st.text(min_size=1), min_size=300, max_size=300),
    fraction=st.floats(0.2, 0.8),
)
@hypothesis.settings(max_examples=20, deadline=None)
def test_the_test_part_has_about_its_fraction_and_grows_with_it(paths, fraction):
    share = sum(folder_survey.in_test_part(path, fraction) for path in paths) / 300
    # Six standard deviations of a binomial share, at its widest.
    assert abs(share - fraction) < 6 * 0.5 / 300**0.5
    assert all(
        folder_survey.in_test_part(path, 0.9)
        for path in paths
        if folder_survey.in_test_part(path, fraction)
    )


def test_a_file_name_which_is_not_unicode_has_a_part(folder):
    content = (folder / "cat" / "00.png").read_bytes()
    name = b"\xff.png".decode("utf-8", "surrogateescape")
    (folder / "cat" / name).write_bytes(content)
    data = load("image_folder", folder)
    assert len(data.x_train) + len(data.x_test) == 41


def test_hidden_files_other_suffixes_and_loose_files_are_ignored(folder):
    expected = load("image_folder", folder)
    for name in ("cat/.hidden.png", "cat/notes.txt", ".cache/a.png", "loose.png", "cat/.x/a.png"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not an image")
    (folder / "dog" / "folder.png").mkdir()
    data = load("image_folder", folder)
    np.testing.assert_array_equal(data.x_train, expected.x_train)
    np.testing.assert_array_equal(data.y_test, expected.y_test)


def test_suffixes_of_any_case_are_read(tmp_path):
    for part in ("train", "test"):
        for name in ("a/1.PNG", "a/2.Jpg", "b/1.JPEG", "b/2.jpeg"):
            save(tmp_path / part / name, picture(50))
    data = load("image_folder", tmp_path)
    assert data.x_train.shape == (4, 3, 4, 3)
    assert data.y_test.tolist() == [0, 0, 1, 1]


def test_given_parts_are_kept(folder):
    for part, base in (("train", 10), ("test", 20)):
        for label, name in enumerate(("x", "y")):
            save(folder / part / name / "one.png", picture(base + label))
    data = load("image_folder", folder)
    assert data.class_names == ("x", "y")
    assert values(data.x_train) == [10, 11]
    assert values(data.x_test) == [20, 21]


def test_given_parts_must_agree_in_classes(tmp_path):
    for name in ("train/x", "train/y", "test/x", "test/z"):
        save(tmp_path / name / "one.png", picture(1))
    with pytest.raises(InputError, match=r"same classes in train and test; .*'y' in one of them"):
        load("image_folder", tmp_path)


def test_a_data_dir_which_is_not_there_or_no_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"^data_dir must be a folder .*file' is not a folder"):
        load("image_folder", tmp_path / "file")
    with pytest.raises(InputError, match=r"^data_dir must be a folder .*absent' does not exist"):
        load("image_folder", tmp_path / "absent")


def test_fewer_than_two_classes_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"at least 2 sub-folders.* has 0"):
        load("image_folder", tmp_path)
    save(tmp_path / "only" / "1.png", picture(1))
    with pytest.raises(InputError, match=r"at least 2 sub-folders.* has 1"):
        load("image_folder", tmp_path)


def test_a_class_without_images_is_named(folder):
    (folder / "emu").mkdir()
    (folder / "emu" / "readme.txt").write_text("soon")
    with pytest.raises(InputError, match=r"pictures in each class; .*emu' has none"):
        load("image_folder", folder)


@pytest.mark.parametrize(("fraction", "part"), [(1e-9, "test"), (1 - 1e-9, "train")])
def test_an_empty_part_is_refused(folder, fraction, part):
    with pytest.raises(InputError, match=f"test_fraction .* none of the 40 .* the {part} part"):
        load("image_folder", folder, test_fraction=fraction)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan"), "0.2", True])
def test_test_fraction_must_be_a_fraction(folder, fraction):
    with pytest.raises(InputError, match=r"^test_fraction must"):
        load("image_folder", folder, test_fraction=fraction)


@pytest.mark.parametrize(
    "shape", [(8, 8), (8, 8, 2), (0, 8, 1), (8, -1, 3), (8.0, 8, 3), (True, 8, 3), "883", 8]
)
def test_image_shape_must_be_three_sizes(folder, shape):
    with pytest.raises(InputError, match=r"^image_shape must be"):
        load("image_folder", folder, image_shape=shape)


def test_a_list_is_an_image_shape_too(folder):
    assert load("image_folder", folder, image_shape=[2, 2, 1]).image_shape == (2, 2, 1)


@pytest.mark.parametrize(
    ("limit", "terminal", "shown"), [(39, True, True), (40, True, False), (39, False, False)]
)
def test_many_files_show_a_bar_on_a_terminal_only(folder, monkeypatch, limit, terminal, shown):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(image_folder, "_FILES_WORTH_A_BAR", limit)
    load("image_folder", folder)
    assert ("40/40" in stream.getvalue()) is shown


def test_a_thousand_files_are_loaded_without_a_bar():
    assert image_folder._FILES_WORTH_A_BAR == 1000
