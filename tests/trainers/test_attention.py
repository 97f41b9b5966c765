"""Attention maps from the command line."""

import types

import keras
import numpy as np
import PIL.Image
import pytest

from keras_dpvit.errors import InputError
from keras_dpvit.runs import model_files
from trainers import attention


@pytest.fixture(scope="module")
def place(trained_members, trained_fusion, tmp_path_factory):
    """A folder with a member, a fused model and a model of somebody else's."""
    place = tmp_path_factory.mktemp("attention")
    trained_members[0].save(place / "one.keras")
    trained_fusion.save(place / "fused.keras")
    other = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    other.save(place / "other.keras")
    return place


@pytest.mark.slow
def test_picture_of_a_fused_models_member(run, place):
    flags = ("--model=fused.keras", "--member=2", "--dataset=digits", "--num_images=3")
    result = run("attention", *flags, "--output=maps.png", cwd=place)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    first, second = result.stdout.splitlines()
    assert first == "maps.png: attention maps of 3 held-out images of digits."
    assert second == "What they show of these images is not covered by the model's epsilon."
    with PIL.Image.open(place / "maps.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 800


def options(monkeypatch, **values):
    monkeypatch.setattr(attention, "FLAGS", types.SimpleNamespace(**values))


def test_images_are_chosen_by_position_or_by_lot(monkeypatch, digit_images):
    options(monkeypatch, num_images=4, seed=None)
    np.testing.assert_array_equal(attention._chosen(digit_images), [0, 1, 2, 3])
    options(monkeypatch, num_images=24, seed=5)
    drawn = attention._chosen(digit_images)
    assert len(set(drawn)) == 24
    assert max(drawn) < len(digit_images.x_test)
    np.testing.assert_array_equal(drawn, attention._chosen(digit_images))
    options(monkeypatch, num_images=24, seed=6)
    assert set(drawn) != set(attention._chosen(digit_images))


def test_labels_say_what_is_right_and_what_the_model_says(trained_members):
    images = np.zeros((2, 8, 8, 1), "float32")
    names = ("a name that is much too long", *"bcdefghij")
    first, second = attention._labels(trained_members[0], images, np.array([0, 3]), names)
    assert first.startswith("a name that i…\nmodel: ")
    assert second.startswith("d\nmodel: ")
    assert first.split("\n")[1] == second.split("\n")[1]


@pytest.mark.parametrize(
    ("path", "member", "message"),
    [
        ("one.keras", 2, r"member must be 1\.\.1 for .*, got 2"),
        ("fused.keras", 3, r"member must be 1\.\.2 for .*, got 3"),
        ("fused.keras", 0, r"member must be 1\.\.2 for .*, got 0"),
        ("other.keras", 1, "model must hold a DPViTClassifier; .* holds a Sequential"),
    ],
)
def test_members_that_are_not_there(place, path, member, message):
    with pytest.raises(InputError, match=message):
        model_files.load_member(str(place / path), member)


BAD = [
    (["--output=a.png"], "--model must be given: a .keras file"),
    (["--model=one.keras"], "--output must be given: a .png file"),
    (["--model=one.keras", "--output=a.pdf"], "output must be a file ending in .png"),
    (["--model=one.keras", "--output=a.png", "--num_images=0"], "num_images must be 1..24, got 0"),
    (["--model=one.keras", "--output=a.png", "--num_images=25"], "num_images must be 1..24"),
    (["--model=one.keras", "--output=a.png", "--seed=-1"], "seed must be a whole number, 0 or"),
    (["--model=one.keras", "--output=a.png", "--dataset=imagenet"], "digits|fashion_mnist|mnist"),
    (["--model=none.keras", "--output=a.png"], "model must be a .keras file, got 'none.keras'"),
    (
        ["--model=one.keras", "--output=a.png", "--dataset=image_folder", "--data_dir=photos"],
        "--dataset=image_folder has 2 classes, the model 10",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "message"), BAD, ids=[" ".join(flags) for flags, _ in BAD])
def test_bad_input_is_one_line_and_status_2(run, place, write_images, flags, message):
    if "--data_dir=photos" in flags:
        write_images(place / "photos")
    result = run("attention", *flags, cwd=place)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not (place / "a.png").exists()
