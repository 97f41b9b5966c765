"""For tools that look for a setup.py: all settings are in pyproject.toml."""

import setuptools

setuptools.setup()
