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


def test_help_is_quick_and_has_examples(run, tmp_path):
    result = run("attack", "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert "python -m trainers.attack --scheme=vit" in result.stdout
    for name in ("scheme", "attack", "images", "keys", "observed", "output", "public_model"):
        assert f"  --{name}:" in result.stdout
