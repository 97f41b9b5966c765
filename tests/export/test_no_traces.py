"""Exports travel: nothing in them may tell where they were made."""

import os
import platform
import re
import sys
import tempfile
import zipfile

import pytest

import keras_dpvit as kd


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Directories whose names are easy to know again."""
    root = tmp_path_factory.mktemp("traces-zqx")
    named = {name: root / f"{name}-zqx" for name in ("cwd", "home", "temporary")}
    for directory in named.values():
        directory.mkdir()
    return named


@pytest.fixture(scope="module")
def exports(trained_fusion, places):
    """The bytes of every file of an export written from those places, by relative paths."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(places["cwd"])
        patch.setenv("HOME", str(places["home"]))
        patch.setenv("TMPDIR", str(places["temporary"]))
        patch.setattr(tempfile, "tempdir", None)  # TMPDIR is read again
        assert tempfile.gettempdir() == str(places["temporary"])
        kd.export.saved_model(trained_fusion, "savedmodels/1")
        kd.export.tflite(trained_fusion, "savedmodels/1/model.tflite")
        trained_fusion.save("savedmodels/1/model.keras")
        kd.export.write_privacy_card(kd.export.privacy_card(trained_fusion), "savedmodels/1")
    root = places["cwd"] / "savedmodels" / "1"
    files = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    assert {
        "saved_model.pb",
        "model.tflite",
        "privacy_card.json",
        "assets/class_names.txt",
        "assets.extra/privacy_card.json",
        "assets.extra/provenance.json",
        "assets.extra/tf_serving_warmup_requests",
    } < set(files)
    return {**files, **unpacked(root / "model.keras")}


def unpacked(path):
    """The members of a `.keras` file, which is a compressed archive."""
    with zipfile.ZipFile(path) as archive:
        return {f"{path.name}/{name}": archive.read(name) for name in archive.namelist()}


def host_pattern():
    """The host's name as a word; a short one only in longer text, as weights spell such too."""
    word = rb"(?<![\w.-])" + re.escape(platform.node().encode()) + rb"(?![\w.-])"
    return re.compile(word), 4 if len(platform.node()) >= 6 else 12


def test_no_place_of_this_machine(exports):
    known = {
        "a place of the export": "-zqx",
        "home": os.path.expanduser("~"),
        "checkout": os.path.dirname(os.path.dirname(kd.__file__)),
        "environment": sys.prefix,
        "interpreter": sys.base_prefix,
        "temporary": tempfile.gettempdir(),
    }
    for name, content in exports.items():
        for what, place in known.items():
            assert place.encode() not in content, f"{what} in {name}"


def test_nothing_that_looks_like_a_path_here(exports):
    host, shortest = host_pattern()
    for name, content in exports.items():
        for text in re.findall(rb"[ -~]{4,}", content):
            for first in re.findall(rb"(?<![\w.)-])/([\w.+-]+)/[\w.+-]", text):
                assert not os.path.exists(b"/" + first), f"{text!r} in {name}"
            if len(text) >= shortest:
                assert not host.search(text), f"{text!r} in {name}"
            # Source files of the program, as stack traces hold them.
            assert not re.search(rb"\w\.py\b", text), f"{text!r} in {name}"


def test_no_training_image(exports, digit_images):
    # Whole images, in the two dtypes in which they are in memory.
    for image in digit_images.x_train[:100]:
        for written in (image.tobytes(), image.astype("float32").tobytes()):
            assert not [name for name, content in exports.items() if written in content]
