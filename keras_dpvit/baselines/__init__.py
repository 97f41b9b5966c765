"""Systems that the DP-ViT is compared with, real ones on engines that others keep."""

import lazy_loader as _lazy_loader

__getattr__, __dir__, __all__ = _lazy_loader.attach_stub(__name__, __file__)
