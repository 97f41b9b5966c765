"""A folder of images and a key for it."""

import numpy as np
import PIL.Image
import pytest

from keras_dpvit import encryption
from keras_dpvit.datasets import image_files

SHAPE = (16, 24, 3)


@pytest.fixture(scope="session")
def key_file():
    return encryption.KeyFile(encryption.SecretKey.generate(), "vit_block", {"block_size": 8})


@pytest.fixture(scope="session")
def pixels():
    """Images by the stem of their path."""
    generator = np.random.default_rng(0)
    return {
        name: generator.integers(0, 256, SHAPE, dtype=np.uint8)
        for name in ("cat/1", "cat/2", "dog/1", "dog/deep/1", "top")
    }


@pytest.fixture
def source(tmp_path, pixels):
    """A folder with those images, and two files that are none."""
    root = tmp_path / "plain"
    for name, image in pixels.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image).save(root / f"{name}.png")
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.png").write_text("no image either")
    return root


@pytest.fixture(scope="session")
def shown():
    """Reads the images of these names from a folder."""

    def read(folder, names, suffix="png"):
        if suffix == "npy":
            return {name: np.load(folder / f"{name}.npy") for name in names}
        return {name: image_files.read_image(folder / f"{name}.{suffix}") for name in names}

    return read
