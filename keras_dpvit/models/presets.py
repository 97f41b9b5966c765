"""Named sizes of the DP-ViT, as constructor arguments of `DPViTBackbone`."""

import contextlib
import importlib.resources
import pathlib
from typing import Any

from keras_dpvit.errors import InputError


def _paper(num_heads: int, row: str) -> dict[str, Any]:
    """The paper's network with a number of heads: 64 channels a head, 12 blocks in 4 stages.

    Its tables fix width, depth and MLP ratio. Stage depths and pooling are a choice among several
    that fit the printed sizes (a window of 3 at the start of every stage, as HVT pools).
    """
    return {
        "description": f"224x224 colour images, the paper's {num_heads} heads ({row})",
        "num_classes": 1000,
        "arguments": {
            "image_shape": (224, 224, 3),
            "patch_size": 14,
            "hidden_dim": 64 * num_heads,
            "num_heads": num_heads,
            "stage_depths": (4, 3, 3, 2),
            "mlp_ratio": 4,
            "pool_size": 3,
            "pool_stride": 2,
            "pool_first_stage": True,
        },
    }


_FOLDER, _SUFFIX = "synthetic", ".npz"

# A small ViT over wavelet features, and a head that reads both.
_SCATTERING: dict[str, Any] = {
    "features": "scattering",
    "outputs": "all",
    "patch_size": 1,
    "hidden_dim": 96,
    "num_heads": 4,
    "stage_depths": (1, 1),
    "mlp_ratio": 2,
}
_WHITENED: dict[str, Any] = {"head": "whitened"}


def _scatter_64(side: int) -> dict[str, Any]:
    """The network for 64x64 colour images, for larger ones too: it averages them down first."""
    size = f"{side}x{side} colour images"
    arguments = {
        "image_shape": (side, side, 3),
        "scattering_luma": True,
        **_SCATTERING,
        "scattering_scales": 3,
    }
    if side != 64:
        size, arguments["resize_to"] = f"{size} at 64x64", (64, 64, 3)
    return {
        "description": f"{size}, wavelet features and a small ViT, linear head",
        "num_classes": 10,
        "arguments": arguments,
        "head": _WHITENED,
        "weights": "dpvit_scatter_64",
    }


PRESETS: dict[str, dict[str, Any]] = {
    "dpvit_tiny_8": {
        "description": "8x8 grey images (digits), patch 2: 16 tokens, then 8",
        "num_classes": 10,
        "arguments": {
            "image_shape": (8, 8, 1),
            "patch_size": 2,
            "hidden_dim": 32,
            "num_heads": 4,
            "stage_depths": (1, 1),
            "mlp_ratio": 2,
            "position_stddev": 0.7,
        },
    },
    "dpvit_small_28": {
        "description": "28x28 grey images (MNIST family), patch 7: 16 tokens, then 8",
        "num_classes": 10,
        "arguments": {
            "image_shape": (28, 28, 1),
            "patch_size": 7,
            "hidden_dim": 64,
            "num_heads": 4,
            "stage_depths": (1, 1),
            "mlp_ratio": 2,
            "position_stddev": 1.0,
        },
    },
    "dpvit_scatter_28": {
        "description": "28x28 grey images, wavelet features and a small ViT, linear head",
        "num_classes": 10,
        "arguments": {"image_shape": (28, 28, 1), **_SCATTERING},
        # Clothes mean the same in a mirror. Digits and letters do not.
        "head": {**_WHITENED, "mirrored": True},
    },
    "dpvit_scatter_32": {
        "description": "32x32 colour images, wavelet features and a small ViT, linear head",
        "num_classes": 10,
        "arguments": {"image_shape": (32, 32, 3), "scattering_luma": True, **_SCATTERING},
        "head": _WHITENED,
    },
    "dpvit_scatter_64": _scatter_64(64),
    "dpvit_scatter_96": _scatter_64(96),
    "dpvit_scatter_128": _scatter_64(128),
    "dpvit_scatter_224": _scatter_64(224),
    "dpvit_small_32": {
        "description": "32x32 colour images (CIFAR, image folders), patch 4: 64 tokens, then 32",
        "num_classes": 10,
        "arguments": {
            "image_shape": (32, 32, 3),
            "patch_size": 4,
            "hidden_dim": 64,
            "num_heads": 4,
            "stage_depths": (1, 1),
            "mlp_ratio": 2,
            "position_stddev": 0.7,
        },
    },
    "dpvit_paper_h4": _paper(4, "Table 3"),
    "dpvit_paper_h6": _paper(6, "Model 1 of Table 1"),
    "dpvit_paper_h8": _paper(8, "Table 3"),
    "dpvit_paper_h12": _paper(12, "Table 3"),
}

# Networks of `models.cnn` that `make_private` wraps, and the size of the images they are named for.
CNN_PRESETS: dict[str, tuple[int, int, int]] = {"cnn_32": (32, 32, 3)}


def preset_image_shape(name: str) -> tuple[int, int, int]:
    """(height, width, channels) of the images that a preset is made for, a `CNN_PRESETS` too.

    Raises:
        InputError: if there is no such preset; the message lists them.
    """
    if name in CNN_PRESETS:
        return CNN_PRESETS[name]
    if name not in PRESETS:
        there = ", ".join(sorted([*PRESETS, *CNN_PRESETS]))
        raise InputError(f"preset must be one of {there}, got {name!r}.")
    height, width, channels = PRESETS[name]["arguments"]["image_shape"]
    return height, width, channels


def preset_arguments(name: str, image_shape: tuple[int, int, int] | None = None) -> dict[str, Any]:
    """A fresh copy of a preset's arguments.

    Args:
        name: of the preset.
        image_shape: (height, width, channels) of the images, if it is not the preset's. A preset
            with a whitened head stays the network that it is, and resizes them.

    Raises:
        InputError: if there is no such preset; the message lists them.
    """
    if name not in PRESETS:
        raise InputError(f"preset must be one of {', '.join(sorted(PRESETS))}, got {name!r}.")
    arguments = dict(PRESETS[name]["arguments"])
    own = arguments["image_shape"]
    if image_shape is None or tuple(image_shape) == own:
        return arguments
    if PRESETS[name].get("head", {}).get("head") == "whitened":
        arguments = {"resize_to": own, **arguments}
    return {**arguments, "image_shape": image_shape}


def preset_head(name: str) -> dict[str, Any]:
    """A fresh copy of a preset's arguments of `DPViTClassifier`; empty for a pooled head."""
    if name in CNN_PRESETS:
        return {}
    preset_arguments(name)  # refuses a name that is none
    return dict(PRESETS[name].get("head", {}))


def num_whitened_blocks(name: str) -> int:
    """Blocks of a preset's whitened head, each of which has a mean; 0 for another head."""
    if preset_head(name).get("head") != "whitened":
        return 0
    arguments = preset_arguments(name)
    return 1 + len(arguments["stage_depths"]) if arguments.get("outputs") == "all" else 1


def preset_for(image_shape: tuple[int, int, int]) -> str:
    """The preset made for images of this shape; one that starts from random weights if there is.

    Raises:
        InputError: if there is none; the message lists the presets.
    """
    for name, preset in sorted(PRESETS.items(), key=lambda item: "head" in item[1]):
        if preset["arguments"]["image_shape"] == tuple(image_shape):
            return name
    sizes = "x".join(str(side) for side in image_shape)
    raise InputError(
        f"preset must be named for images of {sizes}: one of {', '.join(sorted(PRESETS))}."
    )


def presets_with_weights() -> tuple[str, ...]:
    """The presets for which weights from made-up images ship with the package."""
    folder = importlib.resources.files(__package__).joinpath(_FOLDER)
    files = {x.name for x in folder.iterdir()}
    return tuple(name for name in sorted(PRESETS) if _weights_file(name) in files)


def check_weights(preset: str, weights: str) -> None:
    """Refuses weights that there are not; reads nothing.

    Raises:
        InputError: if the preset has none of that name, or there is no such file.
    """
    if weights.endswith(_SUFFIX) and pathlib.Path(weights).is_file():
        return
    if weights != "synthetic" or preset not in presets_with_weights():
        raise InputError(
            f"weights must be 'synthetic', for one of {', '.join(presets_with_weights())}, or a "
            f"{_SUFFIX} file of `trainers.pretrain`; got {weights!r} for {preset!r}."
        )


def synthetic_file(preset: str) -> contextlib.AbstractContextManager[pathlib.Path]:
    """The file of a preset's shipped weights, while the context lasts."""
    place = importlib.resources.files(__package__).joinpath(_FOLDER, _weights_file(preset))
    return importlib.resources.as_file(place)


def _weights_file(preset: str) -> str:
    """Presets that are one network behind a resizing share its weights."""
    return str(PRESETS[preset].get("weights", preset)) + _SUFFIX
