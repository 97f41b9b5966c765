"""Recipes of the training program."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from trainers import _recipes, train


def expanded(*typed):
    return _recipes.expanded(list(typed), train.FLAGS)


def test_every_recipe_is_of_flags_that_there_are():
    assert {"fashion_mnist", "image_folder_32", "image_folder_64"} <= set(_recipes.names())
    for name in _recipes.names():
        for flag in train.FLAGS:
            train.FLAGS[flag].unparse()
        train.FLAGS(["", *_recipes.lines(name)])


@pytest.mark.parametrize(
    ("typed", "recipe"),
    [
        (["--dataset=fashion_mnist"], "fashion_mnist"),
        (["--dataset", "mnist", "--epsilon=1"], "none"),
        (["--dataset=image_folder", "--data_dir=x"], "image_folder_32"),
        (["--dataset=image_folder", "--image_size=64,64,3"], "image_folder_64"),
        (["--dataset=image_folder", "--image_size=8,8,1"], "none"),
        (["--dataset=digits"], "none"),
        (["--dataset=fashion_mnist", "--preset=dpvit_small_28"], "none"),
        (["--dataset=fashion_mnist", "--trainable=bias"], "none"),
        (["--dataset=fashion_mnist", "--init_weights=x.keras"], "none"),
        (["--dataset=fashion_mnist", "--encryption_key=k.json"], "none"),
        (["--dataset=fashion_mnist", "--recipe=none"], "none"),
        (["--dataset=image_folder", "--recipe=image_folder_64"], "image_folder_64"),
    ],
)
def test_the_recipe_that_fits(typed, recipe):
    assert expanded(*typed)[-1] == f"--recipe={recipe}"


def test_given_flags_count_more():
    given = expanded("--dataset=fashion_mnist", "--epochs=3")
    assert given.index("--epochs=40") < given.index("--epochs=3")


def test_flags_that_cannot_be_parsed_are_left_to_the_program():
    assert expanded("--epsilon=much") == ["--epsilon=much"]


def test_a_recipe_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        train.run(["--recipe=soup"])
    assert ended.value.code == 2
    assert "recipe must be auto, none or one of fashion_mnist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--weights=synthetic"], "preset must be given with weights"),
        (
            ["--preset=dpvit_tiny_8", "--weights=synthetic"],
            "weights must be 'synthetic', for one of",
        ),
        (["--recipe=none", "--center_noise=20"], "center_noise needs weights from made-up images"),
        (["--recipe=none", "--momentum=2"], "momentum must be at least 0 and below 1, got 2"),
        (
            ["--preset=dpvit_scatter_28", "--weights=synthetic", "--init_weights=no.keras"],
            "weights and init_weights exclude each other",
        ),
    ],
)
def test_flags_that_do_not_fit_are_refused(typed, words, capsys):
    with pytest.raises(SystemExit) as ended:
        train.run(typed)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.fixture(scope="module")
def digits_folder(tmp_path_factory):
    """1,797 digits as 32x32 colour files, 1,420 to train on."""
    root = tmp_path_factory.mktemp("digits")
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    for position, index in enumerate(order):
        part = "train" if position < 1420 else "test"
        folder = root / part / str(digits.target[index])
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((digits.images[index] / 16 * 255).astype("uint8")).convert("RGB")
        picture.resize((32, 32), Image.Resampling.BILINEAR).save(folder / f"{index}.png")
    return root


def test_a_small_folder_is_learned_by_default(digits_folder, tmp_path, capsys):
    # A fixed seed: the run is the same every time.
    flags = [
        "--seed=7",
        f"--data_dir={digits_folder}",
        f"--output_dir={tmp_path / 'runs'}",
        "--epsilon=3",
    ]
    kept = f"--checkpoint_dir={tmp_path / 'kept'}"
    train.run(["--dataset=image_folder", *flags, kept])
    printed = capsys.readouterr().out
    assert "Recipe image_folder_32" in printed
    run = json.loads((tmp_path / "runs" / "1" / "run.json").read_text())
    accuracies = run["accuracy_on_held_out_images"]
    assert min(accuracies.values()) >= 0.92
    assert run["flags"]["recipe"] == "image_folder_32"
    card = json.loads((tmp_path / "runs" / "1" / "privacy_card.json").read_text())
    assert card["epsilon"]["pld"] <= 3
    entries = card["ledger"]["entries"]
    assert [e["details"].get("release", "steps") for e in entries] == ["mean"] * 3 + ["steps"]
    assert "Weights came from elsewhere" not in card["statement"]
    assert "synthetic images: no record is behind them" in " ".join(card["statement"].split())
    # The same command finds the run done: no mean is released again, no step taken.
    train.run(["--dataset=image_folder", *flags, kept])
    again = json.loads((tmp_path / "runs" / "2" / "privacy_card.json").read_text())
    assert again["ledger"]["entries"][:3] == entries[:3]
    assert again["epsilon"] == card["epsilon"]
