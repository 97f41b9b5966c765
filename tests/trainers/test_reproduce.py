"""`trainers.reproduce`, and models moved by `trainers.encrypt`, as a user types them."""

import json

import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.encryption import KeyFile, SecretKey, transform_model, write_key_file
from keras_dpvit.reproduction import encryption_results, encryption_table
from keras_dpvit.reproduction.encryption_rows import ROWS, settings_for
from trainers.reproduce import OF_THE_MODEL

QUICK = ("--scale=small", "--epochs=1", "--train_examples=300", "--test_examples=200")


def expect_one_line(result, told):
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert told in result.stderr


@pytest.mark.proof
def test_rows_are_trained_stored_and_found_again(run, tmp_path):
    flags = (*QUICK, "--output=table", "--rows=plain_vit,transformed_vit,pe")
    first = run("reproduce", *flags, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "99.11" in first.stdout
    assert "Not the paper's task" in first.stdout
    table = json.loads((tmp_path / "table" / "encryption_table_small.json").read_text())
    plain, transformed, pe = table["rows"]
    assert pe["published_percent"] == {"cifar10": 92.03, "cifar100": None}
    assert plain["train_examples"] == 300
    assert plain["test_examples"] == 200
    # The same start, the same batches: what differs is the order of sums.
    for part in ("validation", "test"):
        ours = [row["accuracy"]["fashion_mnist"][part] for row in (plain, transformed)]
        assert abs(ours[0] - ours[1]) <= 0.01

    # A row that is lost is trained again, the others are not.
    (tmp_path / "table" / "rows" / "pe.json").unlink()
    before = (tmp_path / "table" / "rows" / "plain_vit.json").stat().st_mtime_ns
    again = run("reproduce", *flags, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "plain_vit: there already" in again.stdout
    assert "pe: there already" not in again.stdout
    assert (tmp_path / "table" / "rows" / "plain_vit.json").stat().st_mtime_ns == before

    other = run("reproduce", *flags, "--epochs=2", cwd=tmp_path)
    expect_one_line(other, "made with other settings")


TINY = ("--train_examples=300", "--test_examples=100", "--epochs=1", "--draws=1")


def test_a_figure_is_made_and_its_trainings_are_kept(run, tmp_path):
    first = run("reproduce", "--artifact=figures_6_7", *TINY, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "2 of 2: recipe, epsilon 8, draw 1: 0." in first.stdout
    made = tmp_path / "reproduced" / "figures_6_7_small"
    names = {f"figures_6_7_small.{kind}" for kind in ("json", "md", "png")}
    assert {path.name for path in made.iterdir()} == names
    content = json.loads((made / "figures_6_7_small.json").read_text())
    assert [len(row["trainings"]) for row in content["rows"]] == [1, 1]
    assert content["rows"][1]["paper"]["accuracy"] == "1.55"
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "reproduced/trainings").iterdir()}
    assert len(kept) == 2

    # One that is lost is trained again; the other, which another figure has too, is not.
    lost, left = kept
    lost.unlink()
    again = run("reproduce", "--artifact=figures_6_7", *TINY, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert left.stat().st_mtime_ns == kept[left]
    assert lost.exists()


@pytest.mark.proof
def test_all_figures_and_tables_are_made(run, tmp_path):
    done = run("reproduce", "--artifact=all", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = {path.name for path in (tmp_path / "reproduced").iterdir()} - {"trainings"}
    assert made == {f"{name}_small" for name in OF_THE_MODEL}
    page = (tmp_path / "reproduced/table_3_small/table_3_small.md").read_text()
    assert "| 12 heads | 1 | 6.04 G | 86.6 M |" in page


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--draws=2"], "draws is not for encryption_table"),
        (["--artifact=table_2", "--rows=pe"], "rows is for encryption_table alone"),
        (["--artifact=all", "--output=here"], "output is for one artifact"),
        (["--artifact=table_2", "--draws=0"], "draws must be a whole number above 0"),
        (
            ["--artifact=table_2", "--trainings_dir=/dev/null/here"],
            "trainings_dir must be a folder that can be written",
        ),
        (["--rows=plain_vit,best"], "rows must be some of le_adapted"),
        (["--epochs=0"], "epochs must be a whole number above 0"),
        (["--scale=large"], "scale"),
        (["--output=/dev/null/here"], "output must be a folder that can be written"),
    ],
)
def test_bad_flags_are_told_in_one_line(run, tmp_path, flags, told):
    expect_one_line(run("reproduce", *flags, cwd=tmp_path), told)
    assert list(tmp_path.iterdir()) == []


def test_help_tells_what_is_not_done(run, tmp_path):
    result = run("reproduce", "--help", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "python -m trainers.reproduce --artifact=encryption_table" in result.stdout
    assert "Nothing\nis trained privately" in result.stdout
    for name in ("artifact", "scale", "output", "rows", "epochs", "train_examples", "data_dir"):
        assert f"  --{name}:" in result.stdout


def test_full_scale_has_the_settings_of_the_papers():
    full = settings_for("full")
    assert full.datasets == ("cifar10", "cifar100")
    assert full.augment
    assert full.epochs_of("shake", 45_000) == 305
    # 10,000 steps of 512 images are 114 passes over 45,000.
    assert full.epochs_of("vit", 45_000) == 114
    vit = full.networks["vit"]
    assert (vit.image_size, vit.block_size, vit.learning_rate) == (224, 16, 0.03)
    assert ROWS["proposed"].learning_rate == 0.3
    for row in ROWS.values():
        cipher = encryption_table.cipher_of(row, full.networks[row.network])
        assert (cipher is None) == (row.scheme is None)


def test_every_row_has_a_network_at_small_scale():
    small = settings_for("small")
    for row in ROWS.values():
        training = small.networks[row.network]
        model = encryption_table.network_of(row, training, 10)
        assert model.input_shape == (None, training.image_size, training.image_size, 3)
        assert model.output_shape == (None, 10)


def test_images_are_resized_rounded_and_then_encrypted():
    small = settings_for("small")
    row, training = ROWS["proposed"], small.networks["vit"]
    cipher = encryption_table.cipher_of(row, training)
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 3), dtype=np.uint8)
    stream = encryption_table._stream(
        (images, np.arange(4)), row, training, cipher, small, for_training=False
    )
    ((batch, labels),) = list(stream.as_numpy_iterator())
    resized = keras.ops.image.resize(images.astype("float32"), (64, 64), antialias=False)
    expected = cipher.encrypt(np.rint(np.array(resized)).astype(np.uint8)) / 127.5 - 1
    np.testing.assert_allclose(batch, expected, atol=1e-6)
    np.testing.assert_array_equal(labels, np.arange(4))


def test_weight_decay_enters_the_gradient_before_the_momentum():
    optimizer = encryption_table.L2SGD(0.1, momentum=0.9, l2=0.5)
    variable = keras.Variable([2.0])
    optimizer.build([variable])
    value, velocity = 2.0, 0.0
    for gradient in (1.0, -3.0):
        optimizer.apply([np.array([gradient], "float32")])
        velocity = 0.9 * velocity - 0.1 * (gradient + 0.5 * value)
        value += velocity
    np.testing.assert_allclose(variable.numpy(), [value], rtol=1e-6)


def test_a_damaged_row_is_told(tmp_path):
    settings = settings_for("small")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "pe.json").write_text('{"settings":')
    with pytest.raises(kd.InputError, match=r"pe\.json is damaged"):
        encryption_results.finished(tmp_path, ["pe"], settings)


@pytest.fixture
def place(tmp_path):
    """Two key files and a model that can be transformed."""
    for name, number in (("old", 1), ("new", 2)):
        key_file = KeyFile(SecretKey(bytes([number]) * 32), "vit_block", {"block_size": 4})
        write_key_file(tmp_path / f"{name}.json", key_file)
    keras.utils.set_random_seed(0)
    model = kd.DPViTClassifier.from_preset(
        "dpvit_small_32", 10, first_attention="self", stage_depths=(1,), hidden_dim=8
    )
    model.save(tmp_path / "plain.keras")
    return tmp_path, model


def test_a_model_is_transformed_and_rotated_by_commands(run, place):
    folder, model = place
    made = run(
        "encrypt", "transform_model", "--key=old.json", "--input=plain.keras",
        "--output=keyed.keras", "--public_base", cwd=folder,
    )  # fmt: skip
    old, new = (SecretKey(bytes([number]) * 32) for number in (1, 2))
    assert made.returncode == 0, made.stderr
    assert made.stdout == f"The model is under key {old.kid} in keyed.keras.\n"
    assert made.stderr.startswith("warning: whoever has the original weights")
    assert made.stderr.count("\n") == 1
    rotated = run(
        "encrypt", "rotate", "--key=old.json", "--new_key=new.json", "--input=keyed.keras",
        "--output=again.keras", cwd=folder,
    )  # fmt: skip
    assert (rotated.returncode, rotated.stderr) == (0, "")
    for name, key in (("keyed", old), ("again", new)):
        loaded, expected = kd.load_model(folder / f"{name}.keras"), transform_model(model, key)
        assert loaded.encryption_kid == key.kid
        for one, other in zip(loaded.get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    names = {path.name for path in folder.iterdir()}
    assert names == {"old.json", "new.json", "plain.keras", "keyed.keras", "again.keras"}

    wrong = run(
        "encrypt", "rotate", "--key=new.json", "--new_key=old.json", "--input=keyed.keras",
        "--output=third.keras", cwd=folder,
    )  # fmt: skip
    expect_one_line(wrong, f"the model is under key {old.kid}")
    there = run(
        "encrypt", "transform_model", "--key=old.json", "--input=plain.keras",
        "--output=plain.keras", cwd=folder,
    )  # fmt: skip
    expect_one_line(there, "output must be a new file")
    assert {path.name for path in folder.iterdir()} == names
