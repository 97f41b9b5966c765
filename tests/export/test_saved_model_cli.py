"""The export under TensorFlow's own `saved_model_cli`: shown and run, as any user's tool would."""

import io
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

import keras_dpvit as kd

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(trained_fusion, tmp_path_factory):
    directory = tmp_path_factory.mktemp("export") / "1"
    kd.export.saved_model(trained_fusion, directory, class_names=list("abcdefghij"))
    return directory


def saved_model_cli(*arguments, cwd):
    result = subprocess.run(
        [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_show_lists_the_signatures_and_finds_the_file_sound(exported, tmp_path):
    shown = saved_model_cli("show", "--dir", exported, "--all", cwd=tmp_path)
    for name in (
        "serving_default",
        "serving_uint8",
        "serving_bytes",
        "member_probabilities",
        "class_names",
    ):
        assert f"signature_def['{name}']:" in shown
    assert "inputs['image_bytes'] tensor_info:\n        dtype: DT_STRING" in shown
    assert "dtype: DT_UINT8\n        shape: (-1, 8, 8, 1)" in shown


@pytest.mark.parametrize("signature", ["serving_default", "serving_bytes"])
def test_run_gives_what_keras_gives(exported, trained_fusion, digit_images, signature, tmp_path):
    images = digit_images.x_test[:20]
    name, given = "images", images.astype("float32")
    if signature == "serving_bytes":
        name, given = "image_bytes", np.array([png(image) for image in images])
    np.save(tmp_path / "given.npy", given)
    saved_model_cli(
        "run",
        *("--dir", exported, "--tag_set", "serve", "--signature_def", signature),
        *("--inputs", f"{name}=given.npy", "--outdir", "out"),
        cwd=tmp_path,
    )
    expected = trained_fusion.predict(images.astype("float32"), verbose=0)
    for key in ("probabilities", "weights"):
        found = np.load(tmp_path / "out" / f"{key}.npy")
        np.testing.assert_allclose(found, expected[key], rtol=0, atol=1e-5)
    labels = np.load(tmp_path / "out" / "label.npy", allow_pickle=True)
    best = expected["probabilities"].argmax(axis=1)
    assert [label.decode() for label in labels] == ["abcdefghij"[i] for i in best]


def png(image):
    written = io.BytesIO()
    PIL.Image.fromarray(image[..., 0]).save(written, "PNG")
    return written.getvalue()
