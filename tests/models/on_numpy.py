"""Runs classifiers on Keras' NumPy backend: a program, started by `test_network_backends`.

Its argument is a directory with `images.npy`, and for each model a `.json` of its config and an
`.npz` of its weights; it writes logits and attention maps beside them.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import json
import pathlib
import sys
import unittest.mock

import numpy as np


def convolve(images, kernel, strides, padding, **options):
    """`jax.lax.conv_general_dilated` as far as these models use it."""
    assert padding.lower() == "same"
    assert options["feature_group_count"] == 1
    sides, sizes = images.shape[1:3], kernel.shape[:2]
    reach = [
        max((-(-side // step) - 1) * step + size - side, 0)
        for side, step, size in zip(sides, strides, sizes, strict=True)
    ]
    padded = np.pad(images, [(0, 0), *((r // 2, r - r // 2) for r in reach), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, sizes, axis=(1, 2))
    windows = windows[:, :: strides[0], :: strides[1]]
    return np.einsum("brcxij,ijxf->brcf", windows, np.asarray(kernel))


class StandInForJax(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets `import jax` succeed where it is not installed.

    Keras' NumPy backend imports it for convolutions, Fourier transforms and the like; of these
    the models use convolutions alone.
    """

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jax", "jaxlib"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.__getattr__ = self.attribute
        if module.__name__ == "jax":
            module.lax = unittest.mock.MagicMock(conv_general_dilated=convolve)

    @staticmethod
    def attribute(name):
        if name.startswith("__"):
            raise AttributeError(name)
        return unittest.mock.MagicMock(name=name)


def main(directory):
    if importlib.util.find_spec("jax") is None:
        sys.meta_path.append(StandInForJax())
    import keras

    import keras_dpvit.layers  # noqa: F401
    from keras_dpvit.models.classifier import DPViTClassifier
    from keras_dpvit.models.fused import FusedClassifier

    assert keras.backend.backend() == "numpy"
    images = np.load(directory / "images.npy")
    models = []
    for path in sorted(directory.glob("*.json")):
        model = DPViTClassifier.from_config(json.loads(path.read_text()))
        weights = np.load(path.with_suffix(".npz"))
        model.set_weights([weights[str(n)] for n in range(len(weights.files))])
        found = {"logits": model(images), **model.attention_maps(images)}
        model(images, training=True)  # with noise
        np.savez(path.with_suffix(".found.npz"), **found)
        models.append(model)
    np.savez(directory / "fused.found.npz", **FusedClassifier(models)(images))
    loaded = sorted(name for name in sys.modules if name.partition(".")[0].startswith("tensorflow"))
    assert not loaded, loaded


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
