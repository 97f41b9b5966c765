"""The version of the package: read by `setup.py`, written into every export."""

__version__ = "0.1.0"
