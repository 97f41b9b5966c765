"""`trainers.attack --attack=weight_matching` on saved models, as a user types it."""

import json

import keras
import keras_hub
import numpy as np
import PIL.Image
import pytest

import keras_dpvit as kd
from keras_dpvit.attacks import weight_matching

SELF_ATTENTION = {"first_attention": "self", "stage_depths": (1,)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two pictures, and models that everybody knows."""
    base = tmp_path_factory.mktemp("weights")
    (base / "photos").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    for i, image in enumerate(images):
        PIL.Image.fromarray(image).save(base / "photos" / f"{i}.png")
    keras.utils.set_random_seed(0)
    sizes = {"patch_size": 8, "hidden_dim": 8, "num_heads": 2}
    backbone = kd.DPViTBackbone((16, 24, 3), **sizes, **SELF_ATTENTION)
    kd.DPViTClassifier(backbone, 3).save(base / "ours.keras")
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(16, 24, 3), **sizes, num_layers=1, mlp_dim=8
    )
    keras_hub.models.ViTImageClassifier(backbone=backbone, num_classes=3).save(base / "hub.keras")
    return base


@pytest.mark.parametrize("model", ["ours", "hub"])
def test_a_public_model_gives_the_keys_away(run, folder, model):
    result = run(
        "attack",
        "--scheme=vit",
        "--attack=weight_matching",
        "--images=photos",
        "--image_size=16,24,3",
        "--block_size=8",
        f"--public_model={model}.keras",
        "--drift=0.1",
        "--keys=3",
        "--json",
        cwd=folder,
    )
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["exact_keys"], told["drift"], told["keys"]) == (1.0, 0.1, 3)
    assert told["ssim_uniform7"]["median"] == 1


def test_a_model_without_places_is_told():
    backbone = kd.DPViTBackbone((8, 8, 1), 4, 8, 2, position_table="none", **SELF_ATTENTION)
    with pytest.raises(kd.InputError, match=r"^model must have a table of absolute positions, got"):
        weight_matching.embedding_weights(kd.DPViTClassifier(backbone, 3))
