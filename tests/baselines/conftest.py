"""A trained pair as a file, and a process with Keras on JAX that looks at it."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="session")
def pair(trained_fusion, tmp_path_factory):
    """A .keras file of two members that private optimizers trained."""
    path = tmp_path_factory.mktemp("pair") / "model.keras"
    trained_fusion.save(path)
    return path


@pytest.fixture(scope="session")
def few_digits(digit_images):
    """Six images, which fill no two batches of four."""
    return digit_images.x_test[:6]


@pytest.fixture(scope="session")
def jax_side(pair, few_digits, tmp_path_factory):
    """See jax_side.py."""
    folder = tmp_path_factory.mktemp("jax_side")
    np.save(folder / "images.npy", few_digits)
    side = pathlib.Path(__file__).with_name("jax_side.py")
    result = subprocess.run(
        [sys.executable, side, pair, folder / "images.npy", folder],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=900,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])
