"""Recipes of the training program."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits

from trainers import _recipes, train


def expanded(*typed):
    return _recipes.expanded(list(typed), train.FLAGS)


def test_every_recipe_is_of_flags_that_there_are():
    data_sets = {"fashion_mnist", "mnist", "cifar10", "cifar100", "digits"}
    folders = {f"image_folder_{side}" for side in (32, 64, 96, 128, 224)}
    assert data_sets | folders | {"keras_hub_vit"} == set(_recipes.names())
    for name in _recipes.names():
        for flag in train.FLAGS:
            train.FLAGS[flag].unparse()
        train.FLAGS(["", *_recipes.lines(name)])


@pytest.mark.parametrize(
    ("typed", "recipe"),
    [
        (["--dataset=fashion_mnist"], "fashion_mnist"),
        (["--dataset", "mnist", "--epsilon=1"], "mnist"),
        (["--dataset=cifar10"], "cifar10"),
        (["--dataset=cifar100"], "cifar100"),
        (["--dataset=idx"], "none"),
        (["--dataset=image_folder", "--data_dir=x"], "image_folder_32"),
        (["--dataset=image_folder", "--image_size=64,64,3"], "image_folder_64"),
        (["--dataset=image_folder", "--image_size=96,96,3"], "image_folder_96"),
        (["--dataset=image_folder", "--image_size=128,128,3"], "image_folder_128"),
        (["--dataset=image_folder", "--image_size=224,224,3"], "image_folder_224"),
        (["--dataset=image_folder", "--image_size=8,8,1"], "image_folder_32"),
        (["--dataset=image_folder", "--image_size=48,20,3"], "image_folder_32"),
        (["--dataset=image_folder", "--image_size=49,20,3"], "image_folder_64"),
        (["--dataset=image_folder", "--image_size=300,200,1"], "image_folder_64"),
        (["--dataset=image_folder", "--preset=cnn_32"], "none"),
        (["--dataset=digits"], "digits"),
        ([], "digits"),
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
    assert "recipe must be auto, none or one of cifar10, cifar100" in capsys.readouterr().err


def test_sizes_that_are_none_are_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        train.run(["--dataset=image_folder", "--image_size=8,8"])
    assert ended.value.code == 2
    assert "image_size must be height,width,channels, got '8,8'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--weights=synthetic"], "preset must be given with weights"),
        (
            ["--preset=dpvit_tiny_8", "--weights=synthetic"],
            "weights must be 'synthetic', for one of",
        ),
        (["--recipe=none", "--center_noise=20"], "center_noise needs weights from made-up images"),
        (["--recipe=none", "--center_noise=auto"], "center_noise needs weights from made-up"),
        (["--center_noise=0"], "center_noise must be a finite number above 0"),
        (["--preset=cnn_32", "--weights=synthetic"], "weights must be left out with preset=cnn_32"),
        (["--preset=cnn_32", "--whitening_rank=9"], "whitening_rank must be left out"),
        (["--preset=cnn_32"], "image_shape must have sides of at least 16, got (8, 8, 1)"),
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
    train.run(["--dataset=image_folder", *flags])
    printed = capsys.readouterr().out
    assert "Recipe image_folder_32" in printed
    run = json.loads((tmp_path / "runs" / "1" / "run.json").read_text())
    accuracies = run["accuracy_on_held_out_images"]
    assert min(accuracies.values()) >= 0.95
    assert run["flags"]["recipe"] == "image_folder_32"
    card = json.loads((tmp_path / "runs" / "1" / "privacy_card.json").read_text())
    assert 2.9 < card["epsilon"]["pld"] <= 3
    # Too few pictures to release means: their noise would be longer than they are.
    entries = card["ledger"]["entries"]
    assert [e["details"].get("release", "steps") for e in entries] == ["steps"]
    assert "Weights came from elsewhere" not in card["statement"]
    assert "synthetic images: no record is behind them" in " ".join(card["statement"].split())


def test_means_are_released_once(digits_folder, tmp_path):
    flags = [
        "--dataset=image_folder",
        f"--data_dir={digits_folder}",
        f"--output_dir={tmp_path / 'runs'}",
        f"--checkpoint_dir={tmp_path / 'kept'}",
        "--center_noise=20",
        "--epochs=3",
    ]
    cards = []
    for version in "12":
        train.run(flags)
        text = (tmp_path / "runs" / version / "privacy_card.json").read_text()
        cards.append(json.loads(text))
    entries = cards[0]["ledger"]["entries"]
    assert [e["details"].get("release", "steps") for e in entries] == ["mean"] * 3 + ["steps"]
    # The same command finds the run done: no mean is released again, no step taken.
    assert cards[1]["ledger"]["entries"][:3] == entries[:3]
    assert cards[1]["epsilon"] == cards[0]["epsilon"]


@pytest.mark.parametrize(
    ("size", "recipe", "preset"),
    [
        ("96,96,3", "image_folder_96", "dpvit_scatter_96"),
        ("40,30,1", "image_folder_32", "dpvit_scatter_32"),
    ],
)
def test_folders_of_any_size_train_and_export(size, recipe, preset, write_images, tmp_path, capsys):
    write_images(tmp_path / "data", number=12)
    flags = [f"--data_dir={tmp_path / 'data'}", f"--output_dir={tmp_path / 'runs'}"]
    train.run(["--dataset=image_folder", f"--image_size={size}", *flags, "--epochs=2"])
    assert f"Recipe {recipe}" in capsys.readouterr().out
    accuracies = json.loads((tmp_path / "runs/1/run.json").read_text())
    exported = accuracies["accuracy_on_held_out_images"]
    assert exported["SavedModel"] == exported["TFLite"] == exported["member A"]
    provenance = json.loads((tmp_path / "runs/1/assets.extra/provenance.json").read_text())
    assert provenance["model"]["image_shape"] == [int(side) for side in size.split(",")]
    assert provenance["model"]["preset"] == preset


def prepared(name, shape, classes, data_dir):
    """A small data set as tensorflow-datasets prepares it; returns nothing."""

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("3.0.2")

        def _info(self):
            labels = tfds.features.ClassLabel(num_classes=classes)
            features = {"image": tfds.features.Image(shape=shape), "label": labels}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(2 * classes), "test": self._some(classes)}

        def _some(self, count):
            return self._generate_examples(count)

        def _generate_examples(self, count):
            rng = np.random.default_rng(count)
            for key in range(count):
                image = rng.integers(0, 256, shape).astype("uint8")
                yield key, {"image": image, "label": key % classes}

    fields = {"name": name, "__module__": "tiny"}
    named = type("Named", (Tiny,), fields, skip_registration=True)
    named(data_dir=str(data_dir)).download_and_prepare()


@pytest.mark.parametrize(
    ("name", "shape", "classes"), [("mnist", (28, 28, 1), 10), ("cifar100", (32, 32, 3), 100)]
)
def test_published_data_sets_from_local_files(name, shape, classes, tmp_path, capsys):
    prepared(name, shape, classes, tmp_path / "tfds")
    flags = [f"--data_dir={tmp_path / 'tfds'}", f"--output_dir={tmp_path / 'runs'}"]
    train.run([f"--dataset={name}", *flags, "--delta=auto", "--epochs=1"])
    assert f"Recipe {name}" in capsys.readouterr().out
    card = json.loads((tmp_path / "runs/1/privacy_card.json").read_text())
    assert len(card["dataset"]["class_names"]) == classes
    assert card["dataset"]["image_shape"] == list(shape)


def test_a_cnn_is_trained_evaluated_and_reported(digits_folder, tmp_path, capsys):
    from trainers import evaluate, report

    folder = ["--dataset=image_folder", f"--data_dir={digits_folder}"]
    flags = ["--preset=cnn_32", "--members=2", "--epochs=2", f"--output_dir={tmp_path / 'runs'}"]
    train.run([*folder, *flags])
    assert "2 x cnn_32" in capsys.readouterr().out
    run = json.loads((tmp_path / "runs/1/run.json").read_text())
    accuracies = run["accuracy_on_held_out_images"]
    assert accuracies["fused"] == accuracies["SavedModel"] == accuracies["TFLite"] > 0.15
    evaluate.run([f"--saved_model={tmp_path / 'runs'}", *folder])
    assert f"accuracy {accuracies['fused']:.4f}" in capsys.readouterr().out
    report.run(
        [f"--run={tmp_path / 'runs'}", f"--data_dir={digits_folder}", f"--output={tmp_path}/r.html"]
    )
    assert "cnn_32" in (tmp_path / "r.html").read_text()
