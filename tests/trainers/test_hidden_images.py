"""`--encryption_key` of trainers.train and trainers.evaluate."""

import json
import pathlib

import numpy as np
import pytest

from keras_dpvit import datasets, encryption
from keras_dpvit.export.runners import SavedModelRunner

FLAGS = (
    "--dataset=digits",
    "--epsilon=8",
    "--delta=1e-4",
    "--epochs=8",
    "--members=1",
    "--preset=dpvit_tiny_8",
    "--seed=1",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory, run):
    """Two keys for 8x8 images, and a model trained on digits under the first of them."""
    place = tmp_path_factory.mktemp("hidden_images")
    for name in ("key", "other"):
        made = run(
            "encrypt",
            "keygen",
            f"--output={name}.json",
            "--block_size=2",
            "--image_size=8,8,1",
            cwd=place,
        )
        assert made.returncode == 0, made.stderr
    done = run("train", *FLAGS, "--encryption_key=key.json", "--output_dir=models", cwd=place)
    assert done.returncode == 0, done.stderr
    (place / "said.txt").write_text(done.stdout)
    return place


@pytest.fixture(scope="module")
def cipher(place):
    return encryption.read_key_file(place / "key.json").cipher()


@pytest.mark.slow
def test_the_card_says_what_each_protection_covers(place, cipher):
    card = json.loads((place / "models" / "1" / "privacy_card.json").read_text())
    entry = card["encryption"]
    assert (entry["scheme"], entry["kid"]) == ("vit_block", cipher.kid)
    assert entry["params"] == {"block_size": 2, "channels": "joint", "unit": "quadrant"}
    assert "not confidentiality" in entry["statement"]
    assert card["epsilon"]["rdp"] <= 8
    said = (place / "said.txt").read_text()
    assert f"Key {cipher.kid}: {entry['statement']}" in said


@pytest.mark.slow
def test_the_model_was_trained_on_the_ciphertexts(place, cipher):
    data = datasets.load("digits")
    runner = SavedModelRunner(place / "models" / "1")
    right = np.mean(runner.predict(cipher.encrypt(data.x_test))["class_id"] == data.y_test)
    run = json.loads((place / "models" / "1" / "run.json").read_text())
    assert right == pytest.approx(run["accuracy_on_held_out_images"]["SavedModel"])
    plain = np.mean(runner.predict(data.x_test)["class_id"] == data.y_test)
    assert right > 0.3 > plain


@pytest.mark.slow
def test_no_file_of_the_run_holds_the_key(place, cipher):
    key = encryption.read_key_file(place / "key.json").key
    traces = [key.reveal(), key.reveal().hex().encode(), key.subkey("vit-blockwise/K1/n=16")]
    for form in (cipher.block_permutation, np.argsort(cipher.block_permutation)):
        traces += [
            form.astype(f"{order}{kind}").tobytes()
            for order in "<>"
            for kind in ("i1", "i2", "i4", "i8", "f4", "f8")
        ]
    files = [path for path in (place / "models").rglob("*") if path.is_file()]
    assert len(files) > 4
    for path in files:
        data = path.read_bytes()
        assert not [trace for trace in traces if trace in data], path
        assert str(pathlib.Path("key.json")).encode() not in data, path


@pytest.mark.slow
def test_evaluating_compares_keys(place, run):
    flags = ("--saved_model=models", "--dataset=digits")
    scored = run("evaluate", *flags, "--encryption_key=key.json", "--json", cwd=place)
    assert scored.returncode == 0, scored.stderr
    assert scored.stderr == ""
    card_run = json.loads((place / "models" / "1" / "run.json").read_text())
    accuracy = card_run["accuracy_on_held_out_images"]["SavedModel"]
    assert json.loads(scored.stdout)["accuracy"] == pytest.approx(accuracy)
    wrong = run("evaluate", *flags, "--encryption_key=other.json", cwd=place)
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
    assert "the model was trained on images under key" in wrong.stderr
    plain = run("evaluate", *flags, cwd=place)
    assert plain.returncode == 0
    assert "warning: the model was trained on images encrypted with key" in plain.stderr


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--encryption_key=none.json"], "none.json cannot be read"),
        (["--encryption_key=loose.json"], "chmod 600"),
        (["--encryption_key=large.json"], "images must have shape (224, 224, 3)"),
        (["--encryption_key=open.json"], "multiples of the block size 16"),
        (["--encryption_key=open.json", "--encryption_block_size=3"], "block_size must be even"),
        (["--encryption_block_size=4"], "needs --encryption_key"),
    ],
)
def test_keys_that_do_not_fit_are_refused_before_training(run, tmp_path, flags, told):
    key = encryption.SecretKey.generate()
    files = {
        "open": encryption.KeyFile(key),
        "large": encryption.KeyFile(key, image_shape=(224, 224, 3)),
        "loose": encryption.KeyFile(key),
    }
    for name, key_file in files.items():
        encryption.write_key_file(tmp_path / f"{name}.json", key_file)
    (tmp_path / "loose.json").chmod(0o640)
    result = run("train", *FLAGS, *flags, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert told in result.stderr
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json"] * 3
