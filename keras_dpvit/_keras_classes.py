"""Lets Keras load files with our classes, without loading Keras for those who do not use it."""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

# It imports every class that a file can hold.
_CLASSES = "keras_dpvit.loading"


def register() -> None:
    """Registers our classes if Keras is there; if it is not, as soon as it is imported."""
    keras = sys.modules.get("keras")
    if keras is None:
        if not any(isinstance(finder, _AfterKeras) for finder in sys.meta_path):
            sys.meta_path.insert(0, _AfterKeras())
    elif _CLASSES not in sys.modules and not _is_importing(keras) and not _some_of_ours_is():
        _import_classes(keras)


def _import_classes(keras: Any) -> None:
    if keras.config.backend() == "tensorflow":  # under another, training cannot be imported
        importlib.import_module(_CLASSES)


def _is_importing(module: ModuleType) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def _some_of_ours_is() -> bool:
    """True while a module of ours is being imported, which our classes may need whole."""
    ours = [m for name, m in list(sys.modules.items()) if name.startswith("keras_dpvit.")]
    return any(map(_is_importing, ours))


class _AfterKeras(importlib.abc.MetaPathFinder):
    """Finds Keras where the others do, and calls `register` once it is loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            _call_after(spec.loader)
        return spec


def _call_after(loader: Any) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        if not _some_of_ours_is():
            _import_classes(module)

    loader.exec_module = exec_module
