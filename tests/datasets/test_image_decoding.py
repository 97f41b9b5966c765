"""How single image files are decoded, all of them made here with Pillow."""

import io

import hypothesis
import numpy as np
import PIL.Image
import pytest
from hypothesis import strategies as st

from keras_dpvit.datasets import image_files, load
from keras_dpvit.errors import InputError

ORIENTATION = 0x0112
FOUR_PLACES = ("train/a", "train/b", "test/a", "test/b")


def picture(value, size=(4, 3), mode="RGB"):
    """One image of a single value; size is (width, height) as Pillow has it."""
    return PIL.Image.new(mode, size, value if mode != "RGB" else (value,) * 3)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def values(images):
    """The gray levels of images of a single value."""
    assert (images == images[:, :1, :1, :1]).all()
    return images[:, 0, 0, 0].tolist()


def attempt(path, image_shape=None):
    """Reads one file; returns its pixels or None, and the message of its refusal or None."""
    try:
        return image_files.read_image(path, image_shape), None
    except InputError as error:
        return None, str(error)


@pytest.fixture
def folder(tmp_path):
    """Both parts of two classes with two images each."""
    for place in FOUR_PLACES:
        for number in range(2):
            save(tmp_path / place / f"{number}.png", picture(number))
    return tmp_path


def test_an_exif_rotated_photograph_is_turned_upright(tmp_path):
    # Left half black, right half white; orientation 6 says: turn clockwise to show it.
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:, 16:] = 255
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = 6
    for name in FOUR_PLACES:
        image = PIL.Image.fromarray(pixels)
        save(tmp_path / name / "1.jpg", image, exif=exif, quality=95)
    upright = load("image_folder", tmp_path).x_train[0, ..., 0]
    assert upright.shape == (32, 16)
    assert upright[:15].max() < 40
    assert upright[17:].min() > 215
    resized = load("image_folder", tmp_path, image_shape=(8, 8, 1)).x_train[0, ..., 0]
    assert resized[:3].max() < 40
    assert resized[5:].min() > 215


@pytest.mark.parametrize("channels", [1, 3])
def test_sizes_and_modes_become_the_given_shape(tmp_path, channels):
    images = {
        "1": picture(1, (9, 5), "1"),
        "L": picture(200, (2, 2), "L"),
        "LA": PIL.Image.new("LA", (3, 7), (200, 10)),
        "P": picture(200, (6, 6)).convert("P", palette=PIL.Image.Palette.ADAPTIVE),
        "RGB": picture(200, (4, 1)),
        "RGBA": PIL.Image.new("RGBA", (8, 4), (200, 200, 200, 10)),
        "I;16": PIL.Image.fromarray(np.full((5, 4), 200 * 256 + 17, np.uint16)),
    }
    for name, image in images.items():
        save(tmp_path / "train" / "a" / f"{name}.png", image)
    for name in ("train/b", "test/a", "test/b"):
        save(tmp_path / name / "1.png", picture(200))
    save(tmp_path / "test" / "b" / "2.jpg", PIL.Image.new("CMYK", (8, 8), (0, 0, 0, 0)))
    data = load("image_folder", tmp_path, image_shape=(3, 5, channels))
    assert data.image_shape == (3, 5, channels)
    assert values(data.x_train) == [255, *[200] * 7]
    assert values(data.x_test) == [200, 200, 255]


def test_resizing_is_pillows_bilinear_and_same_size_is_left_alone(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    image = PIL.Image.fromarray(pixels)
    for name in FOUR_PLACES:
        save(tmp_path / name / "1.png", image)
    small = load("image_folder", tmp_path, image_shape=(4, 3, 3)).x_train[0]
    expected = image.resize((3, 4), PIL.Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(small, np.asarray(expected))
    same = load("image_folder", tmp_path, image_shape=(7, 9, 3)).x_train[0]
    np.testing.assert_array_equal(same, pixels)


def test_sixteen_bit_gray_keeps_its_upper_byte(tmp_path):
    pixels = (np.arange(256, dtype=np.uint16) * 256 + 128).reshape(16, 16)
    for name in FOUR_PLACES:
        save(tmp_path / name / "1.png", PIL.Image.fromarray(pixels))
    data = load("image_folder", tmp_path)
    np.testing.assert_array_equal(data.x_test[0].reshape(-1), np.arange(256))


def test_gray_images_keep_one_channel(tmp_path):
    for name in FOUR_PLACES:
        save(tmp_path / name / "1.png", picture(9, mode="L"))
    assert load("image_folder", tmp_path).image_shape == (3, 4, 1)


@pytest.mark.parametrize(
    ("odd", "sizes"),
    [
        (picture(1, (4, 5)), "5 high, 4 wide with 3 channels"),
        (picture(1, (4, 3), "L"), "3 high, 4 wide with 1 channel,"),
    ],
)
def test_the_first_odd_size_is_named(folder, odd, sizes):
    save(folder / "train" / "b" / "1.png", odd)
    with pytest.raises(InputError, match=f"image_shape .*train/b/1.png' is {sizes}"):
        load("image_folder", folder)
    assert load("image_folder", folder, image_shape=(3, 4, 3)).image_shape == (3, 4, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_cut_at_any_byte_is_whole_or_named(tmp_path, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, kind)
    content = stream.getvalue()
    path = tmp_path / "image.png"
    path.write_bytes(content)
    whole = image_files.read_image(path, None)
    refused = 0
    for length in range(len(content)):
        path.write_bytes(content[:length])
        image, message = attempt(path)
        if image is None:
            assert "image.png" in message
            assert "\n" not in message
            refused += 1
        else:
            # Only what comes after the last pixel may be missing.
            np.testing.assert_array_equal(image, whole)
    assert refused >= len(content) - 20


# Pillow warns of damaged EXIF data and goes on without it.
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], deadline=None
)
@hypothesis.given(kind=st.sampled_from(["PNG", "JPEG"]), data=st.data())
def test_damaged_bytes_never_raise_anything_else(tmp_path, kind, data):
    stream = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = 3
    picture(77, (6, 6)).save(stream, kind, exif=exif)
    content = bytearray(stream.getvalue())
    for place in data.draw(st.sets(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "image.png"
    path.write_bytes(content)
    image, message = attempt(path, (6, 6, 3))
    assert "image.png" in message if image is None else image.shape == (6, 6, 3)


@pytest.mark.parametrize("content", [b"", b"text", b"GIF89a"])
def test_a_file_which_is_no_image_is_named(folder, content):
    (folder / "test" / "a" / "1.png").write_bytes(content)
    with pytest.raises(InputError, match=r"test/a/1.png' must be one whole picture"):
        load("image_folder", folder)


def test_a_file_is_what_it_holds_whatever_its_name(folder):
    before = load("image_folder", folder)
    picture(1).save(folder / "test" / "a" / "1.png", format="BMP")
    np.testing.assert_array_equal(load("image_folder", folder).x_test, before.x_test)


def test_all_bad_files_are_told_at_once(folder):
    for name in ("train/a/0.png", "train/b/1.png", "test/b/0.png"):
        (folder / name).write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a/0\.png.*b/1\.png.*b/0\.png") as caught:
        load("image_folder", folder)
    assert "\n" not in str(caught.value)


def test_a_decompression_bomb_is_refused(folder, monkeypatch):
    save(folder / "test" / "a" / "1.png", picture(1, (100, 100)))
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match=r"1.png'.*far more than the 134217728 pixels"):
        load("image_folder", folder, image_shape=(4, 4, 3))
