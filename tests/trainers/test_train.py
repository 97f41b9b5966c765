"""Training from the command line, on real digits, from flags to files and back."""

import json
import re
import shutil

import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.privacy.ledger import ledger_from_dict

pytestmark = pytest.mark.slow

FILES = {
    "assets.extra/privacy_card.json",
    "assets.extra/provenance.json",
    "assets.extra/tf_serving_warmup_requests",
    "assets/class_names.txt",
    "fingerprint.pb",
    "model.keras",
    "model.tflite",
    "privacy_card.json",
    "run.json",
    "saved_model.pb",
    "variables/variables.data-00000-of-00001",
    "variables/variables.index",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("train-zqx")


@pytest.fixture(scope="module")
def first(run_by_itself, place):
    """Two members on the digits."""
    flags = ("--dataset=digits", "--epsilon=8", "--delta=1e-4", "--members=2", "--epochs=2",
             "--seed=271828", "--recipe=none")  # fmt: skip
    result = run_by_itself("train", *flags, "--statement", "--output_dir=out/digits", cwd=place)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def second(run, place, first, file_digests, write_images):
    """One member on a folder of images, into the same directory; and what was there before."""
    before = file_digests(place / "out/digits/1")
    write_images(place / "photos")
    flags = ("--dataset=image_folder", "--data_dir=photos", "--image_size=8,8,1", "--members=1")
    optimizer = ("--optimizer=sgd", "--l2_norm_clip=1", "--clipping=flat", "--seed=271828")
    others = ("--epochs=3", "--recipe=none", "--output_dir=out/digits")
    result = run("train", *flags, *optimizer, *others, cwd=place)
    assert result.returncode == 0, result.stderr
    return result, before


def read_json(path):
    return json.loads(path.read_text())


def below(directory):
    return {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}


def test_first_run_writes_version_1_and_nothing_else(first, place):
    assert below(place) >= {f"out/digits/1/{name}" for name in FILES}
    assert [p.name for p in (place / "out/digits").iterdir() if p.name.startswith(".")] == []
    assert {p.name for p in place.iterdir()} <= {"out", "photos"}


def test_user_sees_no_warnings(first, second):
    for result in (first, second[0]):
        assert not re.search("warning|traceback|error", result.stderr, re.IGNORECASE)


def test_table_has_accuracies_epsilon_and_files(first, place):
    accuracies = read_json(place / "out/digits/1/run.json")["accuracy_on_held_out_images"]
    assert list(accuracies) == ["member A", "member B", "fused", "SavedModel", "TFLite"]
    for name, value in accuracies.items():
        assert f"accuracy, {name} " in first.stdout
        assert re.search(rf"accuracy, {name} +{value:.4f}\n", first.stdout)
    assert accuracies["fused"] == accuracies["SavedModel"] == accuracies["TFLite"]
    assert accuracies["fused"] > 0.15  # ten classes: better than a guess after two epochs
    printed = re.search(r"epsilon at delta 0.0001, RDP +([\d.]+)\n", first.stdout)
    assert 7.9 < float(printed[1]) <= 8.0
    for line in ("SavedModel +out/digits/1", "TFLite +out/digits/1/model.tflite"):
        assert re.search(line + "\n", first.stdout)
    assert "Not covered by epsilon" in first.stdout
    assert len(re.findall(r"Epoch 2/2", first.stdout)) == 2


def test_card_is_the_budget_and_the_data(first, place):
    card = read_json(place / "out/digits/1/privacy_card.json")
    assert 7.9 < card["epsilon"]["rdp"] <= 8
    assert card["epsilon"]["pld"] < card["epsilon"]["rdp"]
    assert card["delta"] == 1e-4
    assert card["dataset"]["name"] == "digits"
    assert card["dataset"]["num_training_examples"] == 1400
    assert card["dataset"]["num_test_examples"] == 360
    assert [m["steps"] for m in card["mechanism"]] == [11, 11]  # ceil(2 * 1400 / 256)
    assert ledger_from_dict(card["ledger"]).epsilon(1e-4) == card["epsilon"]["rdp"]


def test_saved_model_has_the_card_and_the_class_names(first, place):
    directory = place / "out/digits/1"
    card = (directory / "privacy_card.json").read_bytes()
    assert (directory / "assets.extra/privacy_card.json").read_bytes() == card
    names = (directory / "assets/class_names.txt").read_text().splitlines()
    assert names == read_json(directory / "privacy_card.json")["dataset"]["class_names"]
    provenance = read_json(directory / "assets.extra/provenance.json")
    assert provenance["model"]["members"][0]["preset"] == "dpvit_tiny_8"
    assert [plan["num_examples"] for plan in provenance["plan"]] == [1400]


def test_keras_file_is_the_fused_model(first, place, digit_images):
    expected = kd.FusedClassifier, kd.DPKerasAdamOptimizer
    model = kd.load_model(place / "out/digits/1/model.keras")
    assert (type(model), type(model.members[0].optimizer)) == expected
    card = read_json(place / "out/digits/1/privacy_card.json")
    assert model.privacy_ledger == ledger_from_dict(card["ledger"])
    fused = model.predict(digit_images.x_test.astype("float32"), verbose=0)["probabilities"]
    accuracy = np.mean(fused.argmax(axis=1) == digit_images.y_test)
    run = read_json(place / "out/digits/1/run.json")
    assert run["accuracy_on_held_out_images"]["fused"] == pytest.approx(accuracy)


def test_run_file_has_the_flags_that_matter(first, second, place):
    flags = read_json(place / "out/digits/1/run.json")["flags"]
    assert flags["epsilon"] == 8
    assert flags["delta"] == 1e-4
    assert flags["epochs"] == 2
    assert flags["dataset"] == "digits"
    assert flags["members"] == 2
    histories = read_json(place / "out/digits/1/run.json")["histories"]
    assert [len(history["loss"]) for history in histories] == [2, 2]


def test_nothing_written_tells_the_seed_or_the_place(second, place):
    for path in (place / "out").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for trace in (b"271828", b"-zqx", b"photos"):
                assert trace not in content, (path.name, trace)


def test_second_run_writes_version_2_and_leaves_version_1(second, place, file_digests):
    result, before = second
    assert {p.name for p in (place / "out/digits").iterdir()} == {"1", "2"}
    assert below(place / "out/digits/2") == FILES
    assert file_digests(place / "out/digits/1") == before
    assert "Exporting to out/digits/2" in result.stdout


def test_second_run_did_what_its_flags_say(second, place):
    card = read_json(place / "out/digits/2/privacy_card.json")
    (mechanism,) = card["mechanism"]
    assert card["model"] == "DPViTClassifier"
    assert card["dataset"]["class_names"] == ["bright", "dark"]
    assert mechanism["sensitivity"] == {"name": "fixed", "l2_norm_clip": 1.0}
    assert mechanism["clipping"]["name"] == "flat"
    assert mechanism["count_noise_stddev"] == 0
    assert mechanism["seed_fixed"] is True
    assert 2.5 < card["epsilon"]["rdp"] <= 3  # the default budget
    accuracies = read_json(place / "out/digits/2/run.json")["accuracy_on_held_out_images"]
    assert list(accuracies) == ["member A", "SavedModel", "TFLite"]


@pytest.mark.parametrize(
    "flag", ["--saved_model=out/digits/1", "--tflite=out/digits/1/model.tflite"]
)
def test_evaluate_scores_what_training_scored(run, place, first, flag):
    result = run("evaluate", flag, "--dataset=digits", "--json", cwd=place)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    scored = json.loads(result.stdout)
    accuracies = read_json(place / "out/digits/1/run.json")["accuracy_on_held_out_images"]
    assert scored["accuracy"] == pytest.approx(accuracies["fused"])
    assert scored["num_test_examples"] == 360
    assert set(scored["accuracy_by_class"]) == set("0123456789")


def test_evaluate_matches_classes_by_their_names(run, place, first, second, tmp_path):
    """A folder with more classes, in which the numbers of the same two are others."""
    flags = ("--saved_model=out/digits", "--dataset=image_folder")
    expected = run("evaluate", *flags, "--data_dir=photos", "--json", cwd=place).stdout
    shutil.copytree(place / "photos", tmp_path / "photos")
    parts = [p for p in (tmp_path / "photos").iterdir() if p.is_dir()]
    assert {p.name for p in parts} == {"bright", "dark"}
    shutil.copytree(tmp_path / "photos" / "dark", tmp_path / "photos" / "a first class")
    more = (*flags, f"--data_dir={tmp_path / 'photos'}")
    result = run("evaluate", *more, cwd=place)
    assert result.returncode == 2
    assert "it has bright, dark, and not a first class" in result.stderr
    named = run("evaluate", *more, "--classes=dark,bright", "--json", cwd=place)
    assert json.loads(named.stdout)["accuracy"] == json.loads(expected)["accuracy"]
    other = run("evaluate", "--saved_model=out/digits/1", *more[1:], "--image_size=8,8,1",
                "--classes=bright,dark", cwd=place)  # fmt: skip
    assert other.returncode == 2
    assert "and not bright, dark" in other.stderr


def test_evaluate_takes_the_newest_version(run, place, second):
    flags = ("--saved_model=out/digits", "--dataset=image_folder", "--data_dir=photos")
    result = run("evaluate", *flags, cwd=place)
    assert result.returncode == 0, result.stderr
    expected = read_json(place / "out/digits/2/run.json")["accuracy_on_held_out_images"]
    assert result.stdout.startswith("out/digits/2 on ")
    assert f"accuracy {expected['SavedModel']:.4f}\n" in result.stdout
    assert re.search(r"\n  bright +\d\.\d{4}\n  dark +\d\.\d{4}\n", result.stdout)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--saved_model=out/digits/2", "--dataset=digits"],
            "the model must know all classes of digits: it has bright, dark, and not 0, 1, 2, 3, 4."
            " --by_number takes the classes as equal in their order",
        ),
        (
            [
                "--tflite=out/digits/1/model.tflite",
                "--dataset=image_folder",
                "--data_dir=photos",
                "--image_size=9,9,1",
            ],
            "images must be 8x8x1 (the model's input), got 9x9x1",
        ),
    ],
    ids=["other classes", "other size"],
)
def test_evaluate_on_other_data_is_one_line(run, place, second, flags, message):
    result = run("evaluate", *flags, cwd=place)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr == f"error: {message}.\n"
