"""The version of the package: read by pyproject.toml, written into every export."""

__version__ = "0.1.0"
