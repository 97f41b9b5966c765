"""Bad input to train and evaluate: one line on stderr, status 2, nothing written."""

import pytest

from keras_dpvit.models.presets import CNN_PRESETS, PRESETS

NUMBERS = [
    ("--epsilon=0", "epsilon must be a finite number above 0, got 0.0"),
    ("--epsilon=-2", "epsilon must be a finite number above 0, got -2.0"),
    ("--epsilon=nan", "epsilon must be a finite number above 0, got nan"),
    ("--epsilon=inf", "epsilon must be a finite number above 0, got inf"),
    ("--epsilon=three", "flag --epsilon=three"),
    ("--delta=0", "delta must lie strictly between 0 and 1, got 0.0"),
    ("--delta=1", "delta must lie strictly between 0 and 1, got 1.0"),
    ("--delta=-1e-5", "delta must lie strictly between 0 and 1, got -1e-05"),
    ("--delta=nan", "delta must lie strictly between 0 and 1, got nan"),
    ("--epochs=0", "epochs must be a finite number above 0, got 0.0"),
    ("--epochs=inf", "epochs must be a finite number above 0, got inf"),
    ("--batch_size=0", "batch_size must be a whole number above 0, got 0"),
    ("--batch_size=-5", "batch_size must be a whole number above 0, got -5"),
    ("--members=0", "members must be a whole number above 0, got 0"),
    ("--learning_rate=0", "learning_rate must be a finite number above 0, got 0.0"),
    ("--learning_rate=nan", "learning_rate must be a finite number above 0, got nan"),
    ("--l2_norm_clip=-1", "l2_norm_clip must be a finite number above 0, got -1.0"),
    ("--attention_noise_stddev=-1", "attention_noise_stddev must be a finite number, 0 or above"),
    ("--norm_noise_stddev=inf", "norm_noise_stddev must be a finite number, 0 or above"),
    ("--physical_batch_size=0", "physical_batch_size must be a whole number above 0, got 0"),
]
NAMES = [
    (
        "--preset=dpvit_huge",
        f"preset must be one of {', '.join(sorted([*CNN_PRESETS, *PRESETS]))}, got 'dpvit_huge'",
    ),
    ("--dataset=imagenet", "digits|fashion_mnist|mnist|cifar10|cifar100|idx|image_folder"),
    ("--optimizer=lamb", "value should be one of <adam|sgd>"),
    ("--members_data=both", "value should be one of <shared|disjoint>"),
    ("--trainable=heads", "value should be one of <all|head|bias>"),
    ("--init_weights=nowhere.keras", "init_weights must be a .keras or .weights.h5 file that"),
    ("--init_weights=.", "init_weights must be a .keras or .weights.h5 file that exists, got '.'"),
    ("--bogus=1", "Unknown command line flag 'bogus'"),
    ("epsilon=3", "unknown argument 'epsilon=3': flags are given as --name=value"),
    ("--image_size=8,8", "image_size must be height,width,channels, got '8,8'"),
    ("--image_size=8,8,0", "image_size must be height,width,channels, got '8,8,0'"),
    ("--dataset=image_folder", "data_dir must name the folder to read"),
    ("--dataset=idx", "data_dir must name the folder to read"),
    ("--data_dir=somewhere", "data_dir must be left out for the data set 'digits'"),
]


def check_refused(result, message):
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert "\x1b" not in result.stderr  # no colours of a terminal in the middle of it
    assert message in result.stderr


@pytest.mark.parametrize(("flag", "message"), NUMBERS + NAMES, ids=[f for f, _ in NUMBERS + NAMES])
def test_flags_are_refused_before_anything(run, flag, message, tmp_path):
    result = run("train", "--output_dir=out", flag, cwd=tmp_path)
    check_refused(result, message)
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_batch_larger_than_the_data(run, tmp_path):
    result = run("train", "--output_dir=out", "--batch_size=1438", cwd=tmp_path)
    check_refused(result, "batch_size must not exceed the number of examples (1400), got 1438")
    assert list(tmp_path.iterdir()) == []


def test_size_that_digits_do_not_have(run, tmp_path):
    result = run("train", "--output_dir=out", "--image_size=9,9,1", cwd=tmp_path)
    check_refused(result, "image_shape must be (8, 8, 1) or left out for the data set 'digits'")
    assert list(tmp_path.iterdir()) == []


def test_small_epsilon_is_no_bad_input(run, tmp_path):
    # What the data can bear is known when they are read, not before.
    flags = ("--epsilon=0.05", "--dataset=mnist", "--data_dir=nowhere")
    check_refused(run("train", *flags, cwd=tmp_path), "data_dir must be a folder")


@pytest.mark.parametrize("place", ["file", "file/below", "file/far/below"])
def test_output_dir_that_cannot_be(run, place, tmp_path):
    (tmp_path / "file").write_text("mine")
    result = run("train", f"--output_dir={place}", cwd=tmp_path)
    check_refused(result, f"output_dir must be a directory that can be written, got '{place}'")
    assert result.stdout == ""
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def no_folder(folder, write_images):
    return "data_dir must be a folder with one sub-folder of images for each class; 'data' does not"


def empty_folder(folder, write_images):
    folder.mkdir()
    return "data_dir must have at least 2 sub-folders, one for each class; 'data' has 0"


def empty_class(folder, write_images):
    write_images(folder, number=3)
    (folder / "empty").mkdir()
    return "data_dir must have pictures in each class; 'data/empty' has none"


def damaged_image(folder, write_images):
    write_images(folder, number=12)
    image = folder / "dark" / "7.png"
    image.write_bytes(image.read_bytes()[:40])
    return "image file 'data/dark/7.png' must be one whole picture"


def no_image(folder, write_images):
    write_images(folder, number=12)
    (folder / "dark" / "7.png").write_text("error: two\nlines\n")
    return "image file 'data/dark/7.png' must be one whole picture"


@pytest.mark.parametrize(
    "make",
    [no_folder, empty_folder, empty_class, damaged_image, no_image],
    ids=lambda f: f.__name__,
)
def test_image_folders(run, make, write_images, tmp_path):
    message = make(tmp_path / "data", write_images)
    before = sorted(tmp_path.rglob("*"))
    flags = ("--dataset=image_folder", "--data_dir=data", "--image_size=8,8,1")
    check_refused(run("train", "--output_dir=out", *flags, cwd=tmp_path), message)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cut": 7}, "train-images-idx3-ubyte"),
        ({"num_labels": 4}, "must hold one label for each image"),
        ({"labels": (0, 1, 10, 2, 1)}, "from 0 to 9, got 10 in row 2"),
    ],
    ids=["cut short", "labels of another length", "label outside the classes"],
)
def test_idx_files(run, write_idx, changes, message, tmp_path):
    write_idx(tmp_path / "data", **changes)
    before = sorted(tmp_path.rglob("*"))
    flags = ("--dataset=mnist", "--data_dir=data")
    check_refused(run("train", "--output_dir=out", *flags, cwd=tmp_path), message)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--image_size=30,30,1", "--recipe=none"],
            f"preset must be named for images of 30x30x1: one of {', '.join(sorted(PRESETS))}",
        ),
        (
            ["--image_size=30,28,1", "--preset=dpvit_small_28"],
            "image_shape must have sides divisible by patch_size=7, got (30, 28, 1)",
        ),
    ],
    ids=["no preset", "not divisible"],
)
def test_image_sizes_that_no_model_takes(run, write_images, flags, message, tmp_path):
    write_images(tmp_path / "data", number=12)
    before = sorted(tmp_path.rglob("*"))
    # A batch this small bears no noised count.
    flags = ("--dataset=image_folder", "--data_dir=data", "--l2_norm_clip=1", *flags)
    check_refused(run("train", "--output_dir=out", *flags, cwd=tmp_path), message)
    assert sorted(tmp_path.rglob("*")) == before


def cut_short(path):
    path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize(
    ("name", "hidden_dim", "spoil", "message"),
    [
        ("model.keras", 32, cut_short, "'model.keras': it is cut short or not a .keras file"),
        ("model.weights.h5", 32, cut_short, "init_weights must be a file that can be loaded"),
        ("model.keras", 16, None, "is (4, 16) in 'model.keras' and (4, 32) in the model"),
        ("model.weights.h5", 16, None, "(4, 16) in 'model.weights.h5' and (4, 32) in the model"),
    ],
    ids=["cut model", "cut weights", "narrow model", "narrow weights"],
)
def test_initial_weights(run, name, hidden_dim, spoil, message, tmp_path):
    import keras_dpvit as kd

    model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=10, hidden_dim=hidden_dim)
    (model.save if name.endswith(".keras") else model.save_weights)(tmp_path / name)
    if spoil is not None:
        spoil(tmp_path / name)
    before = (tmp_path / name).read_bytes()
    flags = (f"--init_weights={name}", "--epochs=1", "--epsilon=8", "--members=1")
    result = run("train", "--output_dir=out", *flags, cwd=tmp_path)
    check_refused(result, message)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Give one of --saved_model=DIR and --tflite=FILE"),
        (["--saved_model=a", "--tflite=b"], "Give one of --saved_model=DIR and --tflite=FILE"),
        (["--saved_model=nowhere"], "nowhere holds no SavedModel (saved_model.pb)"),
        (["--tflite=damaged.tflite"], "damaged.tflite cannot be loaded as TFLite"),
    ],
    ids=["neither", "both", "no export", "damaged file"],
)
def test_evaluate(run, flags, message, tmp_path):
    (tmp_path / "damaged.tflite").write_bytes(b"no flatbuffer" * 20)
    result = run("evaluate", *flags, cwd=tmp_path)
    check_refused(result, message)
    assert result.stdout == ""
