"""Heads without epochs and models from files, as a user types them."""

import json
import math
import re

import keras
import keras_hub
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.models import backbone_file
from trainers import train

RUN = ("--dataset=digits", "--epsilon=8", "--delta=1e-4")
HUB = (*RUN, "--recipe=keras_hub_vit", "--backbone=vit.keras", "--backbone_pixels=0..1")


def hub_backbone(image_shape=(8, 8, 1)):
    return keras_hub.models.ViTBackbone(
        image_shape=image_shape,
        patch_size=2,
        num_layers=1,
        num_heads=2,
        hidden_dim=32,
        mlp_dim=32,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory, trained_members):
    """A directory with a random KerasHub ViT and a model of ours."""
    folder = tmp_path_factory.mktemp("solver-zqx")
    keras.utils.set_random_seed(2)
    hub_backbone().save(folder / "vit.keras")
    trained_members[0].save(folder / "ours.keras")
    return folder


@pytest.fixture(scope="module")
def solved(run, place):
    result = run("train", *HUB, "--output_dir=out", cwd=place)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def card_of(place, output):
    return json.loads((place / output / "1/privacy_card.json").read_text())


@pytest.mark.slow
def test_a_hub_vit_from_a_file_gets_a_private_head(solved, place):
    assert "Recipe keras_hub_vit" in solved
    assert "1 x vit.keras (shared data), the head alone" in solved
    assert "feature_covariance, a covariance matrix and 20 sums over all records" in solved
    card = card_of(place, "out")
    (entry,) = card["ledger"]["entries"]
    assert entry["details"]["release"] == "head"
    assert 7.9 < card["epsilon"]["pld"] <= 8
    limits = card["not_covered"]
    assert "Backbone from vit.keras: the records behind it are taken as public." in limits
    assert not any("Training curves" in line for line in limits)
    assert not card["invalidated_by"]
    run = json.loads((place / "out/1/run.json").read_text())
    accuracies = run["accuracy_on_held_out_images"]
    assert set(accuracies) == {"member A", "SavedModel", "TFLite"}
    assert min(accuracies.values()) > 0.5  # random features of tokens; 0.1 is chance
    for path in (place / "out").rglob("*"):
        assert path.is_dir() or b"solver-zqx" not in path.read_bytes(), path.name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "flags", "words"),
    [
        ("evaluate", ("--saved_model=out", "--dataset=digits"), r"accuracy +0\.[5-9]"),
        ("evaluate", ("--tflite=out/1/model.tflite", "--dataset=digits"), r"accuracy +0\.[5-9]"),
        ("verify", ("--saved_model=out", "--tflite=out/1/model.tflite"), r"tflite +ok"),
        ("report", ("--run=out", "--output=report.html"), "report.html"),
    ],
)
def test_what_was_written_is_used_by_the_other_programs(
    program, flags, words, solved, run_by_itself, place
):
    # By itself: a process in which nothing has imported KerasHub.
    result = run_by_itself(program, *flags, cwd=place)
    assert result.returncode == 0, result.stderr
    assert re.search(words, result.stdout), result.stdout
    if program == "report":
        page = (place / "report.html").read_text()
        assert "features' covariance matrix" in page.replace("&#x27;", "'").replace("&#39;", "'")


@pytest.mark.slow
def test_its_head_is_trained_by_steps_too(run, place):
    flags = ("--solver=optimizer", "--epochs=2", "--output_dir=steps")
    result = run("train", *HUB, *flags, cwd=place)
    assert result.returncode == 0, result.stderr
    assert "Computing the features of all images once." in result.stdout
    card = card_of(place, "steps")
    (entry,) = card["ledger"]["entries"]
    assert entry["steps"] > 1
    assert (
        "Backbone from vit.keras: the records behind it are taken as public."
        in entry["not_covered"]
    )
    assert card["epsilon"]["pld"] <= 8


@pytest.mark.slow
def test_a_head_over_weights_of_ours_adds_their_cost(run, place, trained_members):
    flags = ("--init_weights=ours.keras", "--trainable=head", "--solver=least_squares")
    result = run("train", *RUN, *flags, "--output_dir=ours", cwd=place)
    assert result.returncode == 0, result.stderr
    entries = card_of(place, "ours")["ledger"]["entries"]
    assert [e["details"].get("release", "steps") for e in entries] == ["steps", "head"]
    assert entries[1]["details"]["residual_sums"] == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--recipe=none", "--solver=least_squares"],
            "solver=least_squares needs trainable=head over weights",
        ),
        (
            ["--solver=least_squares", "--trainable=head"],
            "solver=least_squares needs trainable=head over weights",
        ),
        (
            ["--solver=feature_covariance", "--trainable=head", "--init_weights=x.keras"],
            "init_weights must be a .keras or .weights.h5 file that exists",
        ),
        (["--backbone=no.keras"], "backbone must be a .keras file, got 'no.keras'"),
        (["--backbone=no.keras", "--preset=dpvit_tiny_8"], "backbone and preset exclude each"),
        (["--recipe=keras_hub_vit"], "solver=feature_covariance needs trainable=head over"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, words, capsys):
    with pytest.raises(SystemExit) as ended:
        train.run(flags)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--loss=per_class"], "needs loss=softmax, got per_class"),
        (["--checkpoint_dir=kept"], "has no epochs to keep: leave checkpoint_dir out"),
        (["--backbone=ours.keras"], "has a privacy ledger: start from it by init_weights"),
        (["--backbone=large.keras"], "backbone takes images of 16x16x1, the data has 8x8x1"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused(flags, words, place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    if "--backbone=large.keras" in flags:
        hub_backbone((16, 16, 1)).save("large.keras")
    with pytest.raises(SystemExit) as ended:
        train.run([*HUB, *flags])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
    assert not (place / "kept").exists()


def test_pixels_are_scaled_as_the_file_says(tmp_path):
    converter = keras_hub.layers.ViTImageConverter(scale=1 / 127.5, offset=-1.0, image_size=(8, 8))
    model = keras_hub.models.ViTImageClassifier(
        hub_backbone(),
        num_classes=3,
        preprocessor=keras_hub.models.ViTImageClassifierPreprocessor(converter),
    )
    assert backbone_file.scaling_of(model) == (1 / 127.5, -1.0)
    assert backbone_file.scaling_of(model, "0..1") == (1 / 255, 0.0)
    assert backbone_file.scaling_of(hub_backbone()) == (1.0, 0.0)
    classifier = backbone_file.classifier_on(model, 5)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype("float32")
    below = keras.Model(classifier.input, classifier.get_layer("logits").input)
    tokens = model.backbone.predict(images / 127.5 - 1, verbose=0)
    np.testing.assert_allclose(below.predict(images, verbose=0), tokens[:, 0], atol=1e-4)
    # KerasHub's layers are saved as its own models save them.
    classifier.get_layer("logits").kernel.assign(np.random.default_rng(1).normal(size=(32, 5)))
    private = kd.make_private(classifier, "head")
    private.save(tmp_path / "model.keras")
    np.testing.assert_allclose(
        kd.load_model(tmp_path / "model.keras").predict(images, verbose=0),
        private.predict(images, verbose=0),
        atol=1e-5,
    )


def test_imagenets_scaling_has_mean_0_and_deviation_1():
    scale, offset = backbone_file.scaling_of(None, "imagenet")
    for channel, (mean, deviation) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        at_mean = 255 * mean * scale[channel] + offset[channel]
        assert math.isclose(at_mean, 0, abs_tol=1e-9)
        assert math.isclose(255 * deviation * scale[channel], 1)


@pytest.mark.parametrize(("rank", "width"), [(2, 7), (3, 6), (4, 5)])
def test_vectors_tokens_and_maps_become_one_vector(rank, width):
    images = keras.Input((8, 8, 3))
    x = {
        2: lambda: keras.layers.Dense(3)(keras.layers.Dense(7)(keras.layers.Flatten()(images))),
        3: lambda: keras.layers.Dense(6)(keras.layers.Reshape((64, 3))(images)),
        4: lambda: keras.layers.Conv2D(5, 3)(images),
    }[rank]()
    classifier = backbone_file.classifier_on(keras.Model(images, x), 4, "imagenet")
    assert classifier.get_layer("logits").kernel.shape == (width, 4)
    assert len(classifier.trainable_variables) == 2
    model = kd.make_private(classifier, "head")
    assert model.privacy_statement().startswith("No private training is on record")


@pytest.mark.parametrize("kind", ["cut short", "two inputs", "any side"])
def test_files_that_hold_no_backbone_are_refused(kind, tmp_path):
    path = tmp_path / "model.keras"
    if kind == "cut short":
        path.write_bytes(b"PK no")
    elif kind == "two inputs":
        pair = [keras.Input((8, 8, 1)) for _ in range(2)]
        keras.Model(pair, keras.layers.Add()(pair)).save(path)
    else:
        images = keras.Input((None, None, 3))
        keras.Model(images, keras.layers.Conv2D(2, 3)(images)).save(path)
    with pytest.raises(InputError, match=r"backbone must (be|take)"):
        backbone_file.load_backbone(path)


def test_pixels_of_other_channels_are_refused():
    images = keras.Input((8, 8, 1))
    model = keras.Model(images, keras.layers.Conv2D(2, 3)(images))
    with pytest.raises(InputError, match="pixels='imagenet' needs images of 3 channels"):
        backbone_file.classifier_on(model, 3, "imagenet")
