"""`keras-dpvit PROGRAM FLAGS...`: the programs of this package under one command."""

import ast
import importlib
import importlib.resources
import pkgutil
import sys
from collections.abc import Sequence

import trainers
from trainers import _cli


def programs() -> list[str]:
    """Names of the programs, each a module of `trainers` with `run(argv)`."""
    names = (module.name for module in pkgutil.iter_modules(trainers.__path__))
    return [name for name in names if not name.startswith("_") and name != "main"]


def help_text() -> str:
    """The programs, each with the first line of its docstring."""
    names = programs()
    width = max(map(len, names))
    lines = [f"  {name:{width}}  {_first_line(name)}" for name in names]
    return "\n".join(
        ["keras-dpvit PROGRAM FLAGS...", "", "Programs (each has its own --help):", *lines]
    )


def _first_line(name: str) -> str:
    """Read from the source: importing every program takes seconds."""
    source = importlib.resources.files(trainers).joinpath(f"{name}.py").read_text("utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program that the first argument names on the other arguments.

    Args:
        argv: arguments as typed (default: those of the command line).

    Raises:
        SystemExit: with the program's exit status, where it is not 0.
    """
    program, *arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if program in _cli.HELP:
        print(help_text())
    elif program in programs():
        importlib.import_module(f"trainers.{program}").run(arguments)
    else:
        _cli.fail(f"program must be one of {', '.join(programs())}, got {program!r}.")


if __name__ == "__main__":
    main()
