"""`benchmarks` is not installed: it is imported from where it lies."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
