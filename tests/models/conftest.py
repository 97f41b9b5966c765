"""Small untrained models and images for them."""

import numpy as np
import pytest

import keras_dpvit as kd

# name: what makes a classifier for 8x8 grey images another than the plain one
VARIANTS = {
    "plain": {},
    "stem": {"conv_module": "stem", "conv_filters": 3},
    "depthwise": {"conv_module": "depthwise"},
    "parallel": {"conv_module": "parallel", "conv_filters": 3},
    "scattering": {"features": "scattering", "scattering_scales": 1, "patch_size": 1},
    "scattering_parallel": {
        "features": "scattering",
        "scattering_scales": 1,
        "patch_size": 1,
        "conv_module": "parallel",
    },
    "gates": {"gate": "independent", "head_offsets": "fill", "num_heads": 6, "hidden_dim": 12},
    "sequence": {"relative": "1d", "qk_scale": False, "renormalize": False},
    "grid": {"pool_axis": "2d", "pool_placement": "first_block", "pool_first_stage": True},
    "bare": {"position_table": "none", "input_scaling": "range"},
    "resized": {"resize_to": (4, 6, 3)},
    "head": {"final_norm": True, "head_hidden_dim": 5, "position_table": "input"},
}


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1)).astype("float32")


@pytest.fixture
def variant_images():
    """Images for the variants."""
    return np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype("float32")


@pytest.fixture(scope="session")
def variants():
    """All variants by name."""
    return VARIANTS


@pytest.fixture(params=VARIANTS)
def variant(request):
    """One variant after another."""
    return VARIANTS[request.param]


@pytest.fixture(scope="session")
def small_backbone():
    """Builds a backbone for 4x4 grey images; keyword arguments replace the defaults."""

    def make(**changes):
        arguments = {"image_shape": (4, 4, 1), "patch_size": 2, "hidden_dim": 8, "num_heads": 2}
        return kd.DPViTBackbone(**{**arguments, **changes})

    return make


@pytest.fixture(scope="session")
def small_classifier(small_backbone):
    """Builds a classifier of three classes over `small_backbone`."""

    def make(num_classes=3, name=None, final_norm=False, head_hidden_dim=None, **changes):
        return kd.DPViTClassifier(
            small_backbone(**changes), num_classes, final_norm, head_hidden_dim, name=name
        )

    return make


@pytest.fixture(scope="session")
def make_variant(small_classifier):
    """Builds a classifier of a variant, three blocks in two stages, its weights moved about.

    Equal arguments give equal weights: zeros and ones, as a model starts, hide mistakes.
    """

    def make(variant, **changes):
        arguments = {"image_shape": (8, 8, 1), "stage_depths": (2, 1), **variant, **changes}
        model = small_classifier(**arguments)
        generator = np.random.default_rng(0)
        for weight in model.trainable_variables:
            scale = 0.6 / np.sqrt(weight.shape[0] if len(weight.shape) > 1 else 1.0)
            initial = 1.0 if weight.name in ("gain", "gate") else 0.0
            weight.assign(initial + scale * generator.standard_normal(weight.shape))
        return model

    return make
