"""Named sizes of the DP-ViT, as constructor arguments of `DPViTBackbone`."""

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
        "description": "28x28 grey images, wavelet features to a linear branch and a small ViT",
        "num_classes": 10,
        "arguments": {
            "image_shape": (28, 28, 1),
            "features": "scattering",
            "conv_module": "parallel",
            "patch_size": 1,
            "hidden_dim": 64,
            "num_heads": 4,
            "stage_depths": (1, 1),
            "mlp_ratio": 2,
            "position_stddev": 0.7,
        },
    },
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


def preset_arguments(name: str) -> dict[str, Any]:
    """A fresh copy of a preset's arguments.

    Raises:
        InputError: if there is no such preset; the message lists them.
    """
    if name not in PRESETS:
        raise InputError(f"preset must be one of {', '.join(sorted(PRESETS))}, got {name!r}.")
    return dict(PRESETS[name]["arguments"])


def preset_for(image_shape: tuple[int, int, int]) -> str:
    """The preset made for images of this shape.

    Raises:
        InputError: if there is none; the message lists the presets.
    """
    for name, preset in PRESETS.items():
        if preset["arguments"]["image_shape"] == tuple(image_shape):
            return name
    sizes = "x".join(str(side) for side in image_shape)
    raise InputError(
        f"preset must be named for images of {sizes}: one of {', '.join(sorted(PRESETS))}."
    )
