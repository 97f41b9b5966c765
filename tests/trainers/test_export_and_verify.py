"""`python -m trainers.export` and `python -m trainers.verify`, as typed."""

import json
import shutil

import keras
import numpy as np
import PIL.Image
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import keras_dpvit as kd

pytestmark = pytest.mark.slow

NAMES = list("abcdefghij")


@pytest.fixture(scope="module")
def place(trained_fusion, tmp_path_factory):
    """A run directory, as trainers.train leaves one, and a member as a file of its own."""
    place = tmp_path_factory.mktemp("export")
    (place / "run" / "2").mkdir(parents=True)
    trained_fusion.save(place / "run" / "2" / "model.keras")
    card = kd.export.privacy_card(trained_fusion, dataset={"name": "ours", "class_names": NAMES})
    kd.export.write_privacy_card(card, place / "run" / "2")
    trained_fusion.members[0].save(place / "member.keras")
    return place


@pytest.fixture(scope="module")
def both(run, place):
    """The run as both forms."""
    flags = ("--run=run", "--saved_model=served/ours/1", "--tflite=ours.tflite")
    result = run("export", *flags, "--quantize=float16", cwd=place)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def pictures(place):
    rng = np.random.default_rng(0)
    (place / "photos").mkdir()
    for i in range(3):
        image = PIL.Image.fromarray(rng.integers(0, 256, (30 + i, 40, 3)).astype("uint8"))
        image.save(place / "photos" / f"{i}.jpg")
    return place / "photos"


def test_a_run_becomes_both_forms(both, place):
    assert both.stderr == ""
    assert [line.split()[:2] for line in both.stdout.splitlines()] == [
        ["SavedModel", "served/ours/1"],
        ["TFLite", "ours.tflite"],
    ]
    directory = place / "served" / "ours" / "1"
    assert (directory / "assets" / "class_names.txt").read_text().split() == NAMES
    card = json.loads((directory / "assets.extra" / "privacy_card.json").read_text())
    assert card["dataset"]["name"] == "ours"
    assert (place / "ours.tflite").stat().st_size > 10_000


def test_verify_passes_what_export_wrote(both, run, place, pictures):
    flags = (
        "--saved_model=served/ours",
        "--tflite=ours.tflite",
        "--keras=run/2/model.keras",
        "--images=photos",
    )
    result = run("verify", *flags, cwd=place)
    assert result.returncode == 0, result.stderr + result.stdout
    assert result.stderr == ""
    rows = {line.split("  ")[0]: line for line in result.stdout.splitlines()}
    assert len(rows) == 14
    assert all("  ok " in row for row in rows.values()), result.stdout
    assert "67 images" in rows["keras"]
    assert "3 images" in rows["given pictures"]


def test_a_file_for_any_number_of_images_is_verified_and_used(both, run, place, pictures):
    flags = ("--run=run", "--tflite=any.tflite", "--batch_size=any")
    assert run("export", *flags, cwd=place).returncode == 0
    flags = ("--saved_model=served/ours", "--tflite=any.tflite", f"--images={pictures}")
    result = run("verify", *flags, cwd=place)
    assert result.returncode == 0, result.stdout + result.stderr
    result = run("edge", "--model=any.tflite", f"--source={pictures}", "--json", cwd=place)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["num_frames"] == 3


def test_verify_fails_a_card_edited_by_hand(both, run, place, tmp_path):
    shutil.copytree(place / "served" / "ours" / "1", tmp_path / "1")
    path = tmp_path / "1" / "assets.extra" / "privacy_card.json"
    card = json.loads(path.read_text())
    card["epsilon"]["rdp"] /= 2
    path.write_text(json.dumps(card))
    result = run("verify", "--saved_model=1", "--json", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr == ""
    checks = {check["name"]: check for check in json.loads(result.stdout)}
    assert checks["privacy card"]["passed"] is False
    assert checks["privacy card"]["detail"] == "epsilon: not what the ledger gives"
    assert checks["signatures"]["passed"] is True


@pytest.fixture(scope="module")
def key_files(place):
    key = ec.generate_private_key(ec.SECP256R1())
    encoding, spki = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    pkcs8, bare = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (place / "key.pem").write_bytes(key.private_bytes(encoding, pkcs8, bare))
    (place / "pub.pem").write_bytes(key.public_key().public_bytes(encoding, spki))


def test_a_signed_export_verifies_until_something_is_changed(run, place, key_files):
    flags = ("--run=run", "--saved_model=signed/ours/1", "--private_key=key.pem")
    result = run("export", *flags, cwd=place)
    assert (result.returncode, result.stderr) == (0, "")
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        ["SavedModel", "signed/ours/1"],
        ["signature", str(place / "signed/ours/1.sig")],
    ]
    flags = ("--saved_model=signed/ours", "--public_key=pub.pem")
    result = run("verify", *flags, cwd=place)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith("signature  ")
    assert len(result.stdout.splitlines()) > 10
    # What was tampered with is not loaded: the one check is all that is made.
    with open(place / "signed/ours/1/saved_model.pb", "ab") as file:
        file.write(b" ")
    result = run("verify", *flags, cwd=place)
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout.split()[:2] == ["signature", "FAILED"]
    assert "Hash mismatch for 'saved_model.pb'" in result.stdout
    assert result.stdout.count("\n") == 1


def test_without_its_signature_an_export_fails_under_a_key(both, run, place, key_files):
    result = run("verify", "--saved_model=served/ours", "--public_key=pub.pem", cwd=place)
    assert result.returncode == 1
    assert "FAILED" in result.stdout
    assert "1.sig cannot be read" in result.stdout


def test_a_key_that_cannot_sign_writes_nothing(run, place, key_files):
    flags = ("--run=run", "--saved_model=unsigned/1", "--private_key=pub.pem")
    check_refused(run("export", *flags, cwd=place), "private_key must be a PEM file")
    assert not (place / "unsigned").exists()


def test_a_keras_file_becomes_a_quantised_tflite_file(run, place, tmp_path):
    shutil.copy(place / "member.keras", tmp_path)
    flags = ("--model=member.keras", "--tflite=sub/member.tflite", "--quantize=int8")
    result = run("export", *flags, f"--class_names={','.join(NAMES)}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    from keras_dpvit.export.runners import TFLiteRunner

    runner = TFLiteRunner(tmp_path / "sub" / "member.tflite")
    assert runner.labels == NAMES
    assert runner.input_dtype == "uint8"
    assert {p.name for p in tmp_path.iterdir()} == {"member.keras", "sub"}


def check_refused(result, message):
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert message in result.stderr


@pytest.fixture
def bad_place(tmp_path):
    (tmp_path / "no.keras").write_bytes(b"no archive")
    (tmp_path / "file").write_text("a file")
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"\xff" * 99)
    (tmp_path / "no.png").write_text("no picture")
    return tmp_path


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--saved_model=1"], "Give one of --model=FILE.keras and --run=DIR"),
        (["--model=no.keras", "--run=empty"], "Give one of --model=FILE.keras and --run=DIR"),
        (["--model=no.keras"], "Give --saved_model=DIR, --tflite=FILE, or both"),
        (["--model=nowhere.keras", "--saved_model=1"], "model must be a .keras file"),
        (["--model=file", "--saved_model=1"], "model must be a .keras file, got 'file'"),
        (["--run=empty", "--saved_model=1"], "run must be a directory with model.keras"),
        (["--run=nowhere", "--saved_model=1"], "run must be a directory with model.keras"),
        (["--model=no.keras", "--saved_model=taken"], "taken exists already"),
        (["--model=no.keras", "--saved_model=file/1"], "saved_model must be in a directory"),
        (["--model=no.keras", "--tflite=x.bin"], "tflite must be a file ending in .tflite"),
        (["--model=no.keras", "--saved_model=1", "--quantize=int8"], "quantize is for TFLite"),
        (["--model=no.keras", "--saved_model=1", "--batch_size=4"], "batch_size is for TFLite"),
        (["--model=no.keras", "--tflite=a.tflite", "--batch_size=0"], "batch_size must be any or"),
        (
            ["--model=no.keras", "--tflite=x.tflite", "--calibration=empty"],
            "calibration is for --quantize=int8 alone",
        ),
        (["--model=no.keras", "--saved_model=1"], "'no.keras' cannot be loaded"),
        (["--model=no.keras", "--tflite=x.tflite", "--private_key=k"], "private_key signs a Saved"),
    ],
    ids=str,
)
def test_bad_input_to_export(run, bad_place, flags, message):
    before = sorted(bad_place.rglob("*"))
    check_refused(run("export", *flags, cwd=bad_place), message)
    assert sorted(bad_place.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--class_names=a,b"], "class_names must be 10 names, got 2"),
        (["--noise_at_inference=1"], "noise_at_inference=True needs a model with"),
        (["--tflite=x.tflite", "--quantize=int8", "--calibration=empty"], "'empty' has none"),
    ],
    ids=str,
)
def test_what_does_not_fit_the_model_writes_nothing(run, bad_place, flags, message):
    keras.utils.set_random_seed(0)
    kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=10).save(bad_place / "m.keras")
    before = sorted(bad_place.rglob("*"))
    result = run("export", "--model=m.keras", "--saved_model=new/1", *flags, cwd=bad_place)
    check_refused(result, message)
    assert sorted(bad_place.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--saved_model must be given"),
        (["--saved_model=empty"], "empty holds no SavedModel"),
        (["--saved_model=broken", "--signature=x"], "signature cannot be checked without"),
        (["--saved_model=broken", "--public_key=file"], "public_key must be a PEM file"),
        (["--saved_model=broken"], "broken cannot be loaded as a SavedModel"),
        (["--saved_model=broken", "--images=empty"], "images must hold pictures"),
        (["--saved_model=broken", "--images=no.png"], "no.png' must be one whole picture"),
        (["--saved_model=broken", "--images=nowhere"], "images must be a file that exists"),
        (["--saved_model=broken", "--keras=nowhere.keras"], "keras must be a .keras file"),
        (["--saved_model=broken", "--tflite=nowhere.tflite"], "nowhere.tflite is not a file"),
    ],
    ids=str,
)
def test_bad_input_to_verify(run, bad_place, flags, message):
    check_refused(run("verify", *flags, cwd=bad_place), message)
