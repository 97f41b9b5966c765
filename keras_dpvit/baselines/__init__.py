"""The systems that the DP-ViT paper compares with, each on an engine that is kept by others."""

import lazy_loader as _lazy_loader

__getattr__, __dir__, __all__ = _lazy_loader.attach_stub(__name__, __file__)
