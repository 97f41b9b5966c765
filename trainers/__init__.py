"""Command-line programs, each `python -m trainers.NAME --help`."""
