"""Training that starts from another training's weights, as a user types it."""

import json
import math

import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.privacy.ledger import ledger_from_dict

pytestmark = pytest.mark.slow

RUN = ("--dataset=digits", "--epsilon=8", "--delta=1e-4", "--epochs=1", "--output_dir=out")


@pytest.fixture(scope="module")
def place(tmp_path_factory, trained_members):
    """A directory with the files of one privately trained model."""
    folder = tmp_path_factory.mktemp("tuning-zqx")
    (folder / "secret-zqx").mkdir()
    trained_members[0].save(folder / "start.keras")
    # By Keras alone, which writes no ledger.
    keras.saving.save_weights(trained_members[0], folder / "secret-zqx" / "start.weights.h5")
    return folder


def card_of(place, version):
    return json.loads((place / f"out/{version}/privacy_card.json").read_text())


def test_members_start_from_one_model_and_add_its_cost(run, place, trained_members):
    flags = ("--init_weights=start.keras", "--trainable=bias", "--members=2")
    result = run("train", *RUN, *flags, cwd=place)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "2 x dpvit_tiny_8 (shared data), biases and the head alone" in result.stdout
    assert result.stdout.count("Starts from start.keras, with its head.") == 2
    source = trained_members[0]
    cost = source.privacy_ledger.epsilon(1e-4)
    assert f"Its training cost epsilon {math.ceil(cost * 1000) / 1000:.3f} at" in result.stdout
    card = card_of(place, 1)
    entries = ledger_from_dict(card["ledger"]).all_entries()
    # Both started from it, and what it released counts once.
    assert [e == source.privacy_ledger.all_entries()[0] for e in entries] == [True, False, False]
    assert card["epsilon"]["rdp"] > 8
    fused = kd.load_model(place / "out/1/model.keras")
    for member in fused.members:
        assert member.trainable_part == "bias"
        trained = {id(v) for v in member.trainable_variables}
        for variable, start in zip(member.weights, source.weights, strict=True):
            # A run ends with its weights in half precision.
            same = np.array_equal(variable.numpy(), start.numpy().astype("float16"))
            assert same == (id(variable) not in trained), variable.path


def test_weights_alone_under_a_new_head(run, place, write_images):
    write_images(place / "photos")
    flags = ("--init_weights=secret-zqx/start.weights.h5", "--trainable=head", "--members=1")
    data = ("--dataset=image_folder", "--data_dir=photos", "--image_size=8,8,1")
    result = run("train", *RUN, *flags, *data, "--l2_norm_clip=1", cwd=place)
    assert result.returncode == 0, result.stderr
    assert "Starts from start.weights.h5, the head is new: the file's does not fit." in (
        result.stdout
    )
    assert "the records behind it are taken as public" in result.stdout
    version = max(int(path.name) for path in (place / "out").iterdir())
    card = card_of(place, version)
    note = "Initial weights from start.weights.h5: the records behind them are taken as public."
    assert note in card["not_covered"]
    assert card["epsilon"]["rdp"] <= 8
    for path in (place / "out" / str(version)).rglob("*"):
        assert path.is_dir() or b"secret-zqx" not in path.read_bytes(), path.name


def test_a_start_without_privacy_is_said_to_have_none(run, place, digit_images):
    model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=10)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    x, y = digit_images.x_train[:64].astype("float32"), digit_images.y_train[:64]
    model.fit(x, y, verbose=0)
    model.save(place / "open.keras")
    result = run("train", *RUN, "--init_weights=open.keras", "--members=1", cwd=place)
    assert result.returncode == 0, result.stderr
    assert result.stderr == (
        "warning: open.keras was trained without privacy, so the epsilon of what starts from it "
        "is infinite.\n"
    )
    assert "Epsilon is infinite: nothing is protected." in result.stdout
