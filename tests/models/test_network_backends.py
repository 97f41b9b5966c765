"""Layers and models know Keras alone: without TensorFlow they give the same."""

import ast
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import keras_dpvit as kd

NOISE = {"attention_noise_stddev": 0.1, "norm_noise_stddev": 0.1, "seed": 3}
PACKAGE = pathlib.Path(kd.__file__).parent


@pytest.fixture(scope="module")
def on_both(variants, make_variant, tmp_path_factory):
    """Every variant's outputs by name, under this backend and under Keras' NumPy backend."""
    directory = tmp_path_factory.mktemp("models")
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype("float32")
    np.save(directory / "images.npy", images)
    here, models = {}, []
    for name in sorted(variants):
        model = make_variant(variants[name], **NOISE)
        (directory / f"{name}.json").write_text(json.dumps(model.get_config()))
        weights = {str(n): weight for n, weight in enumerate(model.get_weights())}
        np.savez(directory / f"{name}.npz", **weights)
        here[name] = {"logits": model(images).numpy(), **model.attention_maps(images)}
        models.append(model)
    here["fused"] = kd.FusedClassifier(models)(images)
    program = pathlib.Path(__file__).with_name("on_numpy.py")
    environment = {**os.environ, "KERAS_BACKEND": "numpy"}
    subprocess.run([sys.executable, program, directory], check=True, env=environment)
    return here, {name: np.load(directory / f"{name}.found.npz") for name in here}


def test_numpy_backend_gives_the_same(on_both):
    here, there = on_both
    for name, arrays in here.items():
        assert set(there[name].files) == set(arrays)
        for key, array in arrays.items():
            np.testing.assert_allclose(
                there[name][key], array, rtol=1e-4, atol=1e-4, err_msg=f"{name}: {key}"
            )


def imported(path):
    """Top-level names of all that a source file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return {name.partition(".")[0] for name in found}


@pytest.mark.parametrize("room", ["layers", "models"])
def test_no_backend_is_imported_by_name(room):
    files = sorted((PACKAGE / room).glob("*.py"))
    assert len(files) > 5
    for path in files:
        assert not imported(path) & {"tensorflow", "jax", "torch"}, path.name
