"""Federated averaging on Flower, without privacy, for whole clients or for single records."""

import lazy_loader as _lazy_loader

__getattr__, __dir__, __all__ = _lazy_loader.attach_stub(__name__, __file__)
