"""Reports from the command line: a run on a folder of images, from training to page."""

import json
import os
import re
import shutil

import pytest


@pytest.fixture(scope="module")
def place(tmp_path_factory, write_images):
    folder = tmp_path_factory.mktemp("report-zqx")
    write_images(folder / "photos")
    return folder


@pytest.fixture(scope="module")
def trained(run, place):
    """One model on a folder of images."""
    flags = ("--dataset=image_folder", "--data_dir=photos", "--image_size=8,8,1", "--members=1")
    others = ("--epochs=3", "--l2_norm_clip=1", "--recipe=none", "--output_dir=out")
    result = run("train", *flags, *others, cwd=place)
    assert result.returncode == 0, result.stderr
    return place / "out" / "1"


@pytest.fixture(scope="module")
def reported(run, place, trained):
    flags = ("--run=out", "--data_dir=photos", "--max_images=10", "--sample_images=3")
    result = run("report", *flags, "--output=page.html", cwd=place)
    assert result.returncode == 0, result.stderr
    return result


def data_of(page):
    block = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', page)
    return json.loads(block.group(1))


@pytest.mark.slow
def test_program_says_what_it_wrote(reported, place):
    assert reported.stderr == ""
    size = len((place / "page.html").read_text("utf-8"))
    assert reported.stdout == (
        f"page.html: 10 held-out images of image_folder, {size:,} bytes.\n"
        "It shows held-out images, which epsilon does not protect.\n"
    )
    assert {path.name for path in place.iterdir()} == {"out", "photos", "page.html"}


@pytest.mark.slow
def test_page_is_about_the_run(reported, place, trained):
    page = (place / "page.html").read_text("utf-8")
    found = data_of(page)
    card = json.loads((trained / "privacy_card.json").read_text())
    record = json.loads((trained / "run.json").read_text())
    assert found["data"]["class_names"] == ["bright", "dark"]
    assert found["data"]["num_scored"] == 10
    assert found["privacy"]["epsilon"] == card["epsilon"]
    assert found["privacy"]["statement"] == card["statement"]
    assert found["histories"] == [{"name": "model", **record["histories"][0]}]
    assert page.count('alt="Held-out image of class') == 3
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)  # pictures may hold any letters
    assert "zqx" not in text  # no place of this machine
    digests = {file["name"]: file["sha256"] for file in found["provenance"]["files"]}
    assert len(digests["model.keras"]) == 64


@pytest.mark.slow
def test_a_second_page_replaces_the_first(run, reported, place):
    flags = ("--run=out/1", "--data_dir=photos", "--sample_images=0")
    result = run("report", *flags, "--output=page.html", cwd=place)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(" bytes.\n")
    page = (place / "page.html").read_text("utf-8")
    assert "<img" not in page
    assert data_of(page)["data"]["num_scored"] == data_of(page)["data"]["num_held_out"]


@pytest.mark.slow
def test_a_model_of_ones_own_has_a_page(run, trained, place, tmp_path):
    shutil.copy(trained / "model.keras", tmp_path / "mine.keras")
    data = ("--dataset=image_folder", f"--data_dir={place / 'photos'}")
    flags = ("--model=mine.keras", *data, "--max_images=10", "--delta=1e-7")
    result = run("report", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Held out are the images that trainers.train holds out" in result.stdout
    page = (tmp_path / "mine-report.html").read_text("utf-8")
    found = data_of(page)
    card = json.loads((trained / "privacy_card.json").read_text())
    assert found["privacy"]["delta"] == 1e-7
    assert found["privacy"]["epsilon"]["rdp"] > card["epsilon"]["rdp"]
    assert found["privacy"]["ledger"] == card["ledger"]
    assert found["data"]["class_names"] == ["bright", "dark"]
    assert found["histories"] == []
    assert [file["name"] for file in found["provenance"]["files"]] == ["mine.keras"]
    assert found["model"]["preset"] == "DPViTClassifier"
    assert "weights trained" not in page


def one_line(result, message):
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


@pytest.mark.slow  # it needs the run
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--run=out",), "data_dir must name the folder to read"),
        (("--run=out", "--data_dir=none"), "does not exist"),
        (("--run=out", "--data_dir=animals"), "must hold the classes that the run was trained on"),
    ],
)
def test_data_that_is_not_the_runs(run, place, trained, write_images, flags, message):
    if not (place / "animals").exists():
        write_images(place / "animals")
        os.rename(place / "animals" / "dark", place / "animals" / "cats")
    before = sorted(path.name for path in place.iterdir())
    one_line(run("report", *flags, "--output=other.html", cwd=place), message)
    assert sorted(path.name for path in place.iterdir()) == before
    shutil.rmtree(place / "animals")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "Give one of --run=DIR"),
        (("--model=x.keras",), "--dataset must be given with --model"),
        (("--model=x.keras", "--dataset=digits"), "must be a .keras file"),
        (("--run=out", "--delta=1e-5"), "delta is for --model"),
        (("--run=none",), "does not exist"),
        (("--run=.",), "must hold run.json"),
        (("--run=broken",), "cannot be read as JSON"),
        (("--run=broken", "--sample_images=49"), "sample_images must be 0..48, got 49"),
        (("--run=broken", "--max_images=0"), "max_images must be a whole number above 0, got 0"),
        (("--run=sound", "--output=page.pdf"), "output must be a file ending in .html"),
        (("--run=sound", "--output=none/page.html"), "in a directory that can be written"),
    ],
)
def test_bad_input_is_one_line_before_tensorflow_starts(run, flags, message, tmp_path):
    for name, text in (("broken", "{"), ("sound", '{"flags": {}, "histories": []}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
        (tmp_path / name / "model.keras").write_text("")
        card = {"delta": 1e-4, "dataset": {"class_names": ["a", "b"]}}
        card["ledger"] = {"kind": "sequential", "entries": []}
        (tmp_path / name / "privacy_card.json").write_text(json.dumps(card))
    one_line(run("report", *flags, cwd=tmp_path), message)
    assert not list(tmp_path.glob("*.html"))
