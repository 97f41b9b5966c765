"""`trainers.attack` as a user types it."""

import json

import numpy as np
import PIL.Image
import pytest

from benchmarks import photographs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pieces of photographs in two sub-folders, and a file that is no picture."""
    base = tmp_path_factory.mktemp("attack")
    pieces = photographs.crops(photographs.load(), 4, np.random.default_rng(0))
    for i, piece in enumerate(pieces):
        path = base / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(piece).save(path)
    (base / "photos" / "notes.txt").write_text("no picture")
    return base


def test_pictures_and_figures(run, folder):
    result = run(
        "attack",
        "--scheme=vit",
        "--attack=known_plaintext",
        "--images=photos",
        "--keys=2",
        "--output=out",
        "--json",
        cwd=folder,
    )
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["exact_keys"] == 1
    assert told["scored_on"] == "other images"
    assert told["ssim_uniform7"]["median"] == told["ssim_gaussian11"]["median"] == 1
    assert told["ssim_uniform7_ciphertext"]["median"] < 0.5
    assert told["broken"] is True
    saved = json.loads((folder / "out" / "results.json").read_text())
    assert [key["exact"] for key in saved["by_key"]] == [1, 1]
    assert {p.name for p in (folder / "out").iterdir()} == {
        "key00_image0.png",
        "key01_image0.png",
        "results.json",
    }
    sheet = np.asarray(PIL.Image.open(folder / "out" / "key00_image0.png"))
    assert sheet.shape == (224, 3 * 224 + 2 * 4, 3)
    plain, encrypted, recovered = (sheet[:, x : x + 224] for x in (0, 228, 456))
    originals = [np.asarray(PIL.Image.open(p)) for p in (folder / "photos").rglob("*.png")]
    assert any(np.array_equal(plain, original) for original in originals)
    np.testing.assert_array_equal(recovered, plain)
    assert not np.array_equal(encrypted, plain)


def test_words_for_an_attack_that_fails(run, folder):
    result = run("attack", "--scheme=etc", "--attack=fr", "--images=photos", "--keys=3", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("fr (ciphertext only) on etc: 3 keys")
    assert "not broken by it" in result.stdout
    assert "exact key" not in result.stdout


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--attack=fr", "--images=photos"], "--scheme must be given"),
        (["--scheme=le", "--attack=fr"], "--images must be given"),
        (["--scheme=le", "--attack=correlation_jigsaw", "--images=photos"], "--scheme=vit alone"),
        (["--scheme=le", "--attack=etc_jigsaw", "--images=photos"], "--scheme=etc alone"),
        (["--scheme=le", "--attack=fr", "--images=nowhere"], "images must be a folder"),
        (["--scheme=le", "--attack=fr", "--images=photos", "--keys=0"], "keys must be"),
        (["--scheme=le", "--attack=fr", "--images=photos", "--image_size=30,32,3"], "multiples"),
        (["--scheme=pe", "--attack=fr", "--images=photos", "--block_size=4"], "no blocks"),
        (["--scheme=pe", "--attack=fr", "--images=photos", "--image_size=8,8,3"], "11,11"),
        (["--scheme=pe", "--attack=fr", "--images=photos", "--output=photos"], "a new folder"),
        (["--scheme=vit", "--attack=weight_matching", "--images=photos"], "--public_model"),
        (
            ["--scheme=vit", "--attack=correlation_jigsaw", "--images=photos", "--observed=9"],
            "at most the 4 images",
        ),
        (["--scheme=le", "--attack=fr", "--images=photos", "--unit=patch"], "no option 'unit'"),
        (
            ["--scheme=vit", "--attack=correlation_jigsaw", "--images=photos", "--unit=patch"],
            "takes channels='joint' and unit='quadrant' only",
        ),
        (
            ["--scheme=etc", "--attack=fr", "--images=photos", "--mode=grayscale"],
            "does not take mode='grayscale'",
        ),
        (["--scheme=le", "--attack=itn"], "--images must be given, or --dataset"),
        (["--scheme=le", "--attack=itn", "--images=nowhere"], "images must be a folder"),
        (["--scheme=le", "--attack=itn", "--dataset=digits", "--epochs=0"], "epochs must be"),
        (["--scheme=le", "--attack=itn", "--dataset=digits", "--keys=3"], "--keys does not go"),
        (["--scheme=le", "--attack=fr", "--images=photos", "--scale=full"], "--scale does not go"),
        (["--scheme=le", "--attack=dcgan", "--images=photos", "--network=unet"], "--network does"),
        (["--scheme=le", "--attack=itn", "--dataset=digits", "--images=photos"], "both be given"),
        (["--scheme=le", "--attack=known_plaintext", "--dataset=digits"], "takes --images"),
        (["--scheme=le", "--attack=itn", "--images=photos", "--data_dir=."], "goes with --dataset"),
        (["--scheme=etc", "--attack=dcgan", "--dataset=digits", "--mode=grayscale"], "mode must"),
        (
            ["--scheme=le", "--attack=itn", "--dataset=digits", "--own_images=2000"],
            "must be at most 1437 together",
        ),
    ],
)
def test_bad_input_is_one_line(run, folder, flags, told):
    before = sorted(folder.rglob("*"))
    result = run("attack", *flags, cwd=folder)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert told in result.stderr
    assert sorted(folder.rglob("*")) == before


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Fashion-MNIST's first two classes as folders of files."""
    from keras_dpvit import datasets

    base = tmp_path_factory.mktemp("classes")
    data = datasets.load("fashion_mnist")
    for label in (0, 1):
        folder = base / "clothes" / str(label)
        folder.mkdir(parents=True)
        for i, image in enumerate(data.x_train[data.y_train == label][:60]):
            PIL.Image.fromarray(image[..., 0]).save(folder / f"{i}.png")
    return base


def test_a_trained_attack_on_a_folder_with_classes(run, classes):
    flags = (
        "--scheme=vit",
        "--attack=dcgan",
        "--images=clothes",
        "--image_size=16,16,1",
        "--block_size=4",
        "--unit=patch",
        "--epochs=1",
        "--own_images=32",
        "--victim_images=40",
        "--checkpoint_dir=training",
    )
    result = run("attack", *flags, "--output=out", cwd=classes)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(
        "dcgan (ciphertext only) on vit_block: 40 images seen under the key, "
    )
    for words in (
        "SSIM 7x7 uniform",
        "mean image",
        "right on recovered images",
        "not broken by it",
    ):
        assert words in result.stdout
    saved = json.loads((classes / "out" / "results.json").read_text())
    assert saved["options"] == {"block_size": 4, "unit": "patch"}
    assert saved["command"].endswith(
        "--image_size=16,16,1 --block_size=4 --unit=patch --epochs=1 --own_images=32 "
        "--victim_images=40 --seed=0"
    )
    assert set(saved["accuracy"]) == {"recovered", "plain", "ciphertext"}
    assert len(saved["history"]) == 1
    # Twenty scored images at most, each plain, encrypted and recovered.
    pictures = sorted((classes / "out").glob("*.png"))
    assert 2 <= len(pictures) == min(20, saved["images_scored_per_key"])
    assert np.asarray(PIL.Image.open(pictures[0])).shape == (16, 3 * 16 + 2 * 4, 3)
    # The key is in no file.
    key = np.random.default_rng([0, 0]).bytes(32)
    files = [p for p in classes.rglob("*") if p.is_file() and "clothes" not in p.parts]
    assert len(files) >= 4
    assert not any(key in p.read_bytes() or key.hex() in p.name for p in files)


def test_untrained_attacks_are_scored_by_a_classifier_too(run, tmp_path):
    result = run(
        "attack",
        "--scheme=pe",
        "--attack=fr",
        "--dataset=fashion_mnist",
        "--shuffle_colors=false",
        "--own_images=600",
        "--test_images=100",
        "--json",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    accuracy = told["accuracy"]
    assert accuracy["plain"] > accuracy["recovered"] > accuracy["ciphertext"]
    assert told["options"] == {"shuffle_colors": False}
    assert told["images_scored_per_key"] == 100
    assert "--shuffle_colors=false" in told["command"]
    assert "settings" not in told


def test_help_is_quick_and_has_examples(run, tmp_path):
    result = run("attack", "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert "python -m trainers.attack --scheme=vit" in result.stdout
    assert "python -m trainers.attack --scheme=le --attack=sia_gan" in result.stdout
    for name in (
        *("scheme", "attack", "images", "keys", "observed", "output", "public_model", "unit"),
        *("variant", "mode", "[no]shuffle_colors", "dataset", "scale", "epochs", "checkpoint_dir"),
    ):
        assert f"  --{name}:" in result.stdout
