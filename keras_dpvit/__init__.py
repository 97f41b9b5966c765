"""keras_dpvit: vision transformers trained on private images with differential privacy.

Names are loaded when they are first used, so that planning a run does not wait for TensorFlow.
What there is, and where it lives, is listed in `__init__.pyi`.
"""

import warnings as _warnings

import lazy_loader as _lazy_loader

from keras_dpvit import _keras_classes
from keras_dpvit.version import __version__

_load, _names, __all__ = _lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *__all__]

_RENAMED = {"validate": "check_examples_independent"}  # kept for one release


def __getattr__(name: str) -> object:
    if name in _RENAMED:
        new = _RENAMED[name]
        _warnings.warn(
            f"keras_dpvit.{name} is now called keras_dpvit.{new}; the old name will be removed.",
            DeprecationWarning,
            stacklevel=2,
        )
        name = new
    found = _load(name)
    _keras_classes.register()  # it may have imported Keras
    return found


_keras_classes.register()


def __dir__() -> list[str]:
    return sorted(__all__)
